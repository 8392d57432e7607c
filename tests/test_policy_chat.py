"""What a policy reads: conditions, its own tokens as they are, and which of a prompt it learns."""

import numpy as np
import pytest
import tiny
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chat import CHATML, LLAMA, TEXTS, ask, groups, wholes

from hs2jax.data import chat, control_tokens, conversations, loader, packing, templates
from hs2jax.data.groups import Group
from hs2jax.data.packing import Shape
from hs2jax.data.record import Record

MARKERS = ("<extra_id_0>", "<extra_id_1>", "<extra_id_2>")
CONDITION = {"verbosity": 2, "helpfulness": 4}


def with_steerlm(tokenizer):
    tokenizer.chat_template = templates.STEERLM
    return tokenizer


# NeMo's form where the markers are tokens, and where a tokenizer with a BOS cuts them into pieces.
NEMO = with_steerlm(tiny_models.chat_tokenizer(("<unk>", "<s>", "</s>", *MARKERS)))
NEMO_IN_PIECES = with_steerlm(tiny.bos_tokenizer())
KINDS = {
    "chatml": (CHATML, "end_of_turn", "<|im_start|>assistant\n", "<|im_end|>"),
    "llama": (LLAMA, "end_of_turn", "<|header|>assistant<|header_end|>\n\n", "<|eot|>"),
    "steerlm": (NEMO, "last", "<extra_id_1>Assistant\n", "\n<extra_id_1>"),
    "pieces": (NEMO_IN_PIECES, "last", "<extra_id_1>Assistant\n", "\n<extra_id_1>"),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
# Llama's template trims contents.
TRIMMED = TEXTS.map(str.strip)


def line(tokenizer, condition=CONDITION):
    return templates.condition_text(tokenizer, condition)


def conditioned(group, condition=CONDITION, tokens=()):
    return Group(group.prompt, group.responses, condition=condition, tokens=tokens)


def talk(*contents, system=None):
    """A prompt of several turns."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system else []) + turns


def learned(tokenizer, encoded):
    """The texts of the runs of learned tokens in a prompt."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], encoded.loss_mask, [0]])))
    return [tokenizer.decode(encoded.prompt[a:b]) for a, b in edges.reshape(-1, 2)]


def test_a_condition_is_one_line_of_values_in_nemos_order():
    shuffled = {"zeal": 1, "verbosity": 2, "humor": 0, "brevity": 3, "helpfulness": 4, "quality": 4}
    text = "quality:4,humor:0,helpfulness:4,verbosity:2,brevity:3,zeal:1\n"
    assert line(CHATML, shuffled) == text
    assert line(NEMO, shuffled) == "<extra_id_2>" + text
    assert line(CHATML, {}) == line(NEMO, {}) == ""


def test_the_steerlm_template_is_nemos():
    start = f"<extra_id_0>System\n{templates.SYSTEM}\n<extra_id_1>User\nHi\n<extra_id_1>Assistant\n"
    assert templates.choose("steerlm") == (templates.STEERLM, "last")
    (encoded,) = chat.encode(NEMO, [conditioned(ask("Yes.", prompt="Hi"))], "last", policy=True)
    label = "<extra_id_2>helpfulness:4,verbosity:2\n"
    assert NEMO.decode(encoded.prompt) == start + label
    assert NEMO.decode(encoded.responses[0]) == "Yes.\n<extra_id_1>"


@EVERY_KIND
@settings(max_examples=25)
@given(
    group=groups(),
    responses=st.lists(TRIMMED, min_size=1, max_size=3),
    condition=st.sampled_from([{}, CONDITION]),
)
def test_a_condition_stands_between_header_and_response(kind, group, responses, condition):
    tokenizer, read, header, end = KINDS[kind]
    group = conditioned(Group(group.prompt, tuple(responses)), condition)
    (encoded,) = chat.encode(tokenizer, [group], read, policy=True)
    asked = chat.render(tokenizer, group.prompt, "", add_generation_prompt=True)
    assert asked.endswith(header)
    asked += line(tokenizer, condition)
    expected = [asked + control_tokens.shield(tokenizer, r) + end for r in responses]
    assert wholes(encoded) == chat.tokenize(tokenizer, expected)
    # The same as the template's own text of an assistant's turn that starts with the line, if that
    # is text, and without a condition what a reward model reads.
    starts = line(tokenizer, condition)
    if starts.startswith(MARKERS):
        return
    inside = Group(group.prompt, tuple(starts + response for response in responses))
    (plain,) = chat.encode(tokenizer, [inside], read)
    assert wholes(encoded) == wholes(plain)
    assert (encoded.loss_mask.shape, plain.loss_mask) == (encoded.prompt.shape, None)
    if condition:
        assert not encoded.loss_mask.any()
    else:
        assert encoded.prompt.tolist() == plain.prompt.tolist()


@EVERY_KIND
@settings(max_examples=25)
@given(group=groups(), condition=st.sampled_from([{}, CONDITION]))
def test_sampled_tokens_and_texts_follow_the_prompt_to_sample_from(kind, group, condition):
    tokenizer, read, *_ = KINDS[kind]
    tokens = tuple((5 + i, 7, 7) for i in range(len(group.responses)))
    sampled = conditioned(group, condition, tokens)
    (encoded,) = chat.encode(tokenizer, [sampled], read, policy=True)
    assert [ids.tolist() for ids in encoded.responses] == [list(ids) for ids in tokens]
    (ids,) = chat.prompt_ids(tokenizer, [sampled])
    assert ids.dtype == encoded.prompt.dtype == encoded.responses[0].dtype == np.int32
    assert encoded.prompt.tolist() == ids.tolist()
    assert len(encoded.loss_mask) == len(ids)

    (said,) = chat.encode(
        tokenizer, [conditioned(Group(group.prompt, ("Paris.",)), condition)], read, policy=True
    )
    if kind == "llama" and not condition:  # This tokenizer parts two line ends before a word.
        assert tokenizer.decode(ids[-1:]) == tokenizer.decode(said.responses[0][:2]) == "\n\n"
        ids = ids[:-1]
    assert said.prompt.tolist() == ids.tolist()


@EVERY_KIND
def test_the_end_of_a_turn_ends_every_response(kind):
    tokenizer, read, _, end = KINDS[kind]
    ids = chat.end_of_turn(tokenizer, read)
    assert tokenizer.decode(ids) == end.strip()
    assert len(ids) == 1 or kind == "pieces"
    (encoded,) = chat.encode(tokenizer, [ask("Paris.", "1\n", "Why? ")], read, policy=True)
    assert all(tuple(response[-len(ids) :]) == ids for response in encoded.responses)


# Texts that hold no piece of a template, so that turns can be told apart by decoding.
WORDS = st.sampled_from(["Paris.", "é😀", "One.\n\nTwo.", "Why?", "(a, b)", "7"])


@EVERY_KIND
@settings(max_examples=25)
@given(
    contents=st.lists(WORDS, min_size=1, max_size=7), system=st.sampled_from([None, "Be brief."])
)
def test_earlier_answers_are_learned_with_their_ends(kind, contents, system):
    tokenizer, read, _, end = KINDS[kind]
    contents = contents if len(contents) % 2 else contents[1:] or ["Hi"]
    contents = contents if len(contents) % 2 else [*contents, "Hi"]
    group = Group(tuple(talk(*contents, system=system)), ("Lyon.", "Nice."))
    record = Record()
    (encoded,) = chat.encode(tokenizer, [group], read, policy=True, record=record)
    # What belongs to the header too is the answer's: Llama's line ends, parted before a word.
    between = "\n\n" if kind == "llama" else ""
    assert learned(tokenizer, encoded) == [between + text + end for text in contents[1::2]]
    assert record == Record()
    (asked,) = chat.encode(tokenizer, [conditioned(group)], read, policy=True)
    assert not asked.loss_mask.any()


def test_an_answer_that_the_template_rewrites_is_counted_and_not_learned():
    tokenizer = tiny.tokenizer()
    # As templates of reasoning models: thoughts are kept in the last turn alone.
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('=')[-1] }}"
        "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    group = Group(tuple(talk("6 * 7?", "6 + 36 = 42", "And 8?", "8", "Go on.")), ("9",))
    record = Record()
    (encoded,) = chat.encode(tokenizer, [group], policy=True, record=record)
    # What comes before the second answer is rewritten too, but as it is whenever that is sampled.
    assert learned(tokenizer, encoded) == ["8<|im_end|>"]
    assert record == Record(unlearned_turns=1, unwritten=1)


def test_an_answer_without_an_end_of_its_own_is_learned_to_its_line_end():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    group = Group(tuple(talk("Hi", "Yes?", "Bye")), ("Bye.",))
    (encoded,) = chat.encode(tokenizer, [group], policy=True)
    assert learned(tokenizer, encoded) == ["Yes?\n"]
    assert chat.end_of_turn(tokenizer) == (tokenizer.eos_token_id,)


def test_a_template_without_a_place_for_a_condition_is_an_error():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = tiny.CHATML.replace("assistant\n", "assistant\n<think>\n")
    group = ask("Paris.")
    chat.encode(tokenizer, [group], policy=True)
    asked = Group(group.prompt, group.responses, condition=CONDITION, source="rows.jsonl:7")
    with pytest.raises(ValueError, match=r"rows\.jsonl:7: .*no place for the condition"):
        chat.encode(tokenizer, [asked], policy=True)
    record = Record()
    assert chat.encode(tokenizer, [asked], skipped=record, policy=True) == [None]
    assert record.refused == 1


def test_a_header_that_ends_within_a_space_keeps_the_templates_space():
    tokenizer = tiny.tokenizer()
    # As Llama 2's: nothing asks for an answer, and a space stands before it.
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} <|im_end|>{% endif %}{% endfor %}"
    )
    (encoded,) = chat.encode(tokenizer, [conditioned(ask("Paris.", prompt="Hi"))], policy=True)
    assert tokenizer.decode(encoded.prompt) == "[INST] Hi [/INST]helpfulness:4,verbosity:2\n"
    assert tokenizer.decode(encoded.responses[0]) == " Paris. <|im_end|>"


def test_tokens_of_another_tokenizer_are_an_error():
    prompt = ({"role": "user", "content": "Hi"},)
    group = Group(prompt, ("Yes.",), tokens=((3, len(CHATML)),), source="samples.jsonl:2")
    with pytest.raises(ValueError, match=r"samples\.jsonl:2: its tokens are not of this tokenizer"):
        chat.encode(CHATML, [group], policy=True)
    assert chat.encode(CHATML, [group])[0] is not None  # A reward model does not look at them.


@EVERY_KIND
def test_reward_models_and_judges_see_neither_condition_nor_tokens(kind):
    tokenizer, read, *_ = KINDS[kind]
    plain = Group(tuple(talk("Hi", "Yes?", "Bye")), ("Bye.", "Paris."))
    sampled = conditioned(plain, tokens=((1, 2), (3,)))
    expected, found = (chat.encode(tokenizer, [group], read)[0] for group in (plain, sampled))
    assert wholes(found) == wholes(expected)
    assert found.loss_mask is None
    parts = [conversations.encode(tokenizer, [g], longest=500, read=read) for g in (plain, sampled)]
    assert wholes(parts[0][0][0].encoded) == wholes(parts[1][0][0].encoded) == wholes(expected)


def prepare(several, **options):
    settings = {"attributes": (), "row_length": 200, "max_tokens": 200} | options
    return loader.prepare(several, CHATML, **settings)


MANY = [
    Group(tuple(talk("Hi", "Yes?", "Bye")), ("Bye.", "Paris.")),
    ask("7", "The answer is 42."),
    conditioned(Group(tuple(talk("Hi", "Yes?", "Bye")), ("One.",))),
]


@pytest.mark.parametrize("layout", packing.LAYOUTS)
def test_rows_say_which_tokens_are_learned(layout):
    examples = prepare(MANY, policy=True, layout=layout).examples
    rows = [[example] for example in examples] if layout == "padded" else [examples, []]
    batch = packing.lay(rows, Shape(400, 5, 1, 0), layout)
    assert batch["loss_mask"].dtype == bool
    response = batch["branch_ids"] > 0
    assert batch["loss_mask"][response].all()
    assert not batch["loss_mask"][batch["segment_ids"] == 0].any()
    assert (batch["predictor_index"][batch["loss_mask"]] >= 0).all()
    # Each answer of a prompt once, however often the layout repeats the prompt.
    earlier = batch["tokens"][batch["loss_mask"] & ~response]
    assert CHATML.decode(earlier) == "Yes?<|im_end|>"
    learned = batch["tokens"][batch["loss_mask"]]
    own = [ids for example in examples for ids in example.encoded.responses]
    assert len(learned) == len(earlier) + sum(map(len, own))
    plain = [[example] for example in prepare(MANY, layout=layout).examples]
    assert "loss_mask" not in packing.lay(plain, Shape(400, 5, 1, 0), layout)


def test_a_cut_prompt_keeps_what_is_learned_of_the_rest():
    whole = prepare(MANY[:1], policy=True).examples[0].encoded
    longest = packing.cost(whole, "padded")
    cut = prepare(MANY[:1], policy=True, max_tokens=longest - 5, too_long="truncate").examples[0]
    assert cut.cut == 5
    start = 1 if whole.prompt[0] == CHATML.bos_token_id else 0
    assert (
        cut.encoded.loss_mask.tolist()
        == np.delete(whole.loss_mask, slice(start, start + 5)).tolist()
    )
    assert cut.encoded.loss_mask.shape == cut.encoded.prompt.shape
