"""`hs2jax judge` with layer weights that are fitted to validation data, saved, and used again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from command import fail, succeed
from judge_runs import column, flags, items_of, judged, prepare, write

from hs2jax.data import corpora
from hs2jax.judging import criteria, lager, readings
from hs2jax.judging.judge import Judge, requests_of


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module")
def validated(here, tmp_path_factory) -> Path:
    """A run on the last prompts with weights that are fitted to ratings of the first."""
    workdir, rated = tmp_path_factory.mktemp("validated"), here / "rated.jsonl"
    data = {"data": f"ratings:{rated}[5:]", "validation": f"ratings:{rated}[:5]"}
    succeed("judge", *flags(here, workdir, **data, recipe="published"))
    return workdir


def test_weights_are_fitted_to_the_validation_data_and_serve_again(here, validated, tmp_path):
    saved, (entry,) = (
        json.loads((validated / "weights.json").read_text()),
        judged(validated)["sets"],
    )
    assert saved["fitted"]["data"] == judged(validated)["weights_from"]
    assert saved["fitted"]["data"].endswith("[:5]")
    assert (saved["fitted"]["samples"], saved["fitted"]["recipe"]) == (19, "published")
    assert entry["weights"] == {"mean": saved["weights"], "folds": []}
    assert np.ptp(saved["weights"]) > 1e-4
    groups = list(corpora.read(f"ratings:{here / 'rated.jsonl'}[5:]"))
    chosen = criteria.load(str(here / "criteria.json"))
    requests = [request for group in groups for request in requests_of(group, chosen)]
    judge = Judge.load(str(here / "model"))
    logits = np.concatenate(
        [r.logits for r in readings.kept(judge, requests, validated / "readings")]
    )
    items, preset = items_of(validated, "ratings-rated-5"), lager.PRESETS["recommended"]
    weights = np.array(saved["weights"], np.float32)
    for way in lager.AGGREGATIONS:
        expected = lager.aggregate(logits, chosen[0].scale, way, preset, weights)
        np.testing.assert_allclose(column(items, way), expected, atol=1e-6)
    expected = np.asarray(lager.distribution(logits, preset, weights))
    np.testing.assert_allclose([item["distribution"] for item in items], expected, atol=1e-6)

    shutil.copytree(validated / "readings", tmp_path / "readings")
    path = validated / "weights.json"
    succeed("judge", *flags(here, tmp_path, data=entry["data"], weights=path))
    assert items_of(tmp_path, "ratings-rated-5") == items
    assert judged(tmp_path)["weights_from"] == str(path)
    assert not (tmp_path / "weights.json").exists()


def test_weights_are_not_judged_by_what_they_were_fitted_to(here, tmp_path):
    rated = f"ratings:{here / 'rated.jsonl'}"
    told = fail(
        "judge", *flags(here, tmp_path / "a", data=f"{rated}[:3]", validation=f"{rated}[:3]")
    )
    assert "config.validation: all of its prompts are in config.data, too" in told
    wide = {
        "data": f"{rated}[3:]",
        "validation": f"{rated}[:5]",
        "recipe": "published",
        "on_error": "skip",
    }
    succeed("judge", *flags(here, tmp_path / "b", **wide))
    apart = {"data": f"{rated}[5:]", "validation": f"{rated}[:3]", "recipe": "published"}
    succeed("judge", *flags(here, tmp_path / "c", **apart))
    found = [json.loads((tmp_path / run / "weights.json").read_text()) for run in "bc"]
    assert found[0]["weights"] == found[1]["weights"]
    assert found[0]["fitted"]["samples"] == found[1]["fitted"]["samples"]


@pytest.mark.parametrize("what", ["model", "preset", "norm", "template", "file"])
def test_weights_of_another_judge_are_refused(here, validated, tmp_path, what):
    path, settings = validated / "weights.json", {}
    if what == "model":
        tiny.language_model(tmp_path / "other", seed=1, max_seq_len=4096)
        settings, words = {"model": tmp_path / "other"}, "checksum is"
    elif what == "preset":
        settings, words = {"preset": "repository"}, "layers is 4 there and 3 here"
    elif what == "norm":
        settings, words = {"preset": "paper"}, "preset.norm is 'final' there and 'none' here"
    elif what == "template":
        shutil.copytree(here / "model", tmp_path / "other")
        template = tmp_path / "other" / "chat_template.jinja"
        template.write_text(template.read_text().replace("user", "human") + " ")
        settings, words = {"model": tmp_path / "other"}, "template is 'pointwise-"
    else:
        path = write(tmp_path / "weights.json", [{"weights": [0.5, 0.5]}])
        words = "field 'model'"
    said = fail("judge", *flags(here, tmp_path / "run", weights=path, **settings))
    assert f"config.weights: {path}" in said
    assert words in said
    assert not (tmp_path / "run" / "readings").exists()
