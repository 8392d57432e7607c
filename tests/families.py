"""Tiny random torch models of every family, in variants that switch on what the family can do.

`VARIANTS` is the table; `build` makes a model of a row of it. Sizes are such that each part shows
in the output: windows are far shorter than `LONGEST`, soft caps bend, biases are not zero.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)  # Threads cost such small models more than they bring.

VOCABULARY = 300
PAD = VOCABULARY - 1
WINDOW = 8
LONGEST = 80  # Ten windows, and more than one chunk of queries in `models.attention`.
SCALE = 0.2  # Of the weights. With much more, float32's errors grow from layer to layer.
OUTPUTS = ("helpfulness", "verbosity")


class Classes(NamedTuple):
    """What `transformers` calls the three classes of a family."""

    config: str
    causal: str
    classifier: str


class Variant(NamedTuple):
    """settings: for the config class. bites: keys of config.json, a dot between levels, and
    another value for each that must change the outputs. renamed: keys of config.json that the
    family's authors give another name than transformers, and that name."""

    classes: Classes
    settings: dict[str, Any]
    bites: dict[str, Any] = {}  # noqa: RUF012
    renamed: dict[str, str] = {}  # noqa: RUF012


def usual(name: str) -> Classes:
    return Classes(f"{name}Config", f"{name}ForCausalLM", f"{name}ForSequenceClassification")


LLAMA, MISTRAL, QWEN2, QWEN3 = map(usual, ("Llama", "Mistral", "Qwen2", "Qwen3"))
GEMMA2, NEMOTRON = map(usual, ("Gemma2", "Nemotron"))
GEMMA3 = Classes("Gemma3TextConfig", "Gemma3ForCausalLM", "Gemma3TextForSequenceClassification")
# transformers reads InternLM3's config and runs it with Llama's classes.
INTERNLM3 = Classes("InternLM3Config", "LlamaForCausalLM", "LlamaForSequenceClassification")


def rope(theta: float, kind: str = "default", **scaling) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **scaling}


def inside(key: str, **changes) -> dict[str, Any]:
    """Settings in a block of config.json."""
    return {f"{key}.{name}": value for name, value in changes.items()}


def caps(attention, final) -> dict[str, Any]:
    return {"attn_logit_softcapping": attention, "final_logit_softcapping": final}


# Of a head of 16, one frequency stays, two are mixed and five are divided.
FACTORS = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3_ROPE = rope(1e4, "llama3", **FACTORS, original_max_position_embeddings=64)
LLAMA3_BITES = {"factor": 9.0, "low_freq_factor": 1.2, "high_freq_factor": 5.0}
WINDOWS = {"use_sliding_window": True, "sliding_window": WINDOW}
BIASES = {"attention_bias": True, "mlp_bias": True}
FULL, SLIDING = "full_attention", "sliding_attention"
GEMMA3_ROPE = {FULL: rope(1e6, "linear", factor=8.0), SLIDING: rope(1e4)}

VARIANTS = {
    "Llama 2": Variant(
        LLAMA,
        {"num_key_value_heads": 4, "head_dim": 8, "rms_norm_eps": 1e-2},
        {"rope_parameters.rope_theta": 1.1e4, "rms_norm_eps": 1.2e-2},
    ),
    "Llama 3": Variant(LLAMA, {"rope_parameters": rope(5e5), "rms_norm_eps": 1e-5}),
    "Llama 3.1, scaled rope": Variant(
        LLAMA,
        {"rope_parameters": LLAMA3_ROPE},
        inside("rope_parameters", **LLAMA3_BITES, original_max_position_embeddings=60),
    ),
    "Llama, linear rope": Variant(
        LLAMA, {"rope_parameters": rope(1e4, "linear", factor=2.0)}, {"rope_parameters.factor": 2.2}
    ),
    "Llama, dynamic rope": Variant(
        LLAMA, {"rope_parameters": rope(1e4, "dynamic", factor=2.0)}, {}
    ),
    "Llama, YaRN": Variant(
        LLAMA,
        {"rope_parameters": rope(1e4, "yarn", factor=4.0, original_max_position_embeddings=32)},
        inside("rope_parameters", factor=5.0, original_max_position_embeddings=128),
    ),
    "Qwen3, YaRN of every key": Variant(
        QWEN3,
        {
            "rope_parameters": rope(1e4, "yarn", factor=4.0, original_max_position_embeddings=32)
            | {"beta_fast": 8.0, "beta_slow": 0.5, "mscale": 0.7, "mscale_all_dim": 1.3}
            | {"truncate": False}
        },
        inside("rope_parameters", beta_fast=2.0, beta_slow=0.7, mscale=2.0, truncate=True),
    ),
    "Llama, biases": Variant(LLAMA, BIASES),
    "Llama, one key head, tied": Variant(
        LLAMA, {"num_key_value_heads": 1, "tie_word_embeddings": True}
    ),
    "Mistral, window": Variant(MISTRAL, {"sliding_window": WINDOW}, {"sliding_window": 9}),
    "Mistral, no window": Variant(MISTRAL, {"sliding_window": None}, {"sliding_window": 60}),
    "Qwen2": Variant(
        QWEN2,
        {"rope_parameters": rope(1e6), "tie_word_embeddings": True},
        {"rope_parameters.rope_theta": 9e5},
    ),
    "Qwen2, window": Variant(
        QWEN2,
        {**WINDOWS, "max_window_layers": 2},
        {"sliding_window": 7, "layer_types": [FULL, SLIDING, SLIDING, SLIDING]},
    ),
    "Qwen3": Variant(QWEN3, {"rms_norm_eps": 1e-2}, {"rms_norm_eps": 1.2e-2}),
    "Qwen3, window, biases": Variant(
        QWEN3,
        {**WINDOWS, "attention_bias": True, "max_window_layers": 1},
        {"sliding_window": 9, "layer_types": [SLIDING] * 4},
    ),
    "Gemma 2": Variant(
        GEMMA2,
        {"sliding_window": WINDOW, "query_pre_attn_scalar": 24, **caps(5.0, 4.0)},
        {"sliding_window": 9, "layer_types": [FULL, SLIDING] * 2, "query_pre_attn_scalar": 26}
        | caps(5.5, 4.4),
    ),
    "Gemma 2, no caps": Variant(
        GEMMA2,
        {"sliding_window": WINDOW, "query_pre_attn_scalar": 16, **caps(None, None)},
        caps(30.0, 30.0),
    ),
    "Gemma 3, scaled rope": Variant(
        GEMMA3,
        {
            "num_hidden_layers": 6,
            "layer_types": [SLIDING, SLIDING, FULL] * 2,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 24,
            "rope_parameters": GEMMA3_ROPE,
        },
        {
            "sliding_window": 9,
            "layer_types": [FULL, SLIDING, SLIDING] * 2,
            "query_pre_attn_scalar": 26,
            **inside(f"rope_parameters.{FULL}", rope_theta=9e5, factor=8.8),
            **inside(f"rope_parameters.{SLIDING}", rope_theta=1.1e4),
        },
    ),
    "Gemma 3, untied": Variant(
        GEMMA3, {"num_hidden_layers": 6, "sliding_window": WINDOW, "tie_word_embeddings": False}
    ),
    "Nemotron": Variant(
        NEMOTRON,
        {"rope_parameters": rope(1e4, partial_rotary_factor=0.5), "norm_eps": 1e-2},
        {
            **inside("rope_parameters", rope_theta=1.1e4, partial_rotary_factor=0.25),
            "norm_eps": 1.2e-2,
        },
    ),
    "Nemotron, biases, all rotary": Variant(
        NEMOTRON, {"rope_parameters": rope(1e4, partial_rotary_factor=1.0), **BIASES}
    ),
    "InternLM3": Variant(INTERNLM3, {"rope_parameters": rope(5e7, "dynamic", factor=6.0)}),
    "InternLM3, biases": Variant(INTERNLM3, BIASES),
    "InternLM3, biases, its authors' keys": Variant(
        INTERNLM3, BIASES, renamed={"attention_bias": "qkv_bias", "mlp_bias": "bias"}
    ),
}

# What takes long is tested with these.
ONE_OF_EACH = (
    "Llama 3.1, scaled rope",
    "Mistral, window",
    "Qwen2, window",
    "Qwen3, window, biases",
    "Gemma 2",
    "Gemma 3, scaled rope",
    "Nemotron",
    "InternLM3, biases",
)


def build(variant: Variant, *, head: bool = False, seed: int = 0, **changes):
    """A torch model of the variant with random float32 weights, without or with a reward head.

    Weights are drawn by their names and large, so that every part of the model shows. `changes`
    are settings of the config class that come before the variant's and the usual ones.
    """
    settings = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48}
    settings |= {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    settings |= {"head_dim": 16, "max_position_embeddings": 128, "attn_implementation": "eager"}
    settings |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": PAD}
    if variant.classes == QWEN2:
        del settings["head_dim"]  # It is no setting of that class, which divides the width.
    if head:
        changes = {"id2label": dict(enumerate(OUTPUTS))} | changes
    config = getattr(transformers, variant.classes.config)(
        **(settings | variant.settings | changes)
    )
    kind = variant.classes.classifier if head else variant.classes.causal
    model = getattr(transformers, kind)(config).eval()
    around = 0.0 if variant.classes in (GEMMA2, GEMMA3, NEMOTRON) else 1.0  # Those add it.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(around - 0.5, around + 0.5, generator=generator)
            else:
                parameter.normal_(0.0, SCALE, generator=generator)
    return model


def save(variant: Variant, model, folder: Path) -> Path:
    """The model's checkpoint, as transformers or, with `renamed`, the family's authors write it."""
    model.save_pretrained(folder)
    if variant.renamed:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        for name, authors in variant.renamed.items():
            config[authors] = config.pop(name)
        config["architectures"] = [type(model).__name__.replace("Llama", "InternLM3")]
        path.write_text(json.dumps(config))
    return folder


def edit(folder: Path, changes: dict[str, Any]) -> None:
    """Sets keys of the folder's config.json; a dot in a key leads one level down."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split(".")
        level = config
        for parent in parents:
            level = level[parent]
        level[last] = value
    path.write_text(json.dumps(config))
