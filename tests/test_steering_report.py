"""The page of steering: what it says of planted policies, and that it is safe to look at."""

import json
import re

import planted_policies
import pytest
from planted_policies import ATTRIBUTES, BASE

from hs2jax.alignment import steering, steering_plots, steering_report


@pytest.fixture(scope="module")
def planted() -> dict:
    return {
        "before": planted_policies.rows(1),
        "steerlm": planted_policies.rows(2, follows=0.3),
        "steerlm2": planted_policies.rows(3, follows=0.9),
    }


def verdicts(policies: dict) -> list:
    return steering_report.verdicts(steering.compare(policies, ATTRIBUTES, BASE))


def shown(folder, policies: dict, **config) -> tuple[str, str]:
    """The two pages of a finished run."""
    planted_policies.write(folder, policies, **config)
    page = steering_report.write(folder)
    return page.read_text(), (folder / "report.md").read_text()


def test_each_policy_is_judged_by_its_intervals_and_against_the_one_before(planted):
    before, steerlm, steerlm2 = verdicts(planted)
    assert before.tone != "good"
    assert "more closely" not in before.sentence
    for policy, earlier in ((steerlm, "before"), (steerlm2, "steerlm")):
        assert re.search(r"follows verbosity, not surely complexity$", policy.label)
        assert f"Against {earlier}" in policy.sentence
        assert "verbosity more closely" in policy.sentence
    back = verdicts(dict(reversed(planted.items())))
    assert "verbosity less closely" in back[-1].sentence


def test_a_policy_that_follows_all_that_is_asked_is_good_and_one_that_does_the_opposite_bad():
    rows = planted_policies.rows(5, follows=0.8)
    for row in rows:
        for measured in row["measured"]:
            measured["complexity"] += row["condition"]["complexity"]
    (good,) = verdicts({"one": rows})
    assert (good.tone, good.label) == ("good", "one follows verbosity and complexity")
    for row in rows:
        row["measured"] = [{k: -v for k, v in each.items()} for each in row["measured"]]
    (bad,) = verdicts({"one": rows})
    assert (bad.tone, bad.label) == ("bad", "one does not follow what it is asked for")


def test_of_policies_that_do_not_listen_nothing_is_said_for_sure():
    found = [verdicts({"one": planted_policies.rows(s, follows=0.0)})[0] for s in range(10)]
    unsure = [each for each in found if "does not surely follow" in each.label]
    assert len(unsure) >= 8
    # Also where the estimate is below 0, which it is in half of them.
    assert any("verbosity −" in each.sentence for each in unsure)
    assert {each.tone for each in unsure} == {"unsure"}


def test_following_by_length_alone_is_said():
    alone, more = (
        verdicts({"one": planted_policies.rows(0, prompts=30, follows=0.4, by_length=by_length)})
        for by_length in (1.0, 0.0)
    )
    assert "length alone" in alone[0].sentence
    assert "length alone" not in more[0].sentence


def test_the_page_shows_every_policy_and_loads_nothing(planted, tmp_path):
    html, markdown = shown(tmp_path, planted)
    assert html.count("<svg") == 5
    assert not re.search(r"<(script|link|img|iframe)|url\(|src=", html)
    for name in planted:
        assert f"What else changes: {name}" in html
        assert f"{name}, verbosity 4" in html
        assert f"{name}, verbosity" in markdown
    assert len(re.findall("<polyline", html)) == 4 * len(planted)
    assert "KL from the reference" in html
    assert "sampled otherwise" not in html
    other, _ = shown(tmp_path, planted, temperature=0.7)
    assert "KL divergence; these responses were sampled otherwise" in other


def test_texts_of_policies_are_escaped_and_long_ones_cut_with_a_mark(tmp_path):
    text = "<script>alert('x')</script> & | ` "
    rows = planted_policies.rows(0, prompts=2, text=text)
    for row in rows:
        row["prompt"] = [{"role": "user", "content": "</div><b>bold?"}]
    rows[0]["responses"][0] = "y" * 5000
    html, markdown = shown(tmp_path, {"one": rows})
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "&lt;/div&gt;&lt;b&gt;bold?" in html
    assert "y" * steering_report.MOST_CHARACTERS + " … [cut here]" in html
    assert "y" * (steering_report.MOST_CHARACTERS + 1) not in html
    assert "5,000 characters" in markdown


@pytest.mark.parametrize("kind", ["constant", "one prompt", "one value", "nothing"])
def test_what_is_not_defined_is_said_so(tmp_path, kind):
    options = {"one prompt": {"prompts": 1}, "one value": {"values": (2,)}}.get(kind, {})
    rows = planted_policies.rows(0, **options)
    for row in rows:
        if kind == "constant":
            row["measured"] = [dict.fromkeys(each, 2.5) for each in row["measured"]]
        if kind == "nothing":
            row["measured"], row["rewards"] = [None] * 2, None
            row["log_ratio"] = [None] * 2
    html, markdown = shown(tmp_path, {"a": rows, "b": rows})
    text = re.sub(r"<[^>]*>", " ", html.split("</style>")[1])
    for page in (text, markdown):
        assert not re.search(r"\b(nan|inf|None|null)\b", page, re.IGNORECASE)
    assert kind == "one prompt" or "undefined" in text
    assert not re.search(r"(nan|inf)[\"' ,]", " ".join(re.findall(r"<svg.*?</svg>", html)))


def test_long_names_get_a_legend_of_several_rows():
    names = [f"policy-of-round-{i}" for i in range(4)]
    rows = steering_plots._legend_rows(names)
    assert [name for row in rows for name in row] == names
    assert len(rows) > 1
    (of,) = steering.compare({"x": planted_policies.rows(0)}, ["verbosity"], BASE)["policies"]
    values = of["attributes"][0]["values"]
    svg = steering_plots.by_request(dict.fromkeys(names, values), "t", key="measured", asked="a")
    assert all(name in svg for name in names)


def test_a_page_needs_the_files_of_a_finished_run(planted, tmp_path):
    with pytest.raises(FileNotFoundError, match="hs2jax steer"):
        steering_report.write(tmp_path)
    planted_policies.write(tmp_path, {"one": planted["before"]})
    (tmp_path / "rows" / "one.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"one\.jsonl is missing"):
        steering_report.write(tmp_path)
    (tmp_path / "steering.json").write_text(json.dumps({})[:-1])
    with pytest.raises(ValueError, match=r"steering\.json"):
        steering_report.write(tmp_path)
