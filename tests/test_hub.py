"""Checkpoint folders written and read."""

import dataclasses
import json

import huggingface_hub
import jax
import ml_dtypes
import numpy as np
import pytest
from huggingface_hub.utils import filter_repo_objects
from safetensors.numpy import load_file, save_file
from tiny_models import TINY, assert_same_bits, random_head, random_params, save

from hs2jax.models.hf import hub, weights
from hs2jax.models.sharding import make_mesh, shardings


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_files_hold_the_rounded_numbers(tmp_path, dtype):
    params = save(tmp_path, dtype=dtype)
    kind = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}[dtype]
    again, rounded = hub.load(tmp_path), lambda x: x.astype(kind).astype(np.float32)
    assert_same_bits(again.params, jax.tree.map(rounded, params))
    assert again.hf_config["dtype"] == dtype


@pytest.mark.parametrize("max_bytes", [1, 2000, 5e9])
@pytest.mark.parametrize("axes", [None, (1, 8, 1), (2, 2, 2)])
def test_a_folder_gives_back_the_bits_whole_or_into_shards(tmp_path, axes, max_bytes):
    params = save(tmp_path, max_shard_bytes=max_bytes)
    mesh = axes and make_mesh(*axes)
    loaded = hub.load(tmp_path, mesh)
    assert loaded.config == TINY
    assert_same_bits(loaded.params, params)
    if mesh:
        wanted = shardings(weights.shapes(TINY), mesh)
        assert jax.tree.map(lambda x: x.sharding, loaded.params) == wanted


def edited(folder, edit):
    """Rewrites the folder's one safetensors file with `edit(name -> array)`."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "layers.1.mlp.up_proj.weight"),
        (lambda t: t.update({"model.extra": np.zeros(2, np.float32)}), "model.extra"),
        (lambda t: t.update({"model.norm.weight": np.zeros(15, np.float32)}), "[15]"),
        (lambda t: t.update({"model.norm.weight": np.zeros(16, np.int32)}), "type I32"),
        (lambda t: t.update({"norm.weight": t["model.norm.weight"]}), "is also in"),
        (lambda t: t.update({"score.weight": np.zeros((2, 5), np.float32)}), "[outputs, 16]"),
        (lambda t: t.update({"score.weight": np.zeros((0, 16), np.float32)}), "[outputs, 16]"),
        (lambda t: t.update({"score.bias": np.zeros(2, np.float32)}), "score.weight is missing"),
    ],
)
def test_a_wrong_tensor_is_named_with_its_file(tmp_path, edit, named):
    save(tmp_path)
    edited(tmp_path, edit)
    with pytest.raises(ValueError, match=r"model\.safetensors") as error:
        hub.load(tmp_path)
    assert named in str(error.value)


def test_names_without_model_and_old_buffers_are_taken(tmp_path):
    params = save(tmp_path)

    def bare(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)
        tensors["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)

    edited(tmp_path, bare)
    assert_same_bits(hub.load(tmp_path).params, params)


def test_tied_weights_written_twice_must_be_equal(tmp_path):
    tied = dataclasses.replace(TINY, tied=True)
    params = save(tmp_path, tied)
    edited(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))
    assert_same_bits(hub.load(tmp_path).params, params)
    edited(tmp_path, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] + 1}))
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        hub.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.99])
def test_a_file_that_was_cut_short_is_named(tmp_path, keep):
    save(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if keep >= 1 else int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"model\.safetensors.*cut short"):
        hub.load(tmp_path)


def test_what_is_near_a_model_is_named(tmp_path):
    save(tmp_path / "run" / "checkpoint-9")
    with pytest.raises(FileNotFoundError, match=r"is .*run/checkpoint-9 meant"):
        hub.load(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"safetensors is a file: give the folder"):
        hub.load(tmp_path / "run" / "checkpoint-9" / "model.safetensors")


def test_missing_files_are_named(tmp_path):
    save(tmp_path, max_shard_bytes=2000)
    lost = min(tmp_path.glob("model-*.safetensors"))
    lost.unlink()
    with pytest.raises(ValueError, match=lost.name):
        hub.load(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="not an index"):
        hub.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is not there"):
        hub.load(tmp_path)


def test_weights_of_another_format_are_named_with_the_way_to_convert_them(tmp_path):
    save(tmp_path)
    other = (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    words = r"pytorch_model\.bin.*not supported(?s:.*)save_pretrained"
    with pytest.raises(ValueError, match=words):
        hub.load(tmp_path)
    other.unlink()
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor .* is there$"):
        hub.load(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_map": {"AutoTokenizer": ["tokenization_internlm3.InternLM3Tokenizer", None]}},
        {"tokenizer_class": "LlamaTokenizer"},
    ],
)
def test_a_tokenizer_that_cannot_be_converted_is_named_with_what_to_do(tmp_path, settings):
    save(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not sentencepiece's")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"there is no tokenizer\.json") as error:
        hub.load(tmp_path)
    text = str(error.value)
    assert text.startswith(str(tmp_path))
    assert "LlamaTokenizerFast.from_pretrained(" in text
    assert f".save_pretrained({str(tmp_path)!r})" in text
    assert ("code of the checkpoint" in text) == ("auto_map" in settings)


def test_the_hub_s_copies_of_weights_are_not_fetched(tmp_path, monkeypatch):
    wanted = {"config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"}
    copies = {"consolidated.safetensors", "original/consolidated.00.pth", "onnx/config.json"}
    fetched = set()

    def download(repository, *, allow_patterns, ignore_patterns, **options):
        patterns = {"allow_patterns": allow_patterns, "ignore_patterns": ignore_patterns}
        fetched.update(filter_repo_objects([*wanted, *copies, "README.md"], **patterns))
        save(tmp_path)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.resolve("mistralai/some-model") == tmp_path
    assert fetched == wanted


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *x, **y: asked.append(y) or 1 / 0
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    for name in ("./runs/quikstart/model", "runs/quikstart"):
        with pytest.raises(FileNotFoundError, match=r"is runs/quickstart meant\?$"):
            hub.resolve(name)
    assert all(each["local_files_only"] for each in asked)


def test_a_reward_model_without_its_head_is_refused(tmp_path):
    save(tmp_path, head=random_head(TINY), outputs=["a", "b"])
    edited(tmp_path, lambda t: t.pop("score.weight"))
    with pytest.raises(ValueError, match=r"no tensor score\.weight"):
        hub.load(tmp_path)


def test_nothing_is_lost_in_saving(tmp_path):
    params, head = random_params(TINY), {"head": random_head(TINY)}
    headless = dataclasses.replace(TINY, language_head=False)
    mlp = {name: leaf for name, leaf in params["layers"]["mlp"].items() if name != "up"}
    lacking = params | {"layers": params["layers"] | {"mlp": mlp}}
    for wrong, options, named in (
        (params | {"adapter": np.zeros(3)}, {}, "parameter adapter has no place"),
        (lacking, {}, "parameter layers/mlp/up is missing"),
        (params, head | {"outputs": ["one"]}, "number of outputs"),
        (params, head | {"outputs": ["a", "a"]}, "one name"),
        (params, head | {"outputs": ["a", "b"], "weights": {"c": 1.0}}, r"for \['c'\], but the"),
        (None, {"config": headless}, "no language head"),
    ):
        with pytest.raises(ValueError, match=named):
            save(tmp_path / "model", params=wrong, **options)
    assert list(tmp_path.iterdir()) == []
