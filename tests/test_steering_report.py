"""The page of steering: what it says of planted policies, and that it is safe to look at."""

import re
import types

import planted_policies
import pytest

from hs2jax import report
from hs2jax.report import steer


@pytest.fixture(scope="module")
def planted() -> dict:
    return {
        "before": planted_policies.rows(1),
        "steerlm": planted_policies.rows(2, follows=0.3),
        "steerlm2": planted_policies.rows(3, follows=0.9),
    }


def verdicts(policies: dict) -> list:
    """The verdicts of each policy, of a finished run as far as they need it."""
    run = types.SimpleNamespace(rows=planted_policies.results(policies))
    return [steer.verdicts_of(run, name) for name in policies]


def shown(folder, policies: dict) -> tuple[str, str]:
    """The two pages of a finished run."""
    planted_policies.write(folder, policies)
    return report.write(folder).read_text(), (folder / "report.md").read_text()


def test_each_policy_is_judged_by_its_intervals_and_against_the_one_before(planted):
    before, *later = verdicts(planted)
    assert [verdict.tone for verdict in before] == ["unsure"]
    for (follows, compared), earlier in zip(later, ("before", "steerlm"), strict=True):
        assert "better than chance on verbosity, not shown" in follows.label
        assert f"better than {earlier} on verbosity, not shown" in compared.label
    back = verdicts(dict(reversed(planted.items())))
    assert "worse than steerlm on verbosity" in back[-1][1].label


def test_a_policy_that_follows_all_that_is_asked_is_good_and_one_that_does_the_opposite_bad():
    rows = planted_policies.rows(5, follows=0.8)
    for row in rows:
        for measured in row["measured"]:
            measured["complexity"] += row["condition"]["complexity"]
    ((good,),) = verdicts({"one": rows})
    assert good.tone == "good"
    for row in rows:
        row["measured"] = [{k: -v for k, v in each.items()} for each in row["measured"]]
    ((bad,),) = verdicts({"one": rows})
    assert bad.tone == "bad"


def test_following_by_length_alone_is_said():
    for by_length in (1.0, 0.0):
        rows = planted_policies.rows(0, prompts=30, follows=0.4, by_length=by_length)
        ((follows, *_),) = verdicts({"one": rows})
        assert ("which alone may be what follows" in follows.sentence) == (by_length == 1)


def test_the_page_has_figures_tables_and_samples(tmp_path, planted):
    html, markdown = shown(tmp_path, planted)
    assert html.count("<svg") == 5  # Two attributes by request, twice, and their correlations.
    for title in ("How closely", "Differences on the same prompts", "What changes", "KL"):
        assert title in html
        assert title in markdown
    assert "Samples side by side" in markdown


def test_what_is_not_defined_is_said_so(tmp_path):
    policies = {name: planted_policies.rows(0) for name in ("constant", "unmeasured")}
    policies["one prompt"] = planted_policies.rows(0, prompts=1)
    policies["one value"] = planted_policies.rows(0, values=(2,))
    for row in policies["constant"]:
        row["measured"] = [dict.fromkeys(each, 2.5) for each in row["measured"]]
    for row in policies["unmeasured"]:
        row["measured"] = row["rewards"] = row["log_ratio"] = [None] * 2
    html, markdown = shown(tmp_path, policies)
    text = re.sub(r"<[^>]*>", " ", html.split("</style>")[1])
    for page in (text, markdown):
        assert not re.search(r"\b(nan|NaN|inf|None|null)\b", page)
