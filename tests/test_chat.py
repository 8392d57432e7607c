"""Conversations become the ids that the tokenizer's own template gives, and none is lost."""

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from hs2jax.data import chat
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.models.hf import tokenizer_files

CHATML, LLAMA = tiny.tokenizer(), tiny.bos_tokenizer()
KINDS = pytest.mark.parametrize("tokenizer", [CHATML, LLAMA], ids=["chatml", "llama"])
END_OF_TURN = {id(CHATML): "<|im_end|>", id(LLAMA): "<|eot|>"}

# Texts with what could upset a template: special tokens' texts, white space, other scripts.
PIECES = st.sampled_from(
    [*"\n \té😀", "<|im_end|>", "<|im_start|>", "<|begin|>", "<|eot|>", "<|end|>", "Paris"]
)
TEXTS = (
    st.lists(PIECES | st.text(max_size=8), min_size=1, max_size=5).map("".join).filter(str.strip)
)


@st.composite
def groups(draw):
    turns = draw(st.lists(TEXTS, min_size=1, max_size=4).filter(lambda t: len(t) % 2))
    roles = ("user", "assistant")
    prompt = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    if draw(st.booleans()):
        prompt.insert(0, {"role": "system", "content": draw(TEXTS)})
    return Group(tuple(prompt), tuple(draw(st.lists(TEXTS, min_size=1, max_size=3))))


def ask(*responses, prompt="What is the capital of France?"):
    return Group(({"role": "user", "content": prompt},), responses)


def wholes(encoded):
    return [np.concatenate([encoded.prompt, response]).tolist() for response in encoded.responses]


def by_the_template(tokenizer, turns):
    """The ids of a whole conversation up to the end of its last turn, by transformers alone."""
    ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN[id(tokenizer)])
    return ids[: len(ids) - ids[::-1].index(end)]


@KINDS
@given(group=groups())
def test_prompt_and_response_are_the_whole_conversation_and_the_prompt_is_shared(tokenizer, group):
    (encoded,) = chat.encode(tokenizer, [group])
    for whole, response in zip(wholes(encoded), group.responses, strict=True):
        turns = [*group.prompt, {"role": "assistant", "content": response}]
        ids = by_the_template(tokenizer, turns)
        assert tokenizer.decode(whole) == tokenizer.decode(ids)
        if not any(is_broken(turn["content"]) for turn in turns):
            assert whole == ids  # With one BOS, although LLAMA and its template add one.
    assert all(response.size and response.dtype == np.int32 for response in encoded.responses)
    (header,) = chat.prompt_ids(tokenizer, [group])
    assert encoded.prompt.tolist() == header[: len(encoded.prompt)].tolist()
    # These two tokenizers merge nothing across the special tokens and lines of a header, except
    # line ends with a response that starts with one.
    assert len(header) - len(encoded.prompt) <= 2


def is_broken(text):
    """Whether a text may hold what is a control token in the template's own text."""
    return "<|" in text


def test_bos_is_added_where_only_the_tokenizer_does():
    tokenizer = tiny.bos_tokenizer()
    tokenizer.chat_template = tiny.LLAMA.replace("{{ bos_token }}", "")
    assert wholes(chat.encode(tokenizer, [ask("Paris.")])[0]) == wholes(
        chat.encode(LLAMA, [ask("Paris.")])[0]
    )


def test_eos_is_added_where_the_template_ends_no_turn():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    (encoded,) = chat.encode(tokenizer, [ask("Paris. \n")])
    (whole,) = wholes(encoded)
    assert whole[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(whole[:-1]).endswith("Paris. \n\n")


def test_a_token_across_the_border_of_prompt_and_response_is_the_responses():
    (encoded,) = chat.encode(CHATML, [ask("\n\nParis.", "Paris.")])
    assert CHATML.decode(encoded.prompt).endswith("assistant")
    assert CHATML.decode(encoded.responses[0]) == "\n\n\nParis.<|im_end|>"
    assert CHATML.decode(encoded.responses[0][:1]) == "\n\n"
    assert CHATML.decode(encoded.responses[1]) == "\nParis.<|im_end|>"


def test_equal_responses_do_not_become_part_of_the_prompt():
    (encoded,) = chat.encode(CHATML, [ask("Paris.", "Paris.")])
    assert CHATML.decode(encoded.prompt).endswith("<|im_start|>assistant\n")
    assert [CHATML.decode(r) for r in encoded.responses] == ["Paris.<|im_end|>"] * 2


@pytest.mark.parametrize("read", chat.READS)
def test_a_tokenizer_without_eos_is_named_where_one_has_to_be_added(read):
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token, tokenizer.name_or_path = None, "models/nameless"
    chat.encode(tokenizer, [ask("Paris.")], read)  # ChatML ends each turn by itself.
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    if read == "last":
        chat.encode(tokenizer, [ask("Paris.")], read)
        return
    with pytest.raises(ValueError, match="'models/nameless' has no EOS"):
        chat.encode(tokenizer, [ask("Paris.")], read)


@given(group=groups(), excess=st.integers(0, 400))
def test_a_prompt_is_cut_from_the_left_behind_its_bos(group, excess):
    (encoded,) = chat.encode(LLAMA, [group])
    cut = chat.cut_prompt(encoded, excess, LLAMA.bos_token_id)
    if excess >= len(encoded.prompt):
        assert cut is None
        return
    expected = [LLAMA.bos_token_id, *encoded.prompt[1 + excess :]]
    assert cut.prompt.tolist() == expected
    assert cut.responses is encoded.responses


def test_a_prompt_without_bos_can_be_cut_away_whole():
    (encoded,) = chat.encode(CHATML, [ask("Paris.")])
    size = len(encoded.prompt)
    assert chat.cut_prompt(encoded, 3, None).prompt.tolist() == encoded.prompt[3:].tolist()
    assert len(chat.cut_prompt(encoded, size, None).prompt) == 0
    assert chat.cut_prompt(encoded, size + 1, None) is None


@pytest.mark.parametrize(
    ("tokenizer", "template"),
    [
        (tiny.tokenizer(), tiny.CHATML),
        (tiny.bos_tokenizer(), tiny.LLAMA),
        (tiny.bos_tokenizer(), tiny.LLAMA.removeprefix("{{ bos_token }}")),
        (tiny.tokenizer(), "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"),
        (tiny.bos_tokenizer(), "{% for m in messages %}{{ m.content }} {% endfor %}"),
    ],
    ids=["chatml", "llama", "no bos", "no end of turn", "neither"],
)
@pytest.mark.parametrize("response", ["Paris.", "Two\n\nlines", "An end. "])
@pytest.mark.parametrize("read", chat.READS)
def test_the_template_of_an_export_gives_our_ids(tokenizer, template, response, read):
    tokenizer.chat_template = template
    group = ask(response)
    (encoded,) = chat.encode(tokenizer, [group], read)
    (ours,) = wholes(encoded)
    exported = tokenizer_files.prepare(tokenizer, (), len(tokenizer), read)
    turns = [*group.prompt, {"role": "assistant", "content": response}]
    assert exported.apply_chat_template(turns, tokenize=True, return_dict=False) == ours
    assert exported.pad_token_id != ours[-1]


# What a template writes of a turn's text, a prompt and a response, and whose text does not survive.
SYSTEM = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})
TALK = tuple(tiny.talk("One?", "<think>Hm.</think> Two.")) + SYSTEM[1:]
CHANGED = [
    ("{{ m.content }}", SYSTEM, "Paris.", ""),
    ("{{ m.content | trim }}", TALK, " Paris.\n\n<|im_end|>", ""),
    ("{{ m.content.split() | join(' ') }}", SYSTEM, "In\n\nParis.", ""),
    ("{{ m.content if m.role != 'system' }}", SYSTEM, "Paris.", "system"),
    ("{{ m.content.split('</think>')[-1] }}", TALK, "Paris.", "assistant"),
    ("{{ m.content.split('</think>')[-1] }}", SYSTEM, "<think>Hm.</think>Paris.", "assistant"),
    ("{{ m.content if loop.revindex < 3 }}", TALK, "Paris.", "user"),
    ("{{ m.content[:20] }}", SYSTEM, "The capital of France is Paris.", "assistant"),
    ("{{ m.content | e }}", SYSTEM, "1 < 2", "assistant"),
]


@pytest.mark.parametrize(("written", "prompt", "response", "role"), CHANGED)
def test_a_text_that_the_template_leaves_out_or_changes_is_told_once_and_counted(
    written, prompt, response, role, caplog
):
    tokenizer, record = tiny.tokenizer(), Record()
    chat.TOLD.clear()
    turn = "<|im_start|>{{ m.role }}\n" + written + "<|im_end|>\n"
    tokenizer.chat_template = "{% for m in messages %}" + turn + "{% endfor %}"
    group = Group(prompt, (response, "Rome."), source="rows.jsonl:1")
    chat.encode(tokenizer, [group, group], record=record)
    assert record.unwritten == 2 * bool(role)
    told = f"rows.jsonl:1: the chat template leaves out a text of the {role},"
    assert caplog.text.count(told) == bool(role)
    assert ("changed by the chat template 2" in str(record)) == bool(role)
