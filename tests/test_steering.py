"""Steering: planted policies give the numbers they were planted with, and the page says so; runs
of tiny models."""

import dataclasses
import json
import re

import numpy as np
import pytest
import stages
from hypothesis import given, settings
from hypothesis import strategies as st

from hs2jax import report, workdir
from hs2jax.alignment import following, stage, steering
from hs2jax.data.groups import Group
from hs2jax.language_model import LanguageModel
from hs2jax.report.views import view

# Planted policies ---------------------------------------------------------------------------------

BASE = {"helpfulness": 4, "verbosity": 2, "complexity": 2}
ATTRIBUTES = ("verbosity", "complexity")
VALUES = (0, 1, 2, 3, 4)


def planted(seed: int, *, prompts=12, n=2, follows=0.0, by_length=0.0, values=VALUES) -> list[dict]:
    """Rows of a policy whose verbosity rises by `follows` for each unit requested.

    by_length: how much of the log-length is the measured verbosity; the rest follows nothing.
    """
    rng = np.random.default_rng(seed)
    settings = [BASE | {name: value} for name in ATTRIBUTES for value in values]
    settings = [each for i, each in enumerate(settings) if each not in settings[:i]]
    found = []
    for p in range(prompts):
        own = 0.5 * rng.normal()  # What samples of a prompt have in common.
        for condition in settings:
            verbosity = 1.5 + follows * (condition["verbosity"] - 2) + own
            verbosity = verbosity + 0.5 * rng.normal(size=n)
            length = 4 + by_length * verbosity + (1 - by_length) * 0.3 * rng.normal(size=n)
            texts = [("word " * 200)[: max(1, round(np.exp(each)))] for each in length]
            row = {"source": f"prompts.jsonl:{p + 1}", "condition": condition, "responses": texts}
            row["prompt"] = [{"role": "user", "content": f"Question {p}?"}]
            row["finished"] = [bool(each) for each in rng.random(n) < 0.9]
            row["tokens"] = [max(1, len(each) // 4) for each in texts]
            row["measured"] = [
                {"helpfulness": 2 + 0.5 * float(rng.normal()), "verbosity": float(each)}
                | {"complexity": 1 + own + 0.3 * float(rng.normal())}
                for each in verbosity
            ]
            row["rewards"] = [float(x) for x in rng.normal(size=n)]
            row["log_ratio"] = [float(x) for x in 3 + rng.normal(size=n)]
            found.append(row)
    return found


def config():
    base = ",".join(f"{name}={value}" for name, value in BASE.items())
    return stages.made("steer", {}, base=base, attributes=ATTRIBUTES)


def results(policies: dict[str, list[dict]]) -> list[dict]:
    """The rows of a run of these policies."""
    return steering.results(config(), policies)


def sweep(rows, attribute="verbosity"):
    return following.sweep(rows, attribute, BASE)


def followed(rows, attribute="verbosity"):
    """The rows of a sweep by metric and part."""
    found = following.follow("one", sweep(rows, attribute), attribute)
    return {(row["metric"], row["part"]): row for row in found}


def compared(later, earlier):
    found = following.compare(("later", "earlier"), later, earlier, "verbosity")
    return {row["metric"]: row for row in found}


OWN = "attribute/verbosity"


def test_the_closer_policy_is_found_and_equal_ones_are_not():
    loose, close, alike = (
        sweep(planted(seed, follows=follows)) for seed, follows in ((1, 0.1), (2, 0.8), (3, 0.1))
    )
    found, back = compared(close, loose), compared(loose, close)
    for name in ("spearman_difference", "pearson_difference"):
        assert found[name]["low"] > 0
        assert found[name]["p"] < 0.001
        assert back[name]["value"] == pytest.approx(-found[name]["value"])
        assert back[name]["p"] == pytest.approx(found[name]["p"])
    assert compared(alike, loose)["spearman_difference"]["p"] > 0.05


def test_following_by_length_alone_is_told_from_more_than_that():
    alone, more = (
        followed(planted(0, prompts=40, follows=0.4, by_length=by_length))
        for by_length in (1.0, 0.0)
    )
    assert alone["length_spearman", OWN]["low"] > 0.3
    given = alone["length_partial", OWN]["value"]
    assert abs(given) < 0.15 < alone["pearson", OWN]["value"]
    assert more["length_spearman", OWN]["low"] <= 0 <= more["length_spearman", OWN]["high"]
    pearson = more["pearson", OWN]["value"]
    assert more["length_partial", OWN]["value"] == pytest.approx(pearson, abs=0.05)
    for by_length in (1.0, 0.0):  # And on the page.
        rows = planted(0, prompts=30, follows=0.4, by_length=by_length)
        (verdict,) = verdicts({"one": rows}, "equal length")
        assert verdict.label.startswith("one, at equal length: better") == (by_length == 0)


def test_the_partial_correlation_is_that_of_the_three_pairs():
    rng = np.random.default_rng(0)
    z = rng.normal(size=90)
    x, y = z + rng.normal(size=90), 0.5 * z + rng.normal(size=90)
    xy, xz, yz = (np.corrcoef(a, b)[0, 1] for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert following.partial(x, y, z) == pytest.approx(expected)
    assert np.isnan(following.partial(x, z, z))


def test_what_else_a_request_changes():
    rows = planted(4, prompts=30, follows=0.5)
    for row in rows:
        for measured in row["measured"]:
            measured["helpfulness"] -= 0.6 * measured["verbosity"]
    found = followed(rows)
    changed, other = (
        found["slope", f"change/verbosity/{x}"] for x in ("helpfulness", "complexity")
    )
    assert changed["low"] <= -0.3 <= changed["high"] < 0
    assert other["low"] <= 0 <= other["high"]


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
    rows = planted(seed, prompts=prompts, n=n, values=values)
    for row in rows:
        if measured == "all alike":
            row["measured"] = [dict.fromkeys(each, 2.5) for each in row["measured"]]
        if measured == "nothing":
            row["measured"] = [None] * n
        if rest == "nothing":
            row["rewards"] = row["log_ratio"] = [None] * n
    found = results({"a": rows, "b": rows})
    json.dumps(found, allow_nan=False)
    for row in found:
        if row["metric"] in ("spearman", "pearson"):
            undefined = row["value"] is None
            assert undefined == bool(row.get("note"))
            assert undefined or (len(values) > 1 and measured == "as it comes")
        if row["metric"] == "spearman_difference":
            assert row.get("note") or row["value"] == 0
    for attribute in ATTRIBUTES:
        some = sweep(rows, attribute)
        asked = sum(row["condition"] | {attribute: 0} == BASE | {attribute: 0} for row in rows)
        assert len(some.requested) + some.left_out == n * asked


# The page: what it says of planted policies -------------------------------------------------------


@pytest.fixture(scope="module")
def three() -> dict:
    follows = {"before": 0.0, "steerlm": 0.3, "steerlm2": 0.9}
    return {name: planted(seed, follows=follows[name]) for seed, name in enumerate(follows, 1)}


def verdicts(policies: dict, about: str) -> list:
    """The verdicts on policies: "requested", "equal length", or of each against the one before."""
    kinds: dict[str, list] = {"requested": [], "equal length": [], "before": []}
    for verdict in view("steer", results(policies))[0]:
        kinds[next((kind for kind in kinds if kind in verdict.label), "before")].append(verdict)
    return kinds[about]


def shown(folder, policies: dict) -> tuple[str, str]:
    """The two pages of a finished run."""
    for name, rows in policies.items():
        workdir.write_rows(folder / "items" / f"{name}.jsonl", rows)
    records = {f"{name}, sampled": {"rows": 12, "groups": 12} for name in policies}
    workdir.finish(folder, config(), {"records": records}, results(policies))
    return report.write(folder).read_text(), (folder / "report.md").read_text()


def test_each_policy_is_judged_by_its_intervals_and_against_the_one_before(three):
    before, *later = verdicts(three, "requested")
    assert before.tone == "unsure"
    for verdict in later:
        assert "better than chance on verbosity, not shown" in verdict.label
    for verdict, earlier in zip(verdicts(three, "before"), ("before", "steerlm"), strict=True):
        assert f"better than {earlier} on verbosity, not shown" in verdict.label
    back = verdicts(dict(reversed(three.items())), "before")
    assert "worse than steerlm on verbosity" in back[-1].label


def test_a_policy_that_follows_all_that_is_asked_is_good_and_one_that_does_the_opposite_bad():
    rows = planted(5, follows=0.8)
    for row in rows:
        for measured in row["measured"]:
            measured["complexity"] += row["condition"]["complexity"]
    (good,) = verdicts({"one": rows}, "requested")
    assert good.tone == "good"
    for row in rows:
        row["measured"] = [{k: -v for k, v in each.items()} for each in row["measured"]]
    (bad,) = verdicts({"one": rows}, "requested")
    assert bad.tone == "bad"


def test_the_page_has_figures_tables_and_samples_and_says_what_is_not_defined(tmp_path, three):
    html, markdown = shown(tmp_path / "three", three)
    assert html.count("<figure") == 4  # Two attributes by request, twice.
    for title in ("How closely", "Differences on the same prompts", "What changes", "KL"):
        assert title in html
        assert title in markdown
    assert "Samples side by side" in markdown
    policies = {name: planted(0) for name in ("constant", "unmeasured")}
    policies |= {"one prompt": planted(0, prompts=1), "one value": planted(0, values=(2,))}
    for row in policies["constant"]:
        row["measured"] = [dict.fromkeys(each, 2.5) for each in row["measured"]]
    for row in policies["unmeasured"]:
        row["measured"] = row["rewards"] = row["log_ratio"] = [None] * 2
    html, markdown = shown(tmp_path / "undefined", policies)
    for page in (re.sub(r"<[^>]*>", " ", html.split("</style>")[1]), markdown):
        assert not re.search(r"\b(nan|NaN|inf|None|null)\b", page)


# Runs of tiny models ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steering")
    stages.models(folder)
    steering.steer(stages.steering(folder), folder / "run")
    return folder


def test_a_run_says_what_was_sampled_and_measured(here):
    rows = stages.read(here / "run" / "results.jsonl")
    records = stages.result(here / "run")["records"]
    assert {row["set"] for row in rows} == {"before", "after"}
    tests = [row for row in rows if row.get("against")]
    assert {(row["against"], row["set"]) for row in tests} == {("before", "after")}
    for policy in ("before", "after"):
        items = stages.read(here / "run" / "items" / f"{policy}.jsonl")
        assert len(items) == len(stages.QUESTIONS) * 2
        assert {row["n"] for row in rows if row["metric"] == "tokens"} == {len(items) * 2}
        assert records[f"{policy}, sampled"]["groups"] == len(stages.QUESTIONS)
        for name in ("measured", "reference"):
            assert records[f"{policy}, {name}"]["rows"] == len(items)
        assert records[f"{policy}, reference"]["too_long"] == 0
        asked = [item for item in items if item["condition"]["verbosity"] == 4]
        values = [each["verbosity"] for item in asked for each in item["measured"] if each]
        found = stages.value(rows, "measured", "requested/verbosity/4", set=policy)
        assert found == pytest.approx(np.mean(values))
        ratios = [x for item in items for x in item["log_ratio"]]
        assert stages.value(rows, "kl", set=policy) == pytest.approx(np.mean(ratios))


def test_the_log_ratio_is_of_the_same_tokens_without_the_request(here):
    items = stages.read(here / "run" / "items" / "after.jsonl")
    sampled = stages.read(here / "run" / "samples" / "after" / "samples.jsonl")
    models = [LanguageModel.load(here / name) for name in ("policy", "prior")]
    for item, source in zip(items[:3], sampled, strict=False):
        tokens = tuple(map(tuple, source["tokens"]))
        plain = Group(tuple(item["prompt"]), tuple(item["responses"]), tokens=tokens)
        asked = dataclasses.replace(plain, condition=item["condition"])
        (ours,), (theirs,) = map(LanguageModel.log_probability_groups, models, ([asked], [plain]))
        for i, (q, p) in enumerate(zip(ours, theirs, strict=True)):
            assert source["log_proposal"][i] == pytest.approx(q.sum(), abs=1e-3)
            assert item["log_ratio"][i] == pytest.approx(q.sum() - p.sum(), abs=1e-3)


def test_a_response_that_says_nothing_has_its_log_ratio(here, tmp_path):
    row = stages.read(here / "run" / "samples" / "before" / "samples.jsonl")[0]
    said, ids = row["responses"][0], row["tokens"][0]
    row |= {"responses": ["", said], "tokens": [[2], ids], "log_proposal": [-1.0, -2.0]}
    run = stage.Run(stages.steering(here), tmp_path)
    steering._hold_against_reference(run, {"before": [row]})
    group = Group(tuple(row["prompt"]), ("", said), tokens=tuple(map(tuple, row["tokens"])))
    (tables,) = LanguageModel.load(here / "prior").log_probability_groups([group])
    assert row["log_ratio"] == pytest.approx([-1 - tables[0].sum(), -2 - tables[1].sum()], abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attributes": ("humor",)}, "rates verbosity, reward, helpfulness, and not humor"),
        ({"reward_model": "prior"}, "has no reward head"),
        ({"reference": "nowhere"}, "no model '.*nowhere'"),
    ],
)
def test_models_that_cannot_be_are_refused_before_any_is_loaded(here, tmp_path, changes, said):
    named = {k: str(here / v) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        steering.steer(stages.steering(here, **named), tmp_path / "run")
    assert not (tmp_path / "run" / "samples").exists()
