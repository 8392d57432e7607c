"""Every family without torch: configs, files, shards, layouts, windows. See test_parity_families
for the numbers."""

import dataclasses
import functools
import json
import re

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from tiny_models import TINY, assert_same_bits, random_head, save

from hs2jax.data import packing
from hs2jax.data.chat import Encoded
from hs2jax.data.conversations import unrated
from hs2jax.inference import predict
from hs2jax.models import rope
from hs2jax.models.attention import attend, ends
from hs2jax.models.config import FULL, SLIDING
from hs2jax.models.decoder import Decoder
from hs2jax.models.hf import hub, weights
from hs2jax.models.hf.config import read_config, write_config
from hs2jax.models.hf.families import FAMILIES, flag, positive_or_none
from hs2jax.models.sharding import make_mesh, path_name, shardings
from hs2jax.training import optimizer

LLAMA3 = rope.Scaling("llama3", 8.0, 1.0, 4.0, 32)
LINEAR, TRIPLE = ({"type": "linear", "factor": factor} for factor in (2.0, 3.0))
ALTERNATING = (SLIDING, FULL, SLIDING)
SHAPES = {
    "llama": {"rope_scaling": LLAMA3, "qkv_bias": True, "o_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": 5, "layer_types": (SLIDING,) * 3},
    "qwen2": {"sliding_window": 4, "layer_types": (FULL, SLIDING, SLIDING)},
    "qwen3": {"tied": True},
    "gemma2": {
        "sliding_window": 4,
        "layer_types": ALTERNATING,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcap": 3.0,
        "final_logit_softcap": 2.0,
        "tied": True,
    },
    "gemma3_text": {
        "sliding_window": 3,
        "layer_types": ALTERNATING,
        "query_pre_attn_scalar": 8,
        "rope_base": 1e6,
        "rope_local_base": 1e4,
        "rope_scaling": rope.Scaling("linear", 8.0),
        "tied": True,
    },
    "nemotron": {"rotary_fraction": 0.5, "head_dim": 12},
}


def config_of(family, **changes):
    """A tiny config of a family, with what only some of its models have."""
    return dataclasses.replace(
        TINY, family=family, **{**FAMILIES[family].settings, **SHAPES[family], **changes}
    )


CONFIGS = {family: config_of(family) for family in SHAPES}
every_family = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def parameters(config, seed=0):
    """Random, and small enough that float32 sums in another order differ by little."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        plain = path_name(path).endswith("norm") and not config.norm_plus_one
        return jnp.asarray(rng.normal(float(plain), 0.3, leaf.shape), jnp.float32)

    return jax.tree.map_with_path(draw, weights.shapes(config))


@functools.partial(jax.jit, static_argnames=("config", "frozen"))
def hidden_of(config, params, tokens, frozen=0):
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return Decoder(config, frozen=frozen).apply({"params": params}, tokens, position)[0]


@st.composite
def configs(draw):
    name = draw(st.sampled_from(list(SHAPES)))
    family, scaling, layers = FAMILIES[name], st.floats(1.0, 50.0), draw(st.integers(1, 7))
    changes = {"num_layers": layers, "tied": draw(st.booleans()), "rope_base": draw(scaling)}
    changes["rope_scaling"] = draw(
        st.none()
        | st.builds(rope.Scaling, st.sampled_from(["linear", "dynamic"]), scaling)
        | st.builds(
            *(rope.Scaling, st.just("yarn"), scaling, scaling, scaling, st.integers(1, 9999)),
            *(scaling, st.booleans()),
        )
        | st.tuples(scaling, scaling, st.integers(1, 9999)).map(
            lambda x: rope.Scaling("llama3", x[0], 1.0, x[1] + 1, x[2])
        )
    )
    kinds = {flag: st.booleans(), positive_or_none: st.none() | scaling}
    for _, fields, kind in family.fields:
        if kind in kinds:
            changes |= dict.fromkeys(fields, draw(kinds[kind]))
    types = st.sampled_from([FULL, SLIDING])
    sliding = tuple(draw(st.lists(types, min_size=layers, max_size=layers)))
    if name == "mistral":
        sliding = (SLIDING,) * layers
    unwindowed = name in ("mistral", "qwen2", "qwen3") and draw(st.booleans())
    if family.windows is None or unwindowed:
        changes |= {"sliding_window": None, "layer_types": ()}
    else:
        changes |= {"sliding_window": draw(st.integers(1, 9999)), "layer_types": sliding}
    return config_of(name, **changes)


@given(configs())
def test_a_config_survives_config_json(config):
    written = json.loads(json.dumps(write_config(config)))
    assert read_config(written) == config
    # As version 5 writes it.
    flat = ("rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor")
    base, scaling, local, part = (written.pop(key, None) for key in flat)
    block = {"rope_type": "default", "rope_theta": base, flat[-1]: part} | (scaling or {})
    both = {FULL: block, SLIDING: {"rope_theta": local}}
    assert read_config(written | {"rope_parameters": both if local else block}) == config


@every_family
def test_the_decoder_and_the_checkpoint_agree_on_the_tree_and_norms_and_biases_do_not_decay(config):
    shapes = weights.shapes(config)
    tokens = jnp.zeros((1, 1), int)
    assert (
        shapes == jax.eval_shape(Decoder(config).init, jax.random.key(0), tokens, tokens)["params"]
    )
    with_head = {"decoder": shapes, "head": {"kernel": 0, "bias": 0}}
    for path, decays in jax.tree.leaves_with_path(optimizer.decays(with_head)):
        assert decays == (not re.search("norm|bias", path_name(path)))


@every_family
@pytest.mark.parametrize("with_head", [False, True])
def test_a_folder_gives_back_the_bits_also_in_shards(tmp_path, config, with_head):
    params, head = parameters(config), random_head(config) if with_head else None
    outputs = ["a", "b"] if with_head else None
    save(tmp_path, config, params, head=head, outputs=outputs)
    if with_head:
        params.pop("lm_head", None)
    mesh = make_mesh(2, 2, 2)
    again = hub.load(tmp_path, mesh)
    assert again.config == dataclasses.replace(config, language_head=config.tied or not with_head)
    assert_same_bits(again.params, params)


@every_family
def test_a_sharded_model_gives_the_same_and_so_does_a_frozen_one(config):
    params = parameters(config)
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, config.vocab_size, (8, 19)))
    whole = hidden_of(config, params, tokens)
    mesh = make_mesh(2, 2, 2)
    placed = jax.device_put(params, shardings(params, mesh))
    with jax.set_mesh(mesh):
        sharded = hidden_of(config, placed, tokens)
    np.testing.assert_allclose(sharded, whole, atol=2e-5, rtol=2e-5)
    # Windows and rotary bases belong to layers, not to places in a stack.
    split = {
        **params,
        "frozen": jax.tree.map(lambda x: x[:2], params["layers"]),
        "layers": jax.tree.map(lambda x: x[2:], params["layers"]),
    }
    frozen = hidden_of(config, split, tokens, frozen=2)
    np.testing.assert_allclose(frozen, whole, atol=2e-5, rtol=2e-5)


@every_family
def test_packed_shared_and_padded_rows_score_alike(config):
    params = {"decoder": parameters(config), "head": random_head(config)}
    rng = np.random.default_rng(0)
    # Prompts and responses shorter and longer than the windows, in rows of one shape.
    for sizes in (
        [(14, (2, 9, 5)), (3, (12, 1)), (1, (4,))],
        [(2, (1,)), (9, (3, 3)), (6, (8,) * 3)],
    ):
        encoded = [
            Encoded(rng.integers(0, 300, n), tuple(rng.integers(0, 300, m) for m in answers))
            for n, answers in sizes
        ]
        examples = [unrated(e.prompt, e.responses) for e in encoded]
        talks = [np.concatenate([e.prompt, r]) for e in encoded for r in e.responses]
        rows = np.stack([np.pad(talk, (0, 24 - len(talk))) for talk in talks])
        hidden = hidden_of(config, params["decoder"], jnp.asarray(rows))
        last = [len(talk) - 1 for talk in talks]
        expected = np.asarray(hidden)[np.arange(6), last] @ params["head"]["kernel"]
        for layout in packing.LAYOUTS:
            batch = packing.lay([examples], packing.Shape(6 * 24, 6, 1, 0), layout)
            found = predict(params, batch, config, layout=layout, dtype=jnp.float32)
            found = np.asarray(found).reshape(-1, 2)[:6]
            np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4, err_msg=layout)


@given(
    tokens=st.sampled_from([1, 7, 130]),
    window=st.integers(1, 160),
    cap=st.none() | st.floats(0.5, 20.0),
    seed=st.integers(0, 99),
    branched=st.booleans(),
)
@settings(max_examples=25)
def test_attention_equals_its_definition(tokens, window, cap, seed, branched):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(1, tokens, 2, 4)).astype(np.float32) for _ in range(3))
    end, position = None, np.arange(tokens)
    sees = position[None, :] <= position[:, None]
    if branched and tokens >= 3:
        # A prompt and two responses: the second starts where the first did.
        prompt, first = tokens // 3, tokens // 3
        branch = np.repeat([0, 1, 2], [prompt, first, tokens - prompt - first])
        position = np.where(branch == 2, position - first, position)
        sees &= (branch[None, :] == 0) | (branch[None, :] == branch[:, None])
        end = ends(*(jnp.asarray(x[None]) for x in (np.ones_like(branch), branch)))
    sees &= position[:, None] - position[None, :] < window
    scores = 0.7 * np.einsum("tnh,snh->nts", q[0], k[0])
    scores = scores if cap is None else cap * np.tanh(scores / cap)
    weights = np.where(sees, np.exp(scores - scores.max(-1, keepdims=True)), 0)
    expected = np.einsum("nts,snh->tnh", weights / weights.sum(-1, keepdims=True), v[0])
    for given_window in (window, jnp.int32(window)):
        at = jnp.asarray(position[None])
        found = attend(q, k, v, end, at, scale=0.7, window=given_window, cap=cap)[0]
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)


def hf_of(family, **changes):
    return write_config(CONFIGS[family]) | changes


def rope_scaling(**changes):
    """Llama 3.1's block of the shape in `SHAPES`, and what differs."""
    keys = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return {"rope_scaling": keys | {"original_max_position_embeddings": 32} | changes}


def test_an_internlm3_is_a_llama_by_other_keys():
    base = dataclasses.replace(TINY, rope_base=5e7, rope_scaling=rope.Scaling("dynamic", 6.0))
    hf = write_config(base) | {"model_type": "internlm3", "architectures": ["InternLM3ForCausalLM"]}
    del hf["attention_bias"], hf["mlp_bias"]
    hf["auto_map"] = {"AutoConfig": "configuration_internlm3.InternLM3Config"}
    assert read_config(hf | {"qkv_bias": False, "bias": False}) == base
    with_bias = dataclasses.replace(base, qkv_bias=True, o_bias=True, mlp_bias=True)
    assert read_config(hf | {"qkv_bias": True, "bias": True}) == with_bias
    assert read_config(hf | {"attention_bias": True, "mlp_bias": True}) == with_bias
    # No code of the checkpoint is needed for what is written.
    assert "auto_map" not in write_config(with_bias)
    with pytest.raises(ValueError, match="qkv_bias True, bias False differ"):
        read_config(hf | {"qkv_bias": True, "bias": False})
    with pytest.raises(ValueError, match="the same by another name"):
        read_config(hf | {"qkv_bias": True, "attention_bias": False})


def test_what_older_files_leave_out_has_the_family_s_value():
    gemma2 = hf_of("gemma2", num_hidden_layers=4)
    for key in ("layer_types", "sliding_window", "attn_logit_softcapping", "tie_word_embeddings"):
        del gemma2[key]
    config = read_config(gemma2)
    assert config.sliding == (True, False, True, False)
    assert (config.sliding_window, config.attn_logit_softcap, config.tied) == (4096, 50.0, True)
    gemma3 = hf_of("gemma3_text", num_hidden_layers=7)
    del gemma3["layer_types"], gemma3["sliding_window_pattern"]
    assert read_config(gemma3).sliding == (True,) * 5 + (False, True)
    qwen = hf_of("qwen2", layer_types=None, max_window_layers=0)
    assert read_config(qwen).sliding == (True,) * 3
    unused = read_config(qwen | {"use_sliding_window": False})
    assert (unused.sliding_window, unused.sliding) == (None, ())
    assert read_config(hf_of("mistral", sliding_window=None)).sliding == ()


@pytest.mark.parametrize("key", ["rope_percent", "rope_percentage", "rope_pct"])
def test_a_nemotron_s_rotated_part_by_its_older_names(key):
    hf = hf_of("nemotron", rope_parameters={"rope_type": "default"})
    del hf["partial_rotary_factor"]
    assert read_config(hf | {key: 0.25, "head_dim": 16}).rotary_fraction == 0.25
    assert read_config(hf | {key: None}).rotary_fraction == 0.5
    both = {key: 0.25, "partial_rotary_factor": 0.25, "head_dim": 16}
    assert read_config(hf | both).rotary_fraction == 0.25
    with pytest.raises(ValueError, match=rf"partial_rotary_factor is 0.25 and {key}.* is 0.5"):
        read_config(hf | both | {key: 0.5})
    block = {"rope_parameters": {"partial_rotary_factor": 0.25}}
    with pytest.raises(ValueError, match="the same by another name"):
        read_config(hf | {key: 0.5} | block)


def test_dynamic_scaling_may_say_the_model_s_length_again():
    dynamic = {"rope_type": "dynamic", "factor": 6.0, "original_max_position_embeddings": 2048}
    config = dataclasses.replace(TINY, rope_scaling=rope.Scaling("dynamic", 6.0))
    hf = write_config(config)
    assert hf["max_position_embeddings"] == 2048
    assert read_config(hf | {"rope_scaling": dynamic}) == config
    # Shorter, it would change sequences that are allowed.
    with pytest.raises(ValueError, match="original_max_position_embeddings is 1024"):
        read_config(hf | {"rope_scaling": dynamic | {"original_max_position_embeddings": 1024}})


@pytest.mark.parametrize(
    ("family", "change", "named"),
    [
        ("mistral", {"sliding_window": -1}, "sliding_window is -1"),
        ("mistral", {"layer_types": ["full_attention"] * 3}, "layer_types is"),
        ("mistral", {"quantization_config": {"bits": 4}}, "quantization_config is"),
        ("mistral", {"architectures": ["MistralForTokenClassification"]}, "architectures is"),
        ("qwen2", {"layer_types": ["linear_attention"] * 3}, "linear_attention"),
        ("qwen2", {"layer_types": ["full_attention"] * 2}, "layer_types has 2 entries"),
        ("qwen2", {"use_sliding_window": False}, "use_sliding_window is False"),
        ("qwen2", {"max_window_layers": -1}, "max_window_layers is -1"),
        ("qwen3", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
        ("gemma2", {"sliding_window": None}, "sliding_window is None"),
        ("gemma2", {"query_pre_attn_scalar": None}, "query_pre_attn_scalar is None"),
        ("gemma2", {"final_logit_softcapping": -3.0}, "final_logit_softcapping is -3.0"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 1e6}}, "full_attention"),
        (
            "gemma3_text",
            {"rope_scaling": None, "rope_parameters": {FULL: {}, SLIDING: {"rope_theta": 5e3}}},
            "rope_local_base_freq is 10000.0 and, in rope_parameters, 5000.0",
        ),
        ("qwen2", {"rope_parameters": {"rope_theta": 5e5}}, "rope_theta is 10000.0 and, in rope_"),
        ("nemotron", {"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ("nemotron", {"rope_parameters": {"partial_rotary_factor": 2}}, "factor is 2.0"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("llama", {"original_max_position_embeddings": 8192}, "original_max_position_embeddings"),
        ("llama", rope_scaling(rope_type="longrope"), "rope_scaling.rope_type is 'longrope'"),
        ("llama", rope_scaling(rope_type="yarn"), "rope_scaling.low_freq_factor is 1.0"),
        ("llama", rope_scaling(factor=None), "rope_scaling.factor is None"),
        ("llama", rope_scaling(factor=0), "rope_scaling.factor is 0"),
        ("llama", rope_scaling(original_max_position_embeddings=None), "embeddings is None"),
        ("llama", rope_scaling(high_freq_factor=1.0), "must be above low_freq_factor"),
        ("llama", rope_scaling(attention_factor=1.5), "rope_scaling.attention_factor is 1.5"),
        ("llama", rope_scaling(rope_type="linear"), "rope_scaling.low_freq_factor is 1.0"),
        ("llama", rope_scaling() | {"rope_parameters": {}}, "say different things"),
        ("llama", {"rope_scaling": LINEAR, "rope_parameters": TRIPLE}, "say different things"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.factor"),
        ("llama", {"model_type": "mamba"}, "model_type is 'mamba'"),
        ("llama", {"attention_bias": "yes"}, "attention_bias is 'yes'"),
        ("llama", {"hidden_size": None}, "hidden_size is None"),
        ("llama", {"num_hidden_layers": "3"}, "num_hidden_layers is '3'"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ("llama", {"head_dim": 7}, "head_dim is 7"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ("llama", {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
        ("llama", {"eos_token_id": "</s>"}, "eos_token_id is '</s>'"),
    ],
)
def test_what_a_config_asks_for_in_vain_is_named(family, change, named):
    with pytest.raises(ValueError, match=r"config\.json") as error:
        read_config(hf_of(family, **change))
    assert named in str(error.value)
