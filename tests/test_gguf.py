"""GGUF files: tensors put back in order, tokenizers, and what is refused."""

import dataclasses
import json
import math
import unicodedata

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_families import ALTERNATING, LLAMA3, config_of, hidden_of, parameters
from tiny_models import CHATML, TALK, TINY, assert_same_bits, random_params, save
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from hs2jax.models import rope
from hs2jax.models.config import FULL, SLIDING
from hs2jax.models.decoder import Decoder
from hs2jax.models.heads import logits
from hs2jax.models.hf import fingerprint, hub, weights

Kind = gguf.GGMLQuantizationType
NO_BOS = {"tokenizer.ggml.bos_token_id": None}


def interleave(rows, heads):
    """As llama.cpp's converter does to q and k: row i of each half becomes rows 2i and 2i + 1."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write(path, config, params, *, quantise=None, change=None, rename=None, kind="llama", split=0):
    """A GGUF file of `params`, or several of `split` tensors each. `change` replaces metadata (None
    takes a key out), which begins with the architecture's name where "llama." is written here."""
    alphabet = [*"abcdehilnortuIyY", "Ġ", "Ċ", *"0123456789"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>", *alphabet, "in", "Ġ1", "12"]
    tokens += [f"<unused{i}>" for i in range(config.vocab_size - len(tokens))]
    scaling = config.rope_scaling
    named = scaling is not None and scaling.kind in ("linear", "yarn")
    meta = {
        "llama.vocab_size": config.vocab_size,
        "llama.embedding_length": config.hidden_size,
        "llama.block_count": config.num_layers,
        "llama.attention.head_count": config.num_heads,
        "llama.attention.head_count_kv": config.num_kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.sliding_window": config.sliding_window,
        "llama.attn_logit_softcapping": config.attn_logit_softcap,
        "llama.final_logit_softcapping": config.final_logit_softcap,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.scaling.type": scaling.kind if named else None,
        "llama.rope.scaling.factor": scaling.factor if named else None,
        "llama.rope.scaling.original_context_length": scaling.original if named else None,
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
    name = meta.pop("general.architecture", kind)
    writer = gguf.GGUFWriter(path, name, split_max_tensors=split)
    for key, value in meta.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
        add |= {str: writer.add_string, list: writer.add_array, type(None): lambda *_: None}
        add[type(value)](key.replace("llama.", f"{kind}.", 1), value)
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(arch, config.num_layers)
    for tensor in weights.unstack(params, config):
        array = tensor.read().astype(np.float32)
        for part, heads in (("q_proj", config.num_heads), ("k_proj", config.num_kv_heads)):
            if kind == "llama" and part in tensor.name:
                array = interleave(array, heads)
        if config.norm_plus_one and "norm" in tensor.name:
            array = array + 1
        name = names.get_name(weights.full_name(tensor.name), (".weight", ".bias"))
        name = (rename or {}).get(name, name)
        if quantise is not None and array.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(array, quantise), raw_dtype=quantise)
        elif name is not None:
            writer.add_tensor(name, np.ascontiguousarray(array))
    if scaling is not None and not named:
        plain, scaled = (
            rope.frequencies(config.head_dim, config.rope_base, each) for each in (None, scaling)
        )
        writer.add_tensor("rope_freqs.weight", plain / scaled)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def shape_of(family, **changes):
    """A tiny config as a file of llama.cpp's can have it."""
    unwindowed = {"sliding_window": None, "layer_types": ()}
    return config_of(family, **{"bos_id": 1, "head_dim": 16, **unwindowed, **changes})


YARN = rope.Scaling("yarn", 4.0, 1.0, 32.0, 64, 0.1 * math.log(4) + 1)
GEMMA = {"sliding_window": 3, "query_pre_attn_scalar": 16, "tied": True}
KINDS = {
    "llama": shape_of("llama", qkv_bias=False, o_bias=False, mlp_bias=False, rope_scaling=LLAMA3),
    "qwen2": shape_of("qwen2", head_dim=4, tied=True),
    "qwen3": shape_of("qwen3", tied=False, rope_base=1e6, rope_scaling=YARN),
    "gemma2": shape_of("gemma2", **GEMMA, layer_types=ALTERNATING),
    "gemma3": shape_of("gemma3_text", **GEMMA, num_layers=6, layer_types=(SLIDING,) * 5 + (FULL,)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_the_model_of_its_folder(tmp_path, kind):
    config = KINDS[kind]
    params = save(tmp_path / "folder", config, parameters(config))
    loaded = hub.load(write(tmp_path / "x.gguf", config, params, kind=kind))
    folder = hub.load(tmp_path / "folder")
    assert loaded.config == folder.config
    if not config.norm_plus_one:  # Adding one and taking it away costs the last bit.
        assert_same_bits(loaded.params, folder.params)
    tokens = jnp.arange(40)[None] * 7 % config.vocab_size
    ours, theirs = (hidden_of(config, one.params, tokens) for one in (loaded, folder))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_files_of_a_split_model_are_one_by_any_of_their_names(tmp_path):
    params = random_params(TINY)
    write(tmp_path / "x.gguf", TINY, params, split=9)
    first, *others = sorted(tmp_path.glob("x-*.gguf"))
    whole = write(tmp_path / "whole.gguf", TINY, params)
    for path in (first, others[-1]):
        assert_same_bits(hub.load(path).params, hub.load(whole).params)
    before = fingerprint.fingerprint(str(first))
    assert before == fingerprint.fingerprint(str(others[0])) != fingerprint.fingerprint(str(whole))
    others[-1].write_bytes(others[0].read_bytes())
    assert before != fingerprint.fingerprint(str(first))
    with pytest.raises(ValueError, match=r"tensors, and split.tensors.count is"):
        hub.load(first)
    others[0].unlink()
    with pytest.raises(ValueError, match=rf"of \d files {others[0].name} are not there"):
        hub.load(first)


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_same_numbers(tmp_path, kind):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")  # Which it wants for these files.
    # It has no Llama 3.1's scaling in its way of reading these files.
    config = dataclasses.replace(KINDS[kind], rope_scaling=None)
    params = parameters(config)
    path = write(tmp_path / "x.gguf", config, params, kind=kind)
    options = {"gguf_file": path.name, "attn_implementation": "eager"}
    # Nor what all real ones of these have alike.
    options |= {"head_dim": 16} if kind == "qwen3" else {}
    if config.norm_plus_one:
        options |= {"query_pre_attn_scalar": 16, "layer_types": [*config.layer_types]}
        options |= {"attn_logit_softcapping": config.attn_logit_softcap}
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **options)
    tokens = np.arange(40)[None] * 7 % config.vocab_size
    with torch.no_grad():
        expected = model.model(torch.tensor(tokens)).last_hidden_state.numpy()
    loaded = hub.load(path)
    np.testing.assert_allclose(hidden_of(loaded.config, loaded.params, tokens), expected, atol=1e-4)


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
        (
            {"rename": {"output_norm.weight": "rope_freqs.weight"}},
            "rope_freqs.weight is not Llama 3.1",
        ),
        ({"rename": {"output_norm.weight": "rope_long.weight"}}, "rope_long.weight has no place"),
        ({"general.architecture": "gemma"}, "general.architecture is 'gemma'"),
        ({"llama.logit_scale": 2.0}, "llama.logit_scale is not known here"),
        ({"llama.rope.scaling.type": "longrope"}, "llama.rope.scaling.type is 'longrope'"),
        ({"llama.rope.scaling.yarn_beta_fast": 16.0}, "yarn_beta_fast is not known here"),
        ({"split.count": 3}, "split.count is 3; only 1, by the file's name"),
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


# Of the tokenizer.json of Llama 3 and of Qwen 3.
LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_WORDS = LLAMA_WORDS.replace("{1,3}", "")
ODD = ("It's WE'LL 12345 we", "cafe\u0301  \n\n x", "the  sea.\n\n\nTwo", "é漢🙂", " The", "")


def byte_pairs(words, normalizer=None, **options):
    """A trained tokenizer, and its metadata in a file."""
    bpe = Tokenizer(models.BPE(**options))
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cut = pre_tokenizers.Split(Regex(words), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([cut, pieces])
    if normalizer:
        bpe.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    kinds = {"special_tokens": ["<bos>", "<eos>", "<unk>"], "initial_alphabet": alphabet}
    sentences = [*tiny.SENTENCES, "Twelve is 12, 123 is more, and 12345 is much more."]
    bpe.train_from_iterator(sentences, trainers.BpeTrainer(vocab_size=330, **kinds))
    merges = json.loads(bpe.to_str())["model"]["merges"]
    return bpe, {"tokenizer.ggml.merges": [" ".join(pair) for pair in merges]}


def sentence_pieces():
    """As Gemma's: runs of spaces are tokens of their own."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Replace(" ", "▁")
    special = ["<bos>", "<eos>", "<unk>", "  ", "\n\n", *(f"<0x{i:02X}>" for i in range(256))]
    bpe.train_from_iterator(
        tiny.SENTENCES, trainers.BpeTrainer(vocab_size=400, special_tokens=special)
    )
    trained = json.loads(bpe.to_str())["model"]
    pairs = [tuple(pair) for pair in trained["merges"]]
    options = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    bpe = Tokenizer(models.BPE(trained["vocab"], pairs, **options))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.add_tokens([AddedToken(token, normalized=False) for token in special[3:5]])
    return bpe, {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.scores": [-float(i) for i in range(400)],
        "tokenizer.ggml.add_space_prefix": False,
    }


@pytest.mark.parametrize(
    ("kind", "pre", "made"),
    [
        ("llama", "llama-bpe", lambda: byte_pairs(LLAMA_WORDS, ignore_merges=True)),
        ("qwen2", "qwen2", lambda: byte_pairs(QWEN_WORDS, normalizers.NFC())),
        ("gemma2", "default", sentence_pieces),
    ],
)
def test_a_tokenizer_of_each_kind_gives_the_ids_of_the_one_it_was_made_from(
    tmp_path, kind, pre, made
):
    reference, meta = made()
    tokens = [reference.id_to_token(i) for i in range(reference.get_vocab_size())]
    kinds = [3, 3, 2] + [
        6 if x.startswith("<0x") else 4 if x in ("  ", "\n\n") else 1 for x in tokens
    ]
    meta |= {
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds[:3] + kinds[6:],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 2,
    }
    config = dataclasses.replace(KINDS[kind], vocab_size=len(tokens), rope_scaling=None)
    path = write(tmp_path / "x.gguf", config, random_params(config), change=meta, kind=kind)
    tokenizer = hub.load(path).tokenizer
    for text in (*tiny.SENTENCES, *ODD):
        ids = reference.encode(text, add_special_tokens=False).ids
        assert tokenizer(text)["input_ids"] == [0] * (kind != "qwen2") + ids
        assert tokenizer.decode(ids) == (
            text if kind != "qwen2" else unicodedata.normalize("NFC", text)
        )
    digits = tokens_of(tokenizer, "12345")[-5:]
    assert (digits[-2:] == ["123", "45"]) == (kind == "llama")


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
    return tiny.smollm2(hub.load)


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
