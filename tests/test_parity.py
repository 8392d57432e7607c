"""What does not depend on the family, against transformers' torch classes, in float32: shards,
heads of several outputs, exported tokenizers, and a real model."""

import families
import jax.numpy as jnp
import numpy as np
import parity_table
import pytest
import tiny
from families import VARIANTS
from tiny_models import TALK, chat_tokenizer
from transformers import AutoTokenizer

from hs2jax.models.heads import reward
from hs2jax.models.hf import hub

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
LLAMA = VARIANTS["Llama 3"]


def assert_same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("size", ["30KB", "5GB"])
def test_a_checkpoint_in_one_or_several_files_comes_back_with_the_same_bits(tmp_path, size):
    theirs = families.build(LLAMA)
    theirs.save_pretrained(tmp_path / "in", max_shard_size=size)
    assert (tmp_path / "in" / "model.safetensors.index.json").exists() == (size == "30KB")
    ours = hub.load(tmp_path / "in")
    assert max(parity_table.language_models(ours, theirs, parity_table.random_ids(2))) < 1e-4

    hub.save(tmp_path / "out", config=ours.config, params=ours.params, max_shard_bytes=30_000)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(again) is type(theirs)
    assert_same_weights(again, theirs)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_a_reward_model_of_theirs_agrees_and_comes_back(tmp_path, outputs, tied):
    names = [f"output {i}" for i in range(outputs)]
    theirs = families.build(
        LLAMA, head=True, tie_word_embeddings=tied, id2label=dict(enumerate(names))
    )
    theirs.save_pretrained(tmp_path / "in")
    ours = hub.load(tmp_path / "in")
    assert ours.outputs == tuple(names)
    assert parity_table.reward_models(ours, theirs) < 1e-4

    parity_table.export(ours, tmp_path / "out")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert again.config.id2label == dict(enumerate(names))
    assert again.config.pad_token_id == families.PAD
    assert_same_weights(again, theirs)


def scores_of(model, tokenizer, talks):
    """Our score of each conversation, alone and without padding; [conversations, outputs]."""
    rows = []
    for talk in talks:
        text = tokenizer.apply_chat_template(talk, tokenize=False).rstrip()
        ids = jnp.array([tokenizer(text, add_special_tokens=False)["input_ids"]])
        hidden, _ = parity_table.run(model.params, ids, model.config)
        rows.append(reward(model.head, hidden, jnp.array([[ids.shape[1] - 1]]))[0, 0])
    return np.stack(rows)


@pytest.mark.parametrize("special", [("<unk>", "<|im_start|>", "<|im_end|>"), None])
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_exported_reward_model_scores_alike_in_transformers(tmp_path, side, special):
    # With the default special tokens and one more, a pad token is found; else one is added.
    special = special or ("<unk>", "<|im_start|>", "<|im_end|>", "<idle>")
    tokenizer = chat_tokenizer(special, pad_token="<|im_end|>")
    theirs = families.build(LLAMA, vocab_size=len(tokenizer), pad_token_id=None)
    theirs.save_pretrained(tmp_path / "in")
    ours = hub.load(tmp_path / "in")
    head = {"kernel": np.random.default_rng(2).normal(size=(32, 2)).astype(np.float32)}
    saved = {"params": ours.params, "head": head, "outputs": ["helpfulness", "verbosity"]}
    hub.save(tmp_path / "out", config=ours.config, tokenizer=tokenizer, **saved)
    talks = [TALK, [*TALK[:1], {"role": "assistant", "content": "No"}], TALK * 2]
    expected = scores_of(hub.Loaded(ours.config, ours.params, head, None, {}), tokenizer, talks)

    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    batch = AutoTokenizer.from_pretrained(tmp_path / "out", padding_side=side).apply_chat_template(
        talks, padding=True, return_tensors="pt", return_dict=True
    )
    assert not batch["attention_mask"].all()
    with torch.no_grad():
        np.testing.assert_allclose(theirs(**batch).logits.numpy(), expected, **CLOSE)

    # And the export is, here, the same model.
    again = hub.load(tmp_path / "out")
    np.testing.assert_array_equal(scores_of(again, again.tokenizer, talks), expected)


def test_smollm2_agrees(tmp_path):
    ours = tiny.smollm2(hub.load)
    hub.save(tmp_path, config=ours.config, params=ours.params, tokenizer=ours.tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    text = "In 1969, 2 people walked on the Moon; the journey of 384,400 km took them 3 days."
    ids = AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
    assert ids == ours.tokenizer(text)["input_ids"]
    assert max(parity_table.language_models(ours, theirs, np.array([ids]))) < 1e-4
