"""What the published config.json of well-known models must become.

The keys are those that decide what is computed, as the files have them; ids and names that play no
part are left out.
"""

import pytest

from hs2jax.models.hf.config import read_config, write_config
from hs2jax.models.rope import Scaling

# Name of a size in config.json: name in Config.
SIZES = {
    **{name: name for name in ("hidden_size", "intermediate_size")},
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_seq_len",
}
LLAMA2 = {"model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_scaling": None}
LLAMA2 |= {"architectures": ["LlamaForCausalLM"], "pretraining_tp": 1, "bos_token_id": 1}
LLAMA2 |= {"eos_token_id": 2, "tie_word_embeddings": False}
LLAMA31 = LLAMA2 | {"attention_bias": False, "mlp_bias": False, "rope_theta": 500000.0}
LLAMA31 |= {"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009]}
ROPE = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
ROPE |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
MISTRAL = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_act": "silu"}
MISTRAL |= {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096}
MISTRAL |= {"bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
QWEN = {"rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "use_sliding_window": False}
QWEN |= {"hidden_act": "silu", "bos_token_id": 151643, "max_window_layers": 28}
QWEN2 = QWEN | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
QWEN2 |= {"sliding_window": 131072, "tie_word_embeddings": False}
QWEN3 = QWEN | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 128}
QWEN3 |= {"attention_bias": False, "sliding_window": None, "tie_word_embeddings": True}
GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "head_dim": 256}
GEMMA |= {"query_pre_attn_scalar": 256, "cache_implementation": "hybrid", "bos_token_id": 2}
GEMMA |= {"attention_bias": False, "pad_token_id": 0}
GEMMA2 = GEMMA | {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]}
GEMMA2 |= {"hidden_act": "gelu_pytorch_tanh", "rope_theta": 10000.0, "sliding_window": 4096}
GEMMA2 |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "eos_token_id": 1}
GEMMA3 = GEMMA | {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}
GEMMA3 |= {"attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window": 512}
GEMMA3 |= {"sliding_window_pattern": 6, "rope_theta": 1000000, "rope_local_base_freq": 10000}
GEMMA3 |= {"rope_scaling": None, "eos_token_id": [1, 106]}
NEMOTRON = {"model_type": "nemotron", "architectures": ["NemotronForCausalLM"], "head_dim": 128}
NEMOTRON |= {"hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5}
NEMOTRON |= {"rope_theta": 10000.0, "attention_bias": False, "mlp_bias": False}
NEMOTRON |= {"tie_word_embeddings": False, "bos_token_id": 2, "eos_token_id": 3}
INTERNLM3 = {"model_type": "internlm3", "architectures": ["InternLM3ForCausalLM"], "head_dim": 128}
INTERNLM3 |= {"auto_map": {"AutoConfig": "configuration_internlm3.InternLM3Config"}, "bias": False}
INTERNLM3 |= {"hidden_act": "silu", "qkv_bias": False, "rms_norm_eps": 1e-5, "rope_theta": 50000000}
INTERNLM3 |= {"rope_scaling": {"factor": 6.0, "rope_type": "dynamic"}, "tie_word_embeddings": False}
UNBIASED = {"qkv_bias": False, "o_bias": False, "mlp_bias": False}

# Name: (sizes in the order of SIZES, the other keys, fields of Config that they give).
PUBLISHED = {
    "Llama-2-7b-hf": (
        (4096, 11008, 32, 32, 32, 32000, 4096),
        LLAMA2,
        {"head_dim": 128, "rope_base": 1e4, "norm_epsilon": 1e-5, "bos_id": 1, "eos_ids": (2,)},
    ),
    "Llama-3.1-8B-Instruct": (
        (4096, 14336, 32, 32, 8, 128256, 131072),
        LLAMA31 | {"rope_scaling": ROPE},
        {"head_dim": 128, "rope_base": 5e5, "eos_ids": (128001, 128008, 128009)}
        | {"rope_scaling": Scaling("llama3", 8.0, 1.0, 4.0, 8192), "qkv_bias": False},
    ),
    "Mistral-7B-v0.1": (
        (4096, 14336, 32, 32, 8, 32000, 32768),
        MISTRAL,
        {"head_dim": 128, "rope_base": 1e4, "sliding_window": 4096, "sliding": (True,) * 32},
    ),
    "Qwen2-7B": (
        (3584, 18944, 28, 28, 4, 152064, 131072),
        QWEN2,
        {"head_dim": 128, "qkv_bias": True, "o_bias": False, "tied": False}
        | {"sliding_window": None, "sliding": ()},
    ),
    "Qwen3-0.6B": (
        (1024, 3072, 28, 16, 8, 151936, 40960),
        QWEN3,
        {"head_dim": 128, "qk_norm": True, "qkv_bias": False, "tied": True, "rope_base": 1e6},
    ),
    "gemma-2-2b": (
        (2304, 9216, 26, 8, 4, 256000, 8192),
        GEMMA2,
        {"head_dim": 256, "attn_logit_softcap": 50.0, "final_logit_softcap": 30.0, "tied": True}
        | {"query_pre_attn_scalar": 256, "rope_base": 1e4, "activation": "gelu_tanh"}
        | {"sliding_window": 4096, "sliding": (True, False) * 13}
        | {"norm_plus_one": True, "post_norms": True, "scaled_embedding": True},
    ),
    "gemma-3-1b-it": (
        (1152, 6912, 26, 4, 1, 262144, 32768),
        GEMMA3,
        {"head_dim": 256, "attn_logit_softcap": None, "final_logit_softcap": None, "pad_id": 0}
        | {"sliding_window": 512, "sliding": ((True,) * 5 + (False,)) * 4 + (True, True)}
        | {"rope_base": 1e6, "rope_local_base": 1e4, "qk_norm": True, "tied": True}
        | {"eos_ids": (1, 106)},
    ),
    "Minitron-4B-Base": (
        (3072, 9216, 32, 24, 8, 256000, 4096),
        NEMOTRON,
        {"head_dim": 128, "rotary_fraction": 0.5, "rotary_size": 64, "activation": "relu2"}
        | {"gated": False, "layer_norm": True, "norm_plus_one": True, "norm_epsilon": 1e-5}
        | {"tied": False},
    ),
    "internlm3-8b-instruct": (
        (4096, 10240, 48, 32, 2, 128512, 32768),
        INTERNLM3,
        {"family": "llama", "head_dim": 128, "rope_base": 5e7}
        | UNBIASED
        | {"rope_scaling": Scaling("dynamic", 6.0)},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_read_as_what_it_is(name):
    sizes, keys, fields = PUBLISHED[name]
    published = dict(zip(SIZES, sizes, strict=True)) | keys
    config = read_config(published)
    assert tuple(getattr(config, field) for field in SIZES.values()) == sizes
    assert {field: getattr(config, field) for field in fields} == fields
    assert read_config(write_config(config, outputs=None)) == config
