"""GGUF files: tensors put back in order, tokenizers, and what is refused."""

import dataclasses

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import CHATML, TALK, TINY, assert_same_bits, random_params

from hs2jax.models.decoder import Decoder
from hs2jax.models.heads import logits
from hs2jax.models.hf import hub, weights

Kind = gguf.GGMLQuantizationType
NO_BOS = {"tokenizer.ggml.bos_token_id": None}


def interleave(rows, heads):
    """As llama.cpp's converter does to q and k: row i of each half becomes rows 2i and 2i + 1."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write(path, config, params, *, quantise=None, change=None, rename=None):
    """A GGUF file of `params`. `change` replaces metadata (None takes a key out)."""
    alphabet = [*"abcdehilnortuIyY", "Ġ", "Ċ", *"0123456789"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>", *alphabet, "in", "Ġ1", "12"]
    tokens += [f"<unused{i}>" for i in range(config.vocab_size - len(tokens))]
    meta = {
        "llama.vocab_size": config.vocab_size,
        "llama.embedding_length": config.hidden_size,
        "llama.block_count": config.num_layers,
        "llama.attention.head_count": config.num_heads,
        "llama.attention.head_count_kv": config.num_kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.rope.dimension_count": config.head_dim,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.context_length": config.max_seq_len,
        "llama.attention.layer_norm_rms_epsilon": config.norm_epsilon,
        "llama.rope.freq_base": config.rope_base,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3, 4] + [1] * (config.vocab_size - 4),
        "tokenizer.ggml.merges": ["i n", "Ġ 1", "1 2"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": CHATML,
    } | (change or {})
    writer = gguf.GGUFWriter(path, meta.pop("general.architecture", "llama"))
    for key, value in meta.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
        add |= {str: writer.add_string, list: writer.add_array, type(None): lambda *_: None}
        add[type(value)](key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_layers)
    for tensor in weights.unstack(params, config):
        array = tensor.read().astype(np.float32)
        for part, heads in (("q_proj", config.num_heads), ("k_proj", config.num_kv_heads)):
            array = interleave(array, heads) if part in tensor.name else array
        name = names.get_name(weights.full_name(tensor.name), (".weight",))
        name = (rename or {}).get(name, name)
        if quantise is not None and array.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(array, quantise), raw_dtype=quantise)
        elif name is not None:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_a_float_file_gives_back_the_bits(tmp_path, tied):
    config = dataclasses.replace(TINY, tied=tied, norm_epsilon=1e-5, rope_base=5e5)
    params = random_params(config)
    loaded = hub.load(write(tmp_path / "x.gguf", config, params))
    assert loaded.config == dataclasses.replace(config, bos_id=1)
    assert_same_bits(loaded.params, params)


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_1, Kind.Q4_0, Kind.BF16, Kind.F16])
def test_quantised_tensors_are_near_what_they_were(tmp_path, kind):
    config = dataclasses.replace(TINY, hidden_size=64, head_dim=16, intermediate_size=96)
    params = random_params(config)
    # Half a step of the coarsest kind; a wrong order of rows would be off by about 1.
    limit = 0.05 if kind in (Kind.Q8_0, Kind.BF16, Kind.F16) else 0.4
    loaded = hub.load(write(tmp_path / "x.gguf", config, params, quantise=kind)).params
    for part, want in params["layers"]["attention"].items():
        assert np.max(np.abs(loaded["layers"]["attention"][part] - want)) < limit


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rename": {"output_norm.weight": "rope_freqs.weight"}}, "rope_freqs.weight has no place"),
        ({"general.architecture": "gemma2"}, "general.architecture is 'gemma2'"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
        ({"llama.expert_count": 8}, "llama.expert_count is 8"),
        ({"llama.rope.dimension_count": 4}, "llama.rope.dimension_count is 4"),
        ({"llama.block_count": None}, "lacks llama.block_count"),
        ({"llama.block_count": 2}, "blk.2"),
        ({"llama.block_count": 4}, "layers.3"),
        ({"llama.feed_forward_length": 23}, "ffn_gate.weight has shape [24, 16]"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model is 'llama'"),
        ({"tokenizer.ggml.pre": "mystery-bpe"}, "tokenizer.ggml.pre is 'mystery-bpe'"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre is None"),
        ({**NO_BOS, "tokenizer.ggml.add_bos_token": True}, "lacks tokenizer.ggml.bos_token_id"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, change, named):
    options = change if "rename" in change else {"change": change}
    path = write(tmp_path / "x.gguf", TINY, random_params(TINY), **options)
    with pytest.raises(ValueError, match=r"x\.gguf") as error:
        hub.load(path)
    assert named in str(error.value)


@pytest.mark.parametrize("size", [0, 3, 100, 3000, -64])
def test_a_file_that_is_no_gguf_is_named(tmp_path, size):
    path = write(tmp_path / "x.gguf", TINY, random_params(TINY))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"x\.gguf: not a GGUF file"):
        hub.load(path)


def tokens_of(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_the_tokenizer_cuts_digits_and_knows_its_special_tokens(tmp_path):
    tokenizer = hub.load(write(tmp_path / "x.gguf", TINY, random_params(TINY))).tokenizer
    # Neither "Ġ1" nor "12" may come about, though the merges would make them.
    assert tokens_of(tokenizer, "in 12") == ["in", "Ġ", "1", "2"]
    assert tokens_of(tokenizer, "<|im_end|><tool>a") == ["<|im_end|>", "<tool>", "a"]
    assert tokenizer.all_special_ids == [1, 2, 0]
    # A token that the user defined is text and stays when special tokens are skipped.
    assert tokenizer.decode([2, 3, 4], skip_special_tokens=True) == "<tool>a"
    assert tokenizer.chat_template == CHATML
    assert tokenizer.model_max_length == TINY.max_seq_len


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("eos", [False, True])
def test_the_flags_for_begin_and_end_are_kept(tmp_path, bos, eos):
    change = {"tokenizer.ggml.add_bos_token": bos, "tokenizer.ggml.add_eos_token": eos}
    path = write(tmp_path / "x.gguf", TINY, random_params(TINY), change=change)
    tokenizer = hub.load(path).tokenizer
    before, after = ["<|im_start|>"] * bos, ["<|im_end|>"] * eos
    assert tokens_of(tokenizer, "a") == [*before, "a", *after]
    pair = tokenizer.convert_ids_to_tokens(tokenizer("a", "b")["input_ids"])
    assert pair == [*before, "a", *after, *before, "b", *after]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(bare) == ["a"]


@pytest.fixture(scope="module")
def smollm2():
    try:
        return hub.load("smollm2-135m-instruct")
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_smollm2_goes_on_sensibly(smollm2):
    ids = jnp.array([smollm2.tokenizer("The capital of France is")["input_ids"]])
    position = jnp.arange(ids.shape[1])[None]
    hidden, _ = Decoder(smollm2.config).apply({"params": smollm2.params}, ids, position)
    best = int(jnp.argmax(logits(smollm2.params, hidden[:, -1:], smollm2.config)[0, 0]))
    assert smollm2.tokenizer.decode([best]) == " Paris"


def test_smollm2_tokens(smollm2):
    tokenizer = smollm2.tokenizer
    assert tokenizer("In 1234")["input_ids"] == [788, 216, 33, 34, 35, 36]
    # Two spaces before a digit are one token, since digits are cut off before words are.
    assert tokenizer("a  1 b")["input_ids"] == [81, 256, 33, 278]
    for text in ("naïve café 漢字 🙂", "don't\n\n 3.14 <|im_end|>", "\t a  b"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    ids = tokenizer.apply_chat_template(TALK)["input_ids"]
    assert ids[0] == 1
    assert ids[-2:] == [2, 198]
