"""Checkpoints in the shapes that others leave: wrapped, sharded, with heads of other names, with an
adapter beside a base. Read to the same scores, or refused by what they are."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from test_reward_checkpoints import foreign, rewards

from hs2jax.models.hf import adapters, checkpoint_files, fingerprint, hub
from hs2jax.reward_model import RewardModel

WEIGHTS = "model.safetensors"
ROWS = np.ones((2, 32), np.float32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A classifier's folder, and its scores."""
    folder = foreign(tmp_path_factory.mktemp("plain") / "model")
    return folder, rewards(RewardModel.load(folder))


def copy_of(folder, to, *, config=None, tensors=lambda found: {WEIGHTS: found}):
    """Copy a folder: `config` is changed by a dict, and tensors by name become files of them."""
    to.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (to / path.name).write_bytes(path.read_bytes())
    settings = json.loads((to / "config.json").read_text()) | (config or {})
    (to / "config.json").write_text(json.dumps(settings))
    found = safetensors.numpy.load_file(folder / WEIGHTS)
    for name, some in tensors(found).items():
        safetensors.numpy.save_file(some, to / name, {"format": "pt"})
    return to


def renamed(**names):
    """Put other names, or a prefix for all under "every", in place of tensors'."""

    def change(found):
        every = names.get("every", "")
        return {WEIGHTS: {every + names.get(x.split(".")[0], x): t for x, t in found.items()}}

    return change


def sharded(count, *, of=None):
    def change(found):
        names = [f"model-{i + 1:05}-of-{of or count:05}.safetensors" for i in range(count)]
        parts = [dict(list(found.items())[i::count]) for i in range(count)]
        return dict(zip(names, parts, strict=True))

    return change


READ = {
    "compiled": {"tensors": renamed(every="_orig_mod.")},
    "data parallel": {"tensors": renamed(every="module._orig_mod.")},
    "sees pictures": {"tensors": lambda found: {WEIGHTS: seeing(found)}},
    "sees pictures, transformers 5": {"tensors": lambda found: {WEIGHTS: seeing(found, True)}},
    "shards without an index": {"tensors": sharded(3)},
    "OpenRLHF's": {
        "tensors": renamed(score="value_head.weight"),
        "config": {"architectures": ["RewardModel"], "mean": 1.5, "std": 2.0},
    },
    "a head by regression": {"tensors": renamed(score="regression_layer.weight")},
}


def seeing(found, new=False):
    start = "model.language_model." if new else "language_model.model."
    named = {x.replace("model.", start, 1): t for x, t in found.items()}
    return named | {"vision_tower.patch.weight": np.zeros((2, 2), np.float32)}


@pytest.mark.parametrize("name", READ)
def test_a_shape_of_others_scores_as_the_plain_one(plain, tmp_path, name, caplog):
    model = RewardModel.load(copy_of(plain[0], tmp_path / "in", **READ[name]))
    assert model.read == "last"
    np.testing.assert_array_equal(rewards(model), plain[1])
    assert ("not applied: scores are raw" in caplog.text) == (name == "OpenRLHF's")


@pytest.mark.parametrize("name", ["score", "v_head.summary"])
def test_a_heads_bias_is_read(plain, tmp_path, name):
    """TRL's writer of a language model with a value head leaves its class a language model's."""

    def biased(found):
        bias = {f"{name}.bias": np.array([0.25], np.float32)}
        return {WEIGHTS: renamed(score=f"{name}.weight")(found)[WEIGHTS] | bias}

    config = {} if name == "score" else {"architectures": ["LlamaForCausalLM"]}
    folder = copy_of(plain[0], tmp_path / "in", config=config, tensors=biased)
    np.testing.assert_allclose(rewards(RewardModel.load(folder)), plain[1] + 0.25, rtol=1e-6)


@pytest.mark.parametrize("prefix", ["score", "value_head", "my_head"])
def test_openrlhfs_own_folder_is_read_at_the_end_of_the_turn_by_the_head_that_it_names(
    plain, tmp_path, prefix
):
    said = {"architectures": ["RewardModel"], "value_head_prefix": prefix, "id2label": None}
    said |= {"mean": 0.5, "std": 2.0, "normalize_reward": False}
    changes = {"config": said, "tensors": renamed(score=f"{prefix}.weight")}
    model = RewardModel.load(copy_of(plain[0], tmp_path / "in", **changes))
    as_trained = dataclasses.replace(RewardModel.load(plain[0]), read="end_of_turn")
    assert (model.read, model.outputs) == ("end_of_turn", ("reward",))
    np.testing.assert_array_equal(rewards(model), rewards(as_trained))
    assert np.abs(rewards(model) - plain[1]).max() > 1e-2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tensors": lambda f: {WEIGHTS: f, **sharded(2)(f)}}, "one of them is older"),
        ({"tensors": sharded(2, of=3)}, "of 3 shards number 3 is not there"),
        (
            {"tensors": lambda f: {WEIGHTS: f | {"v_head.weight": f["score.weight"].copy()}}},
            "there are several heads: score, v_head",
        ),
        (
            {
                "tensors": lambda f: {WEIGHTS: f | {"score.weight": np.eye(2, 32, dtype="f4")}},
                "config": {"id2label": {"0": "a", "1": "a"}},
            },
            r"id2label gives outputs one name: \['a', 'a'\]",
        ),
    ],
)
def test_what_could_be_two_models_is_refused(plain, tmp_path, changes, why):
    with pytest.raises(ValueError, match=why):
        RewardModel.load(copy_of(plain[0], tmp_path / "in", **changes))


# Adapters -----------------------------------------------------------------------------------------


def adapter(base, folder, *, beside=None, **settings):
    """A LoRA adapter of rank 2 of one layer's queries, with a head; and what it makes of them."""
    rng = np.random.default_rng(0)
    config = checkpoint_files.read_json(base / "config.json")
    size, heads = config["hidden_size"], config["num_attention_heads"] * config["head_dim"]
    a = rng.normal(size=(2, size)).astype(np.float32)
    b = rng.normal(size=(heads, 2)).astype(np.float32)
    head = rng.normal(size=(1, size)).astype(np.float32)
    named = {f"self_attn.q_proj.lora_{n}.weight": x for n, x in (("A", a), ("B", b))}
    tensors = {f"base_model.model.model.layers.0.{name}": x for name, x in named.items()}
    tensors["base_model.model.score.weight"] = head
    length = rng.uniform(1, 2, heads).astype(np.float32)
    if settings.get("use_dora"):
        tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"] = length
    folder.mkdir()
    safetensors.numpy.save_file(tensors | (beside or {}), folder / adapters.WEIGHTS)
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "base_model_name_or_path": str(base)}
    (folder / adapters.SETTINGS).write_text(json.dumps(said | settings))
    alpha = (settings.get("alpha_pattern") or {"q_proj": 3})["q_proj"]

    def whole(query):
        query = query + alpha / (2**0.5 if settings.get("use_rslora") else 2) * (b @ a)
        scale = length / np.linalg.norm(query, axis=1) if settings.get("use_dora") else 1.0
        return np.float32(query * np.reshape(scale, (-1, 1)))

    return folder, whole, head


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "init_lora_weights": "gaussian", "lora_dropout": 0.1},
        {"alpha_pattern": {"q_proj": 7}},
        {"use_dora": True},
        {"base_model_name_or_path": "../base"},
    ],
)
def test_an_adapter_is_merged_into_its_base_with_its_head(tmp_path, settings):
    base = foreign(tmp_path / "base", outputs=())
    folder, whole, head = adapter(base, tmp_path / "adapter", **settings)

    def merged(found):
        query = "model.layers.0.self_attn.q_proj.weight"
        return {WEIGHTS: found | {query: whole(found[query]), "score.weight": head}}

    changes = {"config": {"architectures": ["LlamaForSequenceClassification"]}, "tensors": merged}
    expected = rewards(RewardModel.load(copy_of(base, tmp_path / "merged", **changes)))
    np.testing.assert_allclose(rewards(RewardModel.load(folder)), expected, rtol=1e-5)
    assert set(fingerprint.fingerprint(str(folder))) == {
        *("adapter", "base weights", "base config", "base tokenizer")
    }


def embeddings(kind, embed):
    """What an adapter holds of the embeddings, its settings, and what they become."""
    rng = np.random.default_rng(1)
    start, place = "base_model.model.", "base_model.model.model.embed_tokens"
    new = rng.normal(size=(len(embed) + 3 * (kind == "resized"), embed.shape[1])).astype("f4")
    a, b = rng.normal(size=(2, len(embed))), rng.normal(size=(embed.shape[1], 2))
    if kind == "whole":
        return {f"{place}.weight": new}, {}, new
    if kind == "resized":  # As peft writes those that it trains whole.
        both = {f"{place}.modules_to_save.weight": new, f"{start}lm_head.weight": 2 * new}
        return both | {f"{place}.weight": new, f"{place}.original_module.weight": 0 * new}, {}, new
    if kind == "low rank":
        pair = {f"{place}.lora_embedding_A": a, f"{place}.lora_embedding_B": b}
        pair = {name: x.astype("f4") for name, x in pair.items()}
        return pair | {f"{place}.base_layer.weight": embed}, {}, embed + 1.5 * (b @ a).T
    made = embed.copy()
    made[[5, 1]] = new[:2]
    rows = {"trainable_token_indices": [5, 1] if kind == "tokens" else {"embed_tokens": [5, 1]}}
    return {f"{place}.token_adapter.trainable_tokens_delta": new[:2]}, rows, made


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["whole", "resized", "low rank", "tokens", "named tokens"])
def test_an_adapter_changes_embeddings_as_in_peft(tmp_path, kind, tied):
    """Where it changes one of two tied weights, the other stays as it was."""
    base = foreign(tmp_path / "base", outputs=(), tied=tied)
    found = safetensors.numpy.load_file(base / WEIGHTS)
    embed = found["model.embed_tokens.weight"]
    beside, settings, made = embeddings(kind, embed)
    model = hub.load(adapter(base, tmp_path / "adapter", beside=beside, **settings)[0])
    output = 2 * made if kind == "resized" else found.get("lm_head.weight", embed)
    np.testing.assert_allclose(model.params["embed"], made, rtol=1e-5, atol=1e-5)
    assert model.config.vocab_size == len(made)
    assert model.config.tied == (tied and "tokens" in kind)
    if not model.config.tied:
        np.testing.assert_array_equal(model.params["lm_head"], output)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"init_lora_weights": "pissa"}, "with init_lora_weights 'pissa', which is not supported"),
        ({"init_lora_weights": "olora"}, "'olora', which is not supported: merge it"),
        ({"alora_invocation_tokens": [5, 6]}, r"with alora_invocation_tokens \[5, 6\]"),
        ({"of_a_newer_version": {"x": 1}}, "with of_a_newer_version"),
        ({"peft_type": "IA3"}, "with peft_type 'IA3'"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is None, and is needed"),
        (
            {"beside": {"base_model.model.model.norm.token_adapter.trainable_tokens_delta": ROWS}}
            | {"trainable_token_indices": [1]},
            r"trainable_token_indices \[1\] are not those of the 2 rows",
        ),
        (
            {"beside": {"base_model.model.model.embed_tokens.lora_embedding_A": ROWS}},
            "the adapter has embedding_A of embed_tokens; merge it",
        ),
        ({"lora_alpha": "16"}, "lora_alpha is '16', and is needed"),
        (
            {"beside": {"base_model.model.model.norm.lora_magnitude": np.ones(2, np.float32)}},
            "norm.lora_magnitude of the adapter has no place in its base",
        ),
    ],
)
def test_an_adapter_of_another_kind_is_refused_by_what_it_is(plain, tmp_path, settings, why):
    folder, *_ = adapter(plain[0], tmp_path / "adapter", **settings)
    with pytest.raises(ValueError, match=why):
        hub.load(folder)


def test_an_adapter_beside_a_whole_model_is_refused(plain, tmp_path):
    folder, *_ = adapter(plain[0], tmp_path / "adapter")
    (folder / WEIGHTS).write_bytes((plain[0] / WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match="lies beside a whole model"):
        hub.load(folder)


# Parts of models that see pictures ----------------------------------------------------------------

TEXTS = [
    ("gemma3", "gemma3_text", {}),
    ("mistral3", "mistral", {"sliding_window": None}),
    ("qwen2_5_vl", "qwen2", {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}),
]


@pytest.mark.parametrize(("outer", "inner", "more"), TEXTS)
def test_the_text_part_of_a_config_is_read(outer, inner, more):
    from test_families import CONFIGS

    from hs2jax.models.hf.config import read_config, write_config

    config = CONFIGS[inner]
    plain = write_config(config)
    text = {k: v for k, v in plain.items() if k not in ("architectures", "eos_token_id")} | more
    whole = {
        "model_type": outer,
        "architectures": ["OfItForConditionalGeneration"],
        "eos_token_id": plain["eos_token_id"],
        "vision_config": {"hidden_size": 3},
    }
    nested = read_config(whole | {"text_config": text})
    expected = read_config(plain if "rope_scaling" in more else plain | more)
    assert nested == expected
    if outer == "qwen2_5_vl":  # Its first release has all in one.
        assert read_config({**text, **whole}) == expected


@pytest.mark.parametrize("tied", [True, False])
def test_where_the_text_part_says_otherwise_the_tensors_say_whether_weights_are_tied(
    tmp_path, tied
):
    folder = foreign(tmp_path / "in", outputs=(), tied=tied)
    text = checkpoint_files.read_json(folder / "config.json") | {"tie_word_embeddings": not tied}
    whole = {"model_type": "llava", "text_config": text, "tie_word_embeddings": tied}
    checkpoint_files.write_json(folder / "config.json", whole)
    assert hub.load(folder).config.tied == tied


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"reward_scale": 2.0, "pooling": "mean"}, "keys that are not read: reward_scale, pooling"),
        ({"attention_multiplier": 0.5}, "keys that are not read: attention_multiplier"),
        ({"id2label": {"0": "a", "1": "b"}}, "id2label names 2 outputs, and the head has 1"),
        ({"rope_interleaved": False, "unsloth_version": "1", "torch_dtype": "float16"}, ""),
    ],
)
def test_what_a_config_says_besides_is_told(plain, tmp_path, config, said, caplog):
    hub.load(copy_of(plain[0], tmp_path / "in", config=config))
    assert said in caplog.text
    assert bool(said) == ("config.json: " in caplog.text)


def test_code_beside_a_checkpoint_is_said(plain, tmp_path, caplog):
    changes = {"config": {"auto_map": {"AutoModel": "modeling.Mine"}}}
    hub.load(copy_of(plain[0], tmp_path / "in", **changes))
    assert "the code beside the weights (auto_map) is not run" in caplog.text
