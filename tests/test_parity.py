"""The decoder, its files and its scores against transformers' torch classes, in float32."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import TALK, chat_tokenizer
from transformers import AutoTokenizer, LlamaConfig

from hs2jax.models import hub
from hs2jax.models.decoder import Decoder
from hs2jax.models.heads import logits, reward

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
CLOSE = {"atol": 1e-4, "rtol": 1e-4}

SHAPES = {
    "one key head each": {"num_key_value_heads": 4},
    "grouped": {"num_key_value_heads": 2, "rope_parameters": {"rope_theta": 5e5}},
    "one key head": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "wide heads": {"num_key_value_heads": 2, "head_dim": 24, "rms_norm_eps": 1e-5},
}


def tiny_torch(kind, **changes):
    """A random model with weights large enough that every part of it shows in the output."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "initializer_range": 0.3,
    }
    model = getattr(transformers, kind)(LlamaConfig(**(settings | changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


def run(model, ids):
    """(hidden, states of every layer) of our decoder for ids [B, T]."""
    B, T = ids.shape
    position = jnp.broadcast_to(jnp.arange(T), (B, T))
    decoder = Decoder(model.config)
    hidden, out = decoder.apply({"params": model.params}, ids, position, None, position)
    return hidden, out["states"]


def assert_language_models_agree(ours, theirs, ids):
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), output_hidden_states=True)
    hidden, states = run(ours, jnp.array(ids))
    # transformers' last hidden state has been through the final norm; ours has not.
    for layer, state in enumerate(expected.hidden_states[:-1]):
        # Against each token's largest number: in SmolLM2 that is up to 20,000, where one step of
        # float32 is 0.002. Both sides are that far from the same sums in float64.
        largest = np.max(np.abs(state.numpy()), axis=-1, keepdims=True).clip(1)
        worst = np.max(np.abs(np.asarray(states[layer]) - state.numpy()) / largest)
        assert worst < 1e-4, f"layer {layer}: {worst}"
    np.testing.assert_allclose(hidden, expected.hidden_states[-1].numpy(), **CLOSE)
    np.testing.assert_allclose(logits(ours.params, hidden), expected.logits.numpy(), **CLOSE)


def assert_same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("size", ["30KB", "5GB"])
@pytest.mark.parametrize("shape", SHAPES)
def test_language_models_agree_and_come_back_with_the_same_bits(tmp_path, shape, size):
    theirs = tiny_torch("LlamaForCausalLM", **SHAPES[shape])
    theirs.save_pretrained(tmp_path / "in", max_shard_size=size)
    assert (tmp_path / "in" / "model.safetensors.index.json").exists() == (size == "30KB")
    ours = hub.load(tmp_path / "in")
    ids = np.random.default_rng(0).integers(0, 300, (2, 17))
    assert_language_models_agree(ours, theirs, ids)

    hub.save(tmp_path / "out", config=ours.config, params=ours.params, max_shard_bytes=30_000)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(again) is type(theirs)
    assert_same_weights(again, theirs)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_a_reward_model_of_theirs_agrees_and_comes_back(tmp_path, outputs, tied):
    names = [f"output {i}" for i in range(outputs)]
    theirs = tiny_torch(
        "LlamaForSequenceClassification",
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        id2label=dict(enumerate(names)),
        pad_token_id=299,
    )
    theirs.save_pretrained(tmp_path / "in")
    ours = hub.load(tmp_path / "in")
    assert ours.outputs == tuple(names)
    ids = np.random.default_rng(1).integers(0, 299, (3, 11))
    lengths = [11, 7, 1]
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = 299
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), attention_mask=torch.tensor(ids != 299)).logits
    hidden, _ = run(ours, jnp.array(ids))
    scores = reward(ours.head, hidden, jnp.array(lengths)[:, None] - 1)[:, 0]
    np.testing.assert_allclose(scores, expected.numpy(), **CLOSE)

    hub.save(
        tmp_path / "out",
        config=ours.config,
        params=ours.params,
        head=ours.head,
        outputs=ours.outputs,
    )
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert again.config.id2label == dict(enumerate(names))
    assert again.config.pad_token_id == 299
    assert_same_weights(again, theirs)


def scores_of(model, tokenizer, talks):
    """Our score of each conversation, alone and without padding; [conversations, outputs]."""
    rows = []
    for talk in talks:
        text = tokenizer.apply_chat_template(talk, tokenize=False).rstrip()
        ids = jnp.array([tokenizer(text, add_special_tokens=False)["input_ids"]])
        hidden, _ = run(model, ids)
        rows.append(reward(model.head, hidden, jnp.array([[ids.shape[1] - 1]]))[0, 0])
    return np.stack(rows)


@pytest.mark.parametrize("special", [("<unk>", "<|im_start|>", "<|im_end|>"), None])
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_exported_reward_model_scores_alike_in_transformers(tmp_path, side, special):
    # With the default special tokens and one more, a pad token is found; else one is added.
    special = special or ("<unk>", "<|im_start|>", "<|im_end|>", "<idle>")
    tokenizer = chat_tokenizer(special, pad_token="<|im_end|>")
    tiny_torch("LlamaForCausalLM", vocab_size=len(tokenizer), eos_token_id=2).save_pretrained(
        tmp_path / "in"
    )
    ours = hub.load(tmp_path / "in")
    kernel = np.random.default_rng(2).normal(size=(32, 2)).astype(np.float32)
    head = {"kernel": kernel}
    hub.save(
        tmp_path / "out",
        config=ours.config,
        params=ours.params,
        tokenizer=tokenizer,
        head=head,
        outputs=["helpfulness", "verbosity"],
    )
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


@pytest.fixture(scope="module")
def smollm2():
    try:
        return hub.load("smollm2-135m-instruct")
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_smollm2_agrees(smollm2, tmp_path):
    hub.save(tmp_path, config=smollm2.config, params=smollm2.params, tokenizer=smollm2.tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    text = "In 1969, 2 people walked on the Moon; the journey of 384,400 km took them 3 days."
    ids = AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
    assert ids == smollm2.tokenizer(text)["input_ids"]
    assert_language_models_agree(smollm2, theirs, np.array([ids]))
