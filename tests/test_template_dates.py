"""Chat templates that ask for today's date: here the date is always the same one."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_gguf import write
from tiny_models import CHATML, TALK, TINY, chat_tokenizer, random_head, random_params, save
from transformers import AutoTokenizer

from hs2jax.models.hf import hub, tokenizer_files

# As Llama 3.2's and Mistral's templates do it.
LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}'
    '{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}'
    "{{- 'Today Date: ' + date_string + '\n' }}"
)
MISTRAL = "{#- Not strftime_now(x). -#}{%- set today = strftime_now( '%Y-%m-%d' ) %}{{- today }}"


@pytest.fixture(params=[(LLAMA, "Today Date: 26 Jul 2024\n"), (MISTRAL, "2024-07-26")])
def dated(request, tmp_path):
    """A folder with a language model whose chat template writes the date; what it should write."""
    start, text = request.param
    tokenizer = chat_tokenizer(("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<empty>"))
    tokenizer.chat_template = start + CHATML
    save(tmp_path / "in", tokenizer=tokenizer)
    return tmp_path, text


def test_texts_do_not_depend_on_the_day_here_nor_in_an_export(dated, caplog):
    folder, text = dated
    today = AutoTokenizer.from_pretrained(folder / "in").apply_chat_template(TALK, tokenize=False)
    assert not today.startswith(text)  # The trap is there.
    with caplog.at_level("INFO", "hs2jax"):
        model = hub.load(folder / "in")
    assert [r.getMessage() for r in caplog.records if "2024-07-26" in r.getMessage()]
    ours = model.tokenizer.apply_chat_template(TALK, tokenize=False)
    assert ours.startswith(text + "<|im_start|>user")

    out, head = folder / "out", {"head": random_head(TINY), "outputs": ["a", "b"]}
    save(out, model.config, model.params, tokenizer=model.tokenizer, **head)
    exported = AutoTokenizer.from_pretrained(out)
    assert exported.apply_chat_template(TALK, tokenize=False) == ours.rstrip()
    caplog.clear()
    with caplog.at_level("INFO", "hs2jax"):
        again = hub.load(out)
    assert again.tokenizer.chat_template == model.tokenizer.chat_template
    assert "2024-07-26" not in caplog.text  # Nothing is left to be replaced.


def test_the_template_of_a_gguf_file_too(tmp_path):
    change = {"tokenizer.chat_template": LLAMA + CHATML}
    path = write(tmp_path / "x.gguf", TINY, random_params(TINY), change=change)
    text = hub.load(path).tokenizer.apply_chat_template(TALK, tokenize=False)
    assert text.startswith("Today Date: 26 Jul 2024\n<|im_start|>")


@given(
    st.lists(st.sampled_from(["%d", "%b", "%Y", "%B", "%A", "%-d", " ", "-", ", "]), max_size=6),
    st.sampled_from("'\""),
)
def test_a_call_becomes_the_text_that_it_gives_on_that_day(parts, quote):
    form = "".join(parts)
    fixed = tokenizer_files.with_fixed_dates(f"{{{{ strftime_now({quote}{form}{quote}) }}}}x")
    assert fixed == f'{{{{ "{datetime.date(2024, 7, 26).strftime(form)}" }}}}x'


HARMLESS = ["{% if strftime_now is undefined %}", "{# strftime_now(x)\n #}", "('%Y')", "strf", "\n"]


@given(st.lists(st.sampled_from(HARMLESS)).map("".join))
def test_other_templates_stay_as_they_are(text):
    assert tokenizer_files.with_fixed_dates(text) == text


@pytest.mark.parametrize("of", ["(form)", "('%Y' + x)", "", r"('\x25Y')"])
def test_what_cannot_be_replaced_is_refused_by_name(of, tmp_path):
    use = f"strftime_now{of}"
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = {"default": CHATML, "other": f"{{{{ {use} }}}}"}
    save(tmp_path, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="depends on the day and is not supported") as error:
        hub.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert use.split("\\")[0] in str(error.value)
