"""A file of layer weights: comes back as it was, and only to the judge it was made for."""

import dataclasses
import json

import numpy as np
import pytest

from hs2jax.judging import layer_weights
from hs2jax.judging.lager import PRESETS

OURS, PAPER, REPOSITORY = (PRESETS[name] for name in ("recommended", "paper", "repository"))
VALUES = np.arange(1, 6)


@pytest.fixture
def saved(tmp_path):
    """A file of weights, the fit it was made of, and the judge that may use it."""
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(40, 2, 8, 5)), rng.integers(1, 6, size=40)
    fit = layer_weights.fit(logits, targets, VALUES, OURS, seed=3)
    path = tmp_path / "weights.json"
    layer_weights.save(
        path,
        fit,
        model="tiny",
        checksum="0a1b-2c3d",
        template="pointwise",
        preset=OURS,
        scale=VALUES,
        data="40 samples of noise",
    )
    judge = {
        "checksum": "0a1b-2c3d",
        "template": "pointwise",
        "preset": OURS,
        "layers": 8,
    }
    return path, fit, judge


def test_saved_weights_come_back_bit_by_bit_and_say_where_they_are_from(saved):
    path, fit, judge = saved
    loaded = layer_weights.load(path, **judge)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, fit.weights)
    np.testing.assert_array_equal(layer_weights.load(str(path), **judge), fit.weights)
    row = json.loads(path.read_text())
    assert row["model"] == {"name": "tiny", "checksum": "0a1b-2c3d"}
    assert row["preset"] == dataclasses.asdict(OURS)
    assert row["fitted"] == {
        "data": "40 samples of noise",
        "samples": 40,
        "recipe": "published",
        "seed": 3,
        "steps": 10,
        "loss": {"before": fit.before, "after": fit.after},
    }
    assert [file.name for file in path.parent.iterdir()] == ["weights.json"]
    # How weights were found does not bind those who use them, and they may ask otherwise.
    np.testing.assert_array_equal(layer_weights.load(path, **judge | {"template": None}), loaded)
    other_loss = dataclasses.replace(OURS, error="absolute", mix=0.5, double_softmax=True)
    np.testing.assert_array_equal(
        layer_weights.load(path, **judge | {"preset": other_loss}), fit.weights
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"checksum": "ffff"}, "checksum is '0a1b-2c3d' there and 'ffff' here"),
        ({"template": "pairwise"}, "template is 'pointwise' there and 'pairwise' here"),
        ({"layers": 9}, "layers is 8 there and 9 here"),
        ({"preset": PAPER}, "preset.norm is 'final' there and 'none' here"),
        (
            {"preset": REPOSITORY, "checksum": "ffff"},
            "checksum is .*; preset.layers is 'all' there and 'without_last' here; preset.norm is",
        ),
    ],
)
def test_weights_for_another_judge_are_refused_by_name(saved, change, words):
    path, _, judge = saved
    with pytest.raises(ValueError, match=words) as error:
        layer_weights.load(path, **judge | change)
    assert str(path) in str(error.value)
    assert "for another judge, tiny" in str(error.value)


WEIGHTS = [0.125] * 8
MALFORMED = [
    ({"weights": WEIGHTS[:7]}, "weights", "expected 8 numbers, as 'layers' says, found 7"),
    ({"weights": [0.1] * 8}, "weights", "sum to 1, found a sum of 0.8"),
    ({"weights": [*WEIGHTS[:2], -0.125, *WEIGHTS[:5]]}, "weights[2]", "from 0 to 1"),
    ({"model": {"name": "tiny"}}, "model.checksum", "expected a text, found null"),
    ({"preset": {"layers": "all"}}, "preset.norm", "expected a text"),
]


@pytest.mark.parametrize(("change", "field", "words"), MALFORMED)
def test_a_malformed_file_is_refused_by_field(saved, change, field, words):
    path, _, judge = saved
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="It is no file of layer weights") as error:
        layer_weights.load(path, **judge)
    assert f"{path}, field '{field}': " in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"\xff\xfe\x00"])
def test_a_file_that_is_not_json_is_refused(saved, content):
    path, _, judge = saved
    path.write_bytes(content)
    with pytest.raises(ValueError, match="field 'row': expected one JSON object"):
        layer_weights.load(path, **judge)
