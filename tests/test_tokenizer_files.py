"""A tokenizer and its chat template are looked at before weights are, wherever they are written."""

import json

import pytest
import tiny
import tiny_models
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer

from hs2jax.data import chat
from hs2jax.data.groups import Group
from hs2jax.judging.judge import Judge
from hs2jax.language_model import LanguageModel
from hs2jax.models.hf import tokenizer_files
from hs2jax.reward_model import RewardModel

JINJA, SETTINGS, JSON = tokenizer_files.TEMPLATES
OTHER = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
LOADS = {
    "reward": lambda path: RewardModel.load(path, outputs=("a",)),
    "language": LanguageModel.load,
    "judge": Judge.load,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_models.save(folder, tokenizer=tiny_models.chat_tokenizer())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(folder, saved, templates):
    """A model's folder with chat templates, by file."""
    folder.mkdir(exist_ok=True)
    for name, content in saved.items():
        (folder / name).write_bytes(content)
    (folder / JINJA).unlink(missing_ok=True)
    settings = json.loads(saved[SETTINGS])
    settings.pop("chat_template", None)
    for name, template in templates.items():
        if name == JINJA:
            (folder / name).write_text(template, encoding="utf-8")
        elif name == SETTINGS:
            settings["chat_template"] = template
        else:
            (folder / name).write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return folder


DEFAULT = [{"name": "default", "template": tiny.CHATML}, {"name": "tool_use", "template": OTHER}]


@pytest.mark.parametrize(
    ("templates", "taken", "said"),
    [
        ({JINJA: tiny.CHATML}, tiny.CHATML, ""),
        ({SETTINGS: tiny.CHATML}, tiny.CHATML, ""),
        ({JSON: tiny.CHATML}, tiny.CHATML, f"the chat template is that of {JSON}"),
        ({JSON: DEFAULT}, tiny.CHATML, f"the chat template is that of {JSON}"),
        ({SETTINGS: DEFAULT}, tiny.CHATML, ""),
        ({JINJA: tiny.CHATML, SETTINGS: tiny.CHATML, JSON: tiny.CHATML}, tiny.CHATML, ""),
        ({JINJA: OTHER, SETTINGS: tiny.CHATML}, OTHER, f"of {JINJA} is taken, not {SETTINGS}'s"),
        ({SETTINGS: OTHER, JSON: tiny.CHATML}, OTHER, f"of {SETTINGS} is taken, not {JSON}'s"),
        ({JINJA: OTHER, JSON: tiny.CHATML}, OTHER, f"of {JINJA} is taken, not {JSON}'s"),
        ({JSON: OTHER, SETTINGS: ""}, OTHER, f"the chat template is that of {JSON}"),
    ],
)
def test_a_template_is_found_wherever_it_is(tmp_path, saved, caplog, templates, taken, said):
    with caplog.at_level("INFO"):
        tokenizer = tokenizer_files.load(write(tmp_path, saved, templates))
    assert tokenizer.get_chat_template() == taken
    assert [said in text for text in caplog.messages] == [True] * bool(said)


LATER = "{% if messages[-1].role == 'user' %}" + tiny.CHATML + "{% endif %}"
PARTS = tiny.CHATML.replace(
    "{{ message['content'] }}",
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}",
)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "no chat template .*chat_template.json"),
        ("", "no chat template"),
        ("{{ messages", "the chat template refuses any conversation: "),
        ("{{ raise_exception('tools only') }}", "refuses any conversation: tools only"),
        (tiny.CHATML.replace("'content'", "'text'"), "leaves out what the user says"),
        (tiny.CHATML.replace("['content']", "['content'][:5]"), "leaves out what the user says"),
        ("{{ messages[0].content }}", "leaves out what the assistant says"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "the assistant"),
        ("{{ messages[-1].content }}", "leaves out what the user says"),
        (LATER, "leaves out what the user says.*becomes ''"),
        (PARTS, "leaves out what the user says"),
        (tiny.CHATML.replace("<|im_end|>", "").replace("<|im_start|>", ""), "has no EOS"),
        (tiny.CHATML, "split_special_tokens is true"),
    ],
)
@pytest.mark.parametrize("load", LOADS)
def test_what_cannot_become_tokens_is_refused_before_weights_are_read(
    tmp_path, saved, monkeypatch, load, template, said
):
    setting = {"eos_token": None} if "EOS" in said else {"split_special_tokens": "split" in said}
    settings = json.loads(saved[SETTINGS]) | setting
    saved = saved | {SETTINGS: json.dumps(settings).encode()}
    read = []
    monkeypatch.setattr("hs2jax.models.hf.hub.assemble", lambda *args: read.append(args))
    folder = write(tmp_path / "model", saved, {} if template is None else {JINJA: template})
    with pytest.raises(ValueError, match=said) as error:
        LOADS[load](folder)
    assert str(folder) in str(error.value)
    assert not read


TEKKEN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"  # As it was converted.
FLAG = "fix_mistral_regex"


@pytest.mark.parametrize(
    ("kind", "pattern", "fixed", "pieces", "told"),
    [
        ("mistral", TEKKEN, None, ["123", "45"], True),
        ("mistral3", TEKKEN, None, ["123", "45"], True),
        ("mistral", TEKKEN, False, ["123", "45"], False),
        ("mistral", TEKKEN, True, list("12345"), False),
        ("mistral", TEKKEN.replace("{1,3}", ""), None, list("12345"), False),
        ("llama", TEKKEN, None, ["123", "45"], False),
    ],
)
def test_numbers_that_mistral_splits_otherwise_are_told(
    tmp_path, caplog, kind, pattern, fixed, pieces, told
):
    words = ["[UNK]", *(f"unused{i}" for i in range(100_000)), *"12345", "123", "45"]
    vocabulary = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    parts = [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False)]
    vocabulary.pre_tokenizer = pre_tokenizers.Sequence(parts)
    vocabulary.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / SETTINGS).write_text(json.dumps({} if fixed is None else {FLAG: fixed}))
    tokenizer = tokenizer_files.load(tmp_path)
    assert tokenizer.tokenize("12345") == pieces
    assert [FLAG in text for text in caplog.messages] == [True] * told


def test_a_tokenizer_that_drops_merges_by_chance_drops_none(tmp_path, caplog):
    tiny.tokenizer().save_pretrained(tmp_path)
    (dropping := json.loads((tmp_path / "tokenizer.json").read_text()))["model"]["dropout"] = 0.5
    (tmp_path / "tokenizer.json").write_text(json.dumps(dropping))
    text = "The capital of France is Paris."
    assert tokenizer_files.load(tmp_path)(text)["input_ids"] == tiny.tokenizer()(text)["input_ids"]
    assert "dropout 0.5 is left out" in caplog.text


def test_a_tokenizer_in_python_is_read_and_takes_no_control_token(tmp_path):
    own = ByT5Tokenizer(extra_ids=0)
    own.chat_template = tiny.CHATML
    own.save_pretrained(tmp_path)
    tokenizer, talk = tokenizer_files.load(tmp_path), tiny.talk("Is it?", "Wörds.")
    assert not tokenizer.is_fast
    asked, said = tuple(talk[:1]), talk[1]["content"]
    (found,) = chat.encode(tokenizer, [Group(asked, (said,))])
    whole = own.apply_chat_template(talk, tokenize=False)
    ids = [*found.prompt, *found.responses[0]]
    assert own.decode(ids[:-1]) == whole
    assert ids[-1] == own.eos_token_id  # As the template's end of a turn is ordinary text.
    with pytest.raises(ValueError, match="holds '</s>', which this tokenizer can only read as a c"):
        chat.encode(tokenizer, [Group(asked, ("Yes.</s>",))])
