"""Every family against its torch class: numbers, bytes, and each setting that the numbers show."""

import functools
import itertools
import json

import families
import jax
import jax.numpy as jnp
import numpy as np
import parity_table
import pytest
from families import ONE_OF_EACH, VARIANTS

from hs2jax.data import packing
from hs2jax.data.chat import Encoded
from hs2jax.inference import predict
from hs2jax.models.decoder import Decoder, Probe
from hs2jax.models.heads import logits
from hs2jax.models.hf import hub

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

CLOSE = 1e-4  # Both sides add float32 in orders of their own.
VISIBLE = 10 * CLOSE


@pytest.mark.parametrize("name", VARIANTS)
def test_states_logits_scores_and_bytes_agree_and_exports_score_alike_in_transformers(
    tmp_path, name
):
    models = parity_table.build(VARIANTS[name])
    found = parity_table.measure(VARIANTS[name], tmp_path, models)
    assert found.same_bytes
    assert max(found.states, found.logits, found.scores) < CLOSE, found
    ids = parity_table.random_ids(2)
    ids[0, -20:] = families.PAD
    autos = "AutoModelForCausalLM", "AutoModelForSequenceClassification"
    for (part, theirs), auto in zip(models.items(), autos, strict=True):
        folder = tmp_path / f"{part}-exported"
        again = getattr(transformers, auto).from_pretrained(folder, attn_implementation="eager")
        assert type(again) is type(theirs)
        expected, scores = (parity_table.their_scores(model, ids) for model in (theirs, again))
        np.testing.assert_array_equal(scores, expected)
        # And here it is the same model.
        assert hub.config_of(str(folder)) == hub.config_of(str(tmp_path / part))
    assert tuple(again.config.id2label.values()) == families.OUTPUTS


@pytest.mark.parametrize("name", VARIANTS)
def test_a_little_of_another_parameter_would_be_seen(tmp_path, name):
    ours = hub.load(families.save(VARIANTS[name], families.build(VARIANTS[name]), tmp_path))
    ids = jnp.asarray(parity_table.random_ids(2))

    def outputs(params):
        hidden, _ = parity_table.run(params, ids, ours.config)
        return logits(params, hidden, ours.config)

    plain, rng = outputs(ours.params), np.random.default_rng(4)
    for path, leaf in jax.tree.leaves_with_path(ours.params):
        # Not all by one factor, which the norm behind some of them would take out again.
        other = leaf * rng.uniform(0.9, 1.1, leaf.shape).astype(np.float32)
        changed = jax.tree.map_with_path(
            lambda at, x, path=path, other=other: other if at == path else x, ours.params
        )
        assert parity_table.difference(outputs(changed), plain) > VISIBLE, path


@pytest.mark.parametrize("name", [name for name in VARIANTS if VARIANTS[name].bites])
def test_a_little_of_another_setting_would_be_seen(tmp_path, name):
    # Else a model whose numbers do not depend on the setting would agree as well.
    theirs, ids = families.build(VARIANTS[name]), parity_table.random_ids(2)
    families.save(VARIANTS[name], theirs, tmp_path)
    plain = (tmp_path / "config.json").read_text()
    for key, value in VARIANTS[name].bites.items():
        families.edit(tmp_path, {key: value})
        found = parity_table.language_models(hub.load(tmp_path), theirs, ids)
        assert max(found) > VISIBLE, (key, found)
        (tmp_path / "config.json").write_text(plain)


@pytest.mark.parametrize("name", ["Llama 3", "Gemma 3, scaled rope", "Nemotron"])
def test_bfloat16_comes_back_with_the_same_bits(tmp_path, name):
    variant = VARIANTS[name]
    families.save(variant, families.build(variant).bfloat16(), tmp_path / "in")
    parity_table.export(hub.load(tmp_path / "in"), tmp_path / "out", dtype="bfloat16")
    assert parity_table.tensors(tmp_path / "out") == parity_table.tensors(tmp_path / "in")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["Gemma 2", "Gemma 3, scaled rope"])
def test_bfloat16_embeddings_are_scaled_to_the_same_bits(tmp_path, name):
    # The factor itself is rounded to bfloat16 there; it is 5.65625 here and not 5.65685.
    theirs = families.build(VARIANTS[name]).bfloat16()
    ours = hub.load(families.save(VARIANTS[name], theirs, tmp_path))
    ids = parity_table.random_ids(2)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), output_hidden_states=True).hidden_states[0]
    at = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    decoder = Decoder(ours.config, dtype=jnp.bfloat16)
    _, out = decoder.apply({"params": ours.params}, jnp.asarray(ids), at, None, Probe(at))
    found = np.asarray(out["probe"][0].astype(jnp.float32))
    np.testing.assert_array_equal(found, expected.float().numpy())


def groups(rng):
    """Two rows of groups of a prompt and its responses, in token ids; one is several windows long
    before its responses branch off."""
    draw = functools.partial(rng.integers, 0, families.PAD)

    def example(prompt, *responses):
        unrated = np.zeros((len(responses), 0))
        encoded = Encoded(draw(prompt), tuple(map(draw, responses)))
        return packing.Example(encoded, unrated, unrated, [])

    return [[example(4 * families.WINDOW, 2, 10, 7)], [example(13, 21, 1), example(3, 5)]]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_packed_conversations_score_as_each_does_alone(tmp_path, name):
    variant = VARIANTS[name]
    theirs = families.build(variant, head=True)
    ours = hub.load(families.save(variant, theirs, tmp_path))
    rows = groups(np.random.default_rng(3))

    def of_row(row):
        of = [(each.encoded.prompt, y) for each in row for y in each.encoded.responses]
        return [parity_table.their_scores(theirs, np.concatenate(both)[None])[0] for both in of]

    expected = np.stack([of_row(row) for row in rows])
    # The responses of one prompt differ, so an answer read from the wrong one would show.
    scores = expected.reshape(-1, len(families.OUTPUTS))
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(scores, 2)) > VISIBLE
    params = {"decoder": ours.params, "head": ours.head}
    for layout in packing.LAYOUTS:
        shape = packing.Shape(length=3 * 42, responses=3, pairs=1, attributes=0)
        batch = {name: jnp.asarray(x) for name, x in packing.lay(rows, shape, layout).items()}
        found = predict(params, batch, ours.config, layout=layout, dtype=jnp.float32)
        assert parity_table.difference(found, expected) < CLOSE, layout
