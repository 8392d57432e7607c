"""Steering: planted policies give the numbers they were planted with; runs of tiny models."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import planted_policies
import pytest
import tiny
from command import fail, succeed
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_policies import ATTRIBUTES, BASE, VALUES

from hs2jax.alignment import row_file, sample, steering
from hs2jax.alignment import steering_statistics as statistics
from hs2jax.data.groups import Group
from hs2jax.evaluation import items, scores
from hs2jax.language_model import LanguageModel

# Planted policies ---------------------------------------------------------------------------------


def followed(rows, attribute="verbosity"):
    return statistics.follow(statistics.sweep(rows, attribute, BASE), attribute)


def holds(of: dict, value: float) -> bool:
    low, high = of["interval"]
    return low <= value <= high


def test_a_sweep_changes_one_attribute_only():
    rows = planted_policies.rows(0, prompts=3, n=2)
    for attribute in ATTRIBUTES:
        some = statistics.sweep(rows, attribute, BASE)
        assert len(some.requested) == 3 * 2 * len(VALUES)  # The base is in both.
        assert sorted(set(some.requested)) == list(VALUES)
        assert len(set(some.keys)) == len(some.keys)
        assert len(set(some.prompts.tolist())) == 3
    assert not len(statistics.sweep(rows, "verbosity", BASE | {"helpfulness": 0}).requested)


@pytest.mark.parametrize("follows", [0.0, 0.4])
def test_intervals_hold_what_was_planted(follows):
    """Of 100 policies, about 95: with 15 prompts of ten samples that hang together."""
    trials = 100
    spread = np.var(VALUES) * follows**2
    # Of a sweep: what was asked for, the prompt's own, and each sample's.
    pearson = np.sqrt(spread / (spread + 0.5**2 + 0.5**2))
    held = {"slope": 0, "pearson": 0, "mean": 0}
    for seed in range(trials):
        found = followed(planted_policies.rows(seed, prompts=15, follows=follows))
        held["slope"] += holds(found["slope"], follows)
        held["pearson"] += holds(found["pearson"], pearson)
        held["mean"] += holds(found["values"][0]["measured"], 1.5 - 2 * follows)
    assert all(0.87 * trials <= count <= trials for count in held.values()), held
    assert sum(held.values()) < 3 * trials  # Intervals that hold all would be too wide.


def test_the_closer_policy_is_found_and_equal_ones_are_not():
    loose, close, alike = (
        statistics.sweep(planted_policies.rows(seed, follows=follows), "verbosity", BASE)
        for seed, follows in ((1, 0.1), (2, 0.8), (3, 0.1))
    )
    found = statistics.compare(close, loose, "verbosity")
    for name in statistics.MEASURES:
        assert found[name]["interval"][0] > 0
        assert found[name]["p"] < 0.001
    back = statistics.compare(loose, close, "verbosity")["spearman"]
    assert back["difference"] == pytest.approx(-found["spearman"]["difference"])
    assert back["p"] == pytest.approx(found["spearman"]["p"])
    assert statistics.compare(alike, loose, "verbosity")["spearman"]["p"] > 0.05


def test_policies_that_ignore_the_request_are_seldom_said_to_differ():
    small = 0
    for seed in range(60):
        a, b = (
            statistics.sweep(planted_policies.rows(2 * seed + i), "verbosity", BASE) for i in (0, 1)
        )
        small += statistics.compare(a, b, "verbosity")["spearman"]["p"] < 0.05
    assert small <= 9  # Of 60, 3 are expected.


def test_following_by_length_alone_is_told_from_more_than_that():
    alone = followed(planted_policies.rows(0, prompts=40, follows=0.4, by_length=1.0))
    more = followed(planted_policies.rows(0, prompts=40, follows=0.4, by_length=0.0))
    assert alone["length"]["spearman"]["interval"][0] > 0.3
    assert abs(alone["length"]["partial"]["value"]) < 0.15 < alone["pearson"]["value"]
    assert holds(more["length"]["spearman"], 0)
    assert more["length"]["partial"]["value"] == pytest.approx(more["pearson"]["value"], abs=0.05)


def test_the_partial_correlation_is_that_of_the_three_pairs():
    rng = np.random.default_rng(0)
    z = rng.normal(size=90)
    x, y = z + rng.normal(size=90), 0.5 * z + rng.normal(size=90)
    xy, xz, yz = (np.corrcoef(a, b)[0, 1] for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    prompts = np.arange(90) // 3
    assert statistics.partial(x, y, z, prompts)["value"] == pytest.approx(expected)
    assert statistics.partial(x, z, z, prompts) == statistics.UNDEFINED


def test_what_else_a_request_changes():
    rows = planted_policies.rows(4, prompts=30, follows=0.5)
    for row in rows:
        for measured in row["measured"]:
            measured["helpfulness"] -= 0.6 * measured["verbosity"]
    found = followed(rows)
    assert set(found["others"]) == {"helpfulness", "complexity"}
    assert holds(found["others"]["helpfulness"], -0.3)
    assert found["others"]["helpfulness"]["interval"][1] < 0
    assert holds(found["others"]["complexity"], 0)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 99),
    prompts=st.integers(0, 3),
    n=st.integers(1, 2),
    values=st.sets(st.sampled_from(VALUES), min_size=1).map(sorted),
    measured=st.sampled_from(["as it comes", "all alike", "nothing"]),
    rest=st.sampled_from(["as it comes", "nothing"]),
)
def test_every_number_is_finite_or_none_with_a_reason(seed, prompts, n, values, measured, rest):
    rows = planted_policies.rows(seed, prompts=prompts, n=n, values=values)
    for row in rows:
        if measured == "all alike":
            row["measured"] = [dict.fromkeys(each, 2.5) for each in row["measured"]]
        if measured == "nothing":
            row["measured"] = [None] * n
        if rest == "nothing":
            row["rewards"], row["log_ratio"] = None, [None] * n
    both = steering.compare({"a": rows, "b": rows}, ATTRIBUTES, BASE)
    json.dumps(both, allow_nan=False)
    for policy in both["policies"]:
        for of in policy["attributes"]:
            undefined = of["spearman"]["value"] is None
            assert undefined or 2 in values or len(values) > 1
            assert of["note"] or not undefined
            assert of["n"] + of["left_out"] == sum(
                n
                for row in rows
                if statistics.sweep([row], of["attribute"], BASE).left_out
                or len(statistics.sweep([row], of["attribute"], BASE).requested)
            )
            if measured == "all alike" and of["n"]:
                assert undefined
                assert of["error"]["value"] is not None
    for test in both["tests"]:
        assert test["note"] or test["spearman"]["difference"] == 0


# Runs of tiny models ------------------------------------------------------------------------------

OUTPUTS = ("verbosity", "helpfulness")
QUESTIONS = ("What is bread?", "Is the sea far?", "Who are you?", "How do waves move?")
RANDOM = ("seconds", "environment")


class StoppedError(Exception):
    """As if the process had been killed here."""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("steering")
    tiny.language_model(folder / "before", seed=1)
    tiny.language_model(folder / "after", seed=2)
    weights = {"verbosity": 0.5, "helpfulness": 1.0}
    tiny.save(folder / "ratings", outputs=OUTPUTS, bias=True, weights=weights)
    rows = [{"prompt": question, "responses": ["I forgot."]} for question in QUESTIONS]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config_of(models: Path, **changes):
    config = steering.settings()
    config.policies = f"before={models / 'before'},after={models / 'after'}"
    config.reward_model, config.reference = str(models / "ratings"), str(models / "before")
    config.data = f"responses:{models / 'prompts.jsonl'}"
    config.attributes, config.requested = ("verbosity",), (0, 4)
    config.base = "helpfulness=4,verbosity=0"
    config.n, config.max_new_tokens = 2, 6
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def undisturbed(models, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "default_folder", lambda: workdir.parent / "scores")
        patch.setattr(sample, "chunk", lambda config: 3)
        steering.steer(config_of(models), workdir)
    return workdir


def test_a_run_says_what_was_sampled_and_measured(models, undisturbed):
    result = json.loads((undisturbed / "steering.json").read_text())
    assert [each["name"] for each in result["policies"]] == ["before", "after"]
    assert [(test["earlier"], test["later"]) for test in result["tests"]] == [("before", "after")]
    for policy in result["policies"]:
        rows = items.read(undisturbed / "rows" / f"{policy['name']}.jsonl")
        assert len(rows) == len(QUESTIONS) * 2
        assert policy["totals"]["samples"] == len(rows) * 2
        record = result["records"][policy["name"]]
        assert record["sampled"]["groups"] == len(QUESTIONS)
        assert record["measured"]["rows"] == record["reference"]["rows"] == len(rows)
        assert record["reference"]["too_long"] == 0
        (of,) = policy["attributes"]
        values = [
            each["verbosity"]
            for row in rows
            if row["condition"]["verbosity"] == 4
            for each in row["measured"]
            if each
        ]
        assert of["values"][1]["measured"]["value"] == pytest.approx(np.mean(values))
    assert (undisturbed / "report.html").exists()
    assert not (undisturbed / "reference.jsonl").exists()


def test_the_log_ratio_is_of_the_same_tokens_without_the_request(models, undisturbed):
    rows = items.read(undisturbed / "rows" / "before.jsonl")
    sampled = items.read(undisturbed / "samples" / "before" / "samples.jsonl")
    model, checked = LanguageModel.load(models / "before"), 0
    for row, source in zip(rows[:3], sampled, strict=False):
        plain = Group(
            tuple(row["prompt"]),
            tuple(row["responses"]),
            tokens=tuple(map(tuple, source["tokens"])),
        )
        asked = dataclasses.replace(plain, condition=row["condition"])
        found = model.log_probability_groups([asked, plain])
        for i, (policy, reference) in enumerate(zip(*found, strict=True)):
            assert source["log_proposal"][i] == pytest.approx(policy.sum(), abs=1e-3)
            ratio = policy.sum() - reference.sum()
            assert row["log_ratio"][i] == pytest.approx(ratio, abs=1e-3)
            checked += abs(ratio) > 0.01
    assert checked > 2


def test_a_response_that_says_nothing_has_its_log_ratio(models, undisturbed, tmp_path):
    row = items.read(undisturbed / "samples" / "before" / "samples.jsonl")[0]
    said, ids = row["responses"][0], row["tokens"][0]
    assert said.strip()
    row |= {"responses": ["", said], "tokens": [[2], ids], "log_proposal": [-1.0, -2.0]}
    file, records = row_file.RowFile(tmp_path / "reference.jsonl"), {"before": {}}
    (found,) = steering._log_ratios(config_of(models), {"before": [row]}, file, records)["before"]
    model = LanguageModel.load(models / "before")
    prompt = tuple(row["prompt"])
    group = Group(prompt, ("", said), tokens=tuple(map(tuple, row["tokens"])))
    (tables,) = model.log_probability_groups([group])
    assert found == pytest.approx([-1 - tables[0].sum(), -2 - tables[1].sum()], abs=1e-3)
    with pytest.raises(ValueError, match="empty"):
        Group(prompt, ("", said))


@pytest.mark.parametrize("stopped", ["sampling", "sampling the second", "measuring", "reference"])
def test_a_run_that_was_stopped_ends_as_if_undisturbed(
    models, undisturbed, tmp_path, monkeypatch, stopped
):
    monkeypatch.setattr(scores, "default_folder", lambda: tmp_path / "scores")
    monkeypatch.setattr(sample, "chunk", lambda config: 3)
    chunks = -(-len(QUESTIONS) * 2 // 3)
    after = {"sampling": 2, "sampling the second": chunks + 1, "reference": 2 * chunks + 1}
    left = after.get(stopped, 0)
    add, cached = row_file.RowFile.add, scores.Cache.add

    def counting(self, rows, counts):
        nonlocal left
        add(self, rows, counts)
        left -= 1
        if left == 0:
            raise StoppedError

    def stopping(self, found):
        cached(self, found)
        if stopped == "measuring":
            raise StoppedError

    monkeypatch.setattr(row_file.RowFile, "add", counting)
    monkeypatch.setattr(scores.Cache, "add", stopping)
    workdir = tmp_path / "run"
    with pytest.raises(StoppedError):
        steering.steer(config_of(models), workdir)
    assert not (workdir / "steering.json").exists()
    monkeypatch.setattr(row_file.RowFile, "add", add)
    monkeypatch.setattr(scores.Cache, "add", cached)
    steering.steer(config_of(models), workdir)
    for name in ("rows/before.jsonl", "rows/after.jsonl"):
        assert (workdir / name).read_bytes() == (undisturbed / name).read_bytes()
    here, there = (
        json.loads((each / "steering.json").read_text()) for each in (workdir, undisturbed)
    )
    assert {k: v for k, v in here.items() if k not in RANDOM} == {
        k: v for k, v in there.items() if k not in RANDOM
    }


def test_the_page_of_a_run_can_be_written_again(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_bytes()
    (tmp_path / "run" / "report.html").unlink()
    said = succeed("report", f"--workdir={tmp_path / 'run'}")
    assert said.strip() == str(tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").read_bytes() == page


def test_a_finished_run_is_not_made_again_nor_mixed(models, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    before = (tmp_path / "run" / "steering.json").stat().st_mtime_ns
    steering.steer(config_of(models), tmp_path / "run")
    assert (tmp_path / "run" / "steering.json").stat().st_mtime_ns == before
    page = (tmp_path / "run" / "report.html").read_bytes()
    (tmp_path / "run" / "report.html").unlink()  # As a kill between the result and the page does.
    steering.steer(config_of(models), tmp_path / "run")
    assert (tmp_path / "run" / "report.html").read_bytes() == page
    with pytest.raises(ValueError, match=r"another config \(different: n\)"):
        steering.steer(config_of(models, n=3), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policies": ""}, "config.policies has 0"),
        ({"policies": "a=x,a=y"}, "names 'a' twice"),
        ({"policies": "a/b=x"}, "expected name=MODEL"),
        ({"policies": "a"}, "expected name=MODEL"),
        ({"reward_model": ""}, "config.reward_model is not set"),
        ({"data": ""}, "config.data is not set"),
        ({"attributes": ("humor",)}, "measures verbosity, helpfulness, and not humor"),
        ({"requested": (0, 5)}, "config.requested is .*0 to 4"),
        ({"requested": (1,)}, "config.requested is"),
        ({"base": "verbosity=7"}, "config.base: "),
        ({"reference": "nowhere"}, "no model 'nowhere'"),
        ({"dtype": "int8"}, "config.dtype is 'int8'"),
        ({"top_p": 0.0}, "config.top_p"),
        ({"n": 0}, "config.n"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(models, tmp_path, changes, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        steering.steer(config_of(models, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_language_model_measures_nothing(models, tmp_path):
    with pytest.raises(ValueError, match="has no reward head"):
        steering.check(config_of(models, reward_model=str(models / "before")))


def test_the_command_needs_policies(tmp_path):
    config = Path(__file__).parent.parent / "configs" / "steering.py"
    assert "config.reward_model is not set" in fail(
        "steer", f"--config={config}", f"--workdir={tmp_path / 'run'}"
    )
