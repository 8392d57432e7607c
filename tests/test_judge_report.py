"""The page of a judge's evaluation: escaped, self-contained, and no more than the file says."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from evaluations import EVIL, poison
from hypothesis import given
from hypothesis import strategies as st
from judgements import CRITERIA, LAYERS, make_items, make_set, write_judgement
from test_report import Page

from hs2jax.judging import judge_plots, judge_report, judge_tables


def written(folder, sets, items, **changes):
    write_judgement(folder, sets, items, **changes)
    path = judge_report.write(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8"), (folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def everything():
    """Sets and items that fill every part of the page: tuned, untuned, and without ratings."""
    items = make_items()
    other = make_items(
        30, criteria=["coherence", "relevance"], methods=["lager_wo", "e_score", "direct"], seed=1
    )
    bare = make_items(10, rated=False)
    by_name = {"helpsteer": items, "summeval": other, "own": bare}
    return [make_set(name, items=rows) for name, rows in by_name.items()], by_name


def pictures(html):
    return re.findall(r"<svg.*?</svg>", html, re.DOTALL)


def titles(html):
    return [ElementTree.fromstring(svg).find("title").text for svg in pictures(html)]


def test_one_page_that_loads_nothing_with_the_verdicts_first(tmp_path, everything):
    html, md = written(tmp_path, *everything)
    page = Page(html)
    assert not {"link", "script", "img", "iframe", "object", "base"} & set(page.tags)
    assert not {"src", "href", "srcset", "style"} & {key for key, _ in page.attributes}
    assert not re.search(r"url\(|@import", html)
    assert html.index('class="verdict') < min(html.index(tag) for tag in ("<svg", "<table"))
    assert md.index("**helpsteer: ") < md.index("## ")
    assert html.count('class="verdict') == 2 + 2 + 1
    assert "None" not in html
    assert "nan" not in Page(html).text
    found = titles(html)
    expected = {"Correlation by layer": 2, "Weights by layer": 2, "Scores": 3}
    expected |= {f"Predicted and human {name}": 1 for name in [*CRITERIA, "relevance"]}
    expected["Predicted and human coherence"] = 2
    assert {title: found.count(title) for title in found} == expected


def test_text_from_anywhere_is_escaped(tmp_path, everything):
    sets, items = everything
    sets = [poison(each) | {"name": each["name"]} for each in sets]
    for each in sets:
        each["left_out"] = {EVIL: 3}
        for criterion in each["criteria"]:
            criterion["scores"][EVIL] = criterion["scores"]["lager_wo"]
    poisoned = {name: poison(rows) for name, rows in items.items()}
    for row in poisoned["helpsteer"]:
        row["scores"][EVIL] = 1.0
    more = {"model": {"name": EVIL, "checksum": EVIL}, "template": EVIL, "preset": EVIL}
    more |= {"weights_from": EVIL, "environment": {EVIL: EVIL}, "config": {EVIL: EVIL}}
    html, md = written(tmp_path, sets, poisoned, **more)
    page = Page(html)
    assert "script" not in page.tags
    assert "".join(page.text).count("<script>alert") > 50
    for svg in pictures(html):
        ElementTree.fromstring(svg)
    for line in md.splitlines():
        assert "<script>" not in line.replace("\\<script", "") or line.startswith("    ")
    for table in re.findall(r"(?:^\|.*\n)+", md, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(widths) == 1, table


def numbers_of(value):
    """All numbers anywhere in a file."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for each in value for number in numbers_of(each)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def test_every_number_in_a_table_is_from_the_file(tmp_path, everything):
    sets, items = everything
    judgement = write_judgement(tmp_path, sets, items)
    known = {0.0, *numbers_of(judgement), *range(LAYERS + 1)}
    known |= {
        value for of in judge_tables.PUBLISHED.values() for row in of.values() for value in row
    }
    known = np.array(sorted(known))
    tables = [table for each in sets for table in judge_tables.set_tables(each, judgement) if each]
    checked = 0
    for table in tables:
        for row in table.rows:
            for cell in row[1:]:
                if table.title.startswith(("What the", "Published")) or "e_score" in cell:
                    continue
                for text in re.findall(r"[+−]?\d[\d,]*(?:\.\d+)?", cell.replace("under 0.001", "")):
                    number = float(text.replace("−", "-").replace(",", "").lstrip("+"))
                    if cell == "over 100":
                        continue
                    decimals = len(text.split(".")[1]) if "." in text else 0
                    near = np.abs(known - number).min()
                    assert near <= 0.5000001 * 10**-decimals, (table.title, row, cell)
                    checked += 1
    assert checked > 500


def test_what_the_file_says_is_in_both_files(tmp_path, everything):
    sets, items = everything
    html, md = written(tmp_path, sets, items)
    text = " ".join(Page(html).text).replace("\u00a0", " ")
    plain = md.replace("\\", "").replace("**", "")
    expected = ["9f86d081884c7d65", "cross-validation", "2 min 11 s", "recommended", "too long 3"]
    for each in sets[:2]:
        for criterion in each["criteria"]:
            for of in criterion["scores"].values():
                expected.append(judge_tables.number(of["spearman"]["value"]))
            expected += [
                cell
                for test in criterion["tests"]
                for cell in (
                    f"{test['a']} − {test['b']}",
                    judge_tables.signed(test["kendall"]["difference"]),
                )
            ]
        pooled = each["criteria"][-1]
        for of in pooled["scores"].values():
            expected += [judge_tables.ends(of[key]["interval"]) for key in judge_tables.MEASURES]
            expected += [f"{of['kl']:.3f}", f"{of['mse']:.3f}"] if of["kl"] is not None else []
    for number in expected:
        assert number in text, number
        assert number in plain, number
    cells = [
        cell.strip()
        for line in plain.splitlines()
        if line.startswith("|") and "---" not in line
        for cell in line.strip("|").split("|")
    ]
    assert len(cells) > 500
    assert all(cell in text for cell in cells if cell not in ("value", "meaning"))


def criterion_of(name, tests=(), **spearman):
    """A criterion whose methods have (value, low, high), or a value without an interval."""
    scores = {
        method: {"spearman": {"value": each[0], "interval": list(each[1:]) or None}}
        for method, each in spearman.items()
    }
    human = {"mean": 3.0, "sd": 1.0, "counts": [1, 1, 1, 1, 1]}
    return {"name": name, "n": 90, "human": human, "scores": scores, "tests": list(tests)}


def comparison(a, b, difference, half=0.05, p=0.2):
    interval = None if half is None else [difference - half, difference + half]
    return {"a": a, "b": b, "spearman": {"difference": difference, "interval": interval, "p": p}}


def test_a_verdict_claims_no_more_than_the_intervals_do():
    def said(*criteria):
        return judge_report.agreement_verdict(criteria, judge_tables.best(criteria[-1]["scores"]))

    good = said(criterion_of("all", lager_w=(0.4, 0.3, 0.5), direct=(0.1, -0.05, 0.2)))
    assert (good.tone, good.label) == ("good", "Clearly above chance")
    assert "lager_w follows people's ratings best of 2 ways" in good.sentence
    assert "Not surely above chance: direct." in good.sentence
    unsure = said(criterion_of("all", lager_w=(0.1, -0.1, 0.3), direct=(0.0, -0.2, 0.2)))
    assert unsure.tone == "unsure"
    assert "all of this may be noise" in unsure.sentence
    assert said(criterion_of("all", lager_w=(-0.1, -0.2, -0.05))).tone == "bad"
    assert said(criterion_of("all", lager_w=(1.0,))).tone == "unsure"
    parts = [
        criterion_of("help", e_score=(0.5, 0.4, 0.6)),
        criterion_of("verbose", e_score=(-0.5, -0.6, -0.4)),
    ]
    mixed = said(*parts, criterion_of("all", e_score=(0.2, 0.1, 0.3)))
    assert "not surely above chance on verbose." in mixed.sentence


def test_the_layers_verdict_goes_by_the_paired_test():
    def said(*tests):
        return judge_report.layers_verdict(criterion_of("all", tests, lager_w=(0.4, 0.3, 0.5)))

    good = said(
        comparison("lager_w", "e_score", 0.1, p=0.0001), comparison("lager_w", "direct", 0.2)
    )
    assert (good.tone, good.label) == ("good", "Tuned layers beat the last one")
    assert "by +0.100 from e_score (95% interval +0.050 to +0.150; p under 0.001)" in good.sentence
    assert "by +0.200 from direct (95% interval +0.150 to +0.250; p = 0.200)" in good.sentence
    assert said(comparison("lager_w", "e_score", 0.02)).tone == "unsure"
    assert said(comparison("lager_w", "e_score", -0.02)).label.endswith(
        "not better than the last one"
    )
    assert said(comparison("lager_w", "e_score", -0.2)).label.endswith("worse than the last one")
    # The other way round it is the same test.
    assert said(comparison("e_score", "lager_w", -0.1)) == said(
        comparison("lager_w", "e_score", 0.1)
    )
    untuned = said(comparison("lager_wo", "e_score", 0.1))
    assert untuned.label.startswith("Untuned")
    assert "without an interval" in said(comparison("lager_w", "e_score", 0.1, None, None)).sentence
    assert said(comparison("lager_w", "e_score", None, None, None)) is None
    assert said(comparison("gpt_score", "direct", 0.1)) is None
    assert said() is None
    # Over several criteria it says what is left within them.
    pooled = comparison("lager_w", "e_score", -0.2)
    pooled["criteria_mean"] = comparison("lager_w", "e_score", 0.06, p=0.12)["spearman"]
    both = said(pooled)
    assert both.label == "Tuned layers are worse than the last one, all criteria pooled"
    assert "within criteria it differs by +0.060 from e_score (95% interval +0.010" in both.sentence
    table = judge_tables.paired_table(
        "", [{**pooled, **dict.fromkeys(("pearson", "kendall"), pooled["spearman"])}]
    )
    assert len(table.columns) == len(table.rows[0])
    assert table.rows[0][4:7] == ["+0.060", "+0.010 to +0.110", "0.120"]


def test_what_only_the_criteria_carry_is_not_called_clear():
    pooled = criterion_of("all", e_score=(0.195, 0.125, 0.262), direct=(0.1, 0.05, 0.15))
    pooled["scores"]["e_score"]["criteria_mean"] = {"value": -0.076, "interval": [-0.156, 0.006]}
    parts = [criterion_of(name, e_score=(-0.1, -0.2, 0.0)) for name in ("help", "verbose")]
    said = judge_report.agreement_verdict([*parts, pooled], "e_score")
    assert (said.tone, said.label) == (
        "unsure",
        "Above chance over all criteria, not surely within them",
    )
    assert "within a criterion it is −0.076 in the mean" in said.sentence
    assert "As the best of several, picked by these ratings" in said.sentence


@pytest.mark.parametrize(
    "kind", ["no ratings", "last layer only", "one criterion", "no parts", "no items", "constant"]
)
def test_what_is_missing_is_left_out(tmp_path, kind):
    items, changes, more = make_items(8), {"left_out": {}}, {}
    if kind == "no ratings":
        items = make_items(8, rated=False)
    if kind == "last layer only":
        items = make_items(8, methods=["e_score"])
        more = {"weights_from": None, "environment": {}, "config": {}}
    if kind == "one criterion":
        items = make_items(8, criteria=["helpfulness"])
    if kind == "no items":
        items = []
    if kind == "constant":
        for item in items:
            item["human"] = 3.0
    each = make_set(items=items, **changes)
    if kind == "no parts":
        each["weights"] = None
        for criterion in each["criteria"]:
            for key in ("tests", "by_layer", "presets"):
                del criterion[key]
            for of in criterion["scores"].values():
                for key in ("kl", "mse", "kendall", "left_out"):
                    del of[key]
    html, md = written(tmp_path, [each], items, **more)
    Page(html)
    for svg in pictures(html):
        ElementTree.fromstring(svg)
    assert "None" not in html + md
    assert "nan" not in (html + md).lower().split()
    if kind == "no ratings":
        assert titles(html) == ["Weights by layer", "Scores"]
        assert "80 items scored; without people's ratings" in md
        assert "Mean scores" in md
        assert "Spearman" not in html
    if kind == "last layer only":
        assert "follows people's ratings best:" in md
        assert titles(html)[:2] == ["Correlation by layer", "Scores"]
        assert "none: even weights only" in html
    if kind == "one criterion":
        assert "Spearman by criterion" not in md
    if kind == "no parts":
        assert "Paired" not in md
        assert "presets" not in md
        assert "Weights by layer" not in html
    if kind == "no items":
        assert "There is nothing of it." in html
    if kind == "constant":
        assert "no correlation with people is defined" in html
        assert "undefined" in md


def test_published_numbers_stand_beside_helpsteer_only(tmp_path, everything):
    sets, items = everything
    _, md = written(tmp_path, sets, items)
    assert md.count("### Published for HelpSteer") == 1
    assert md.index("## helpsteer") < md.index("### Published") < md.index("## summeval")
    assert "Other models, other prompts and other data" in md
    (table,) = (
        t
        for t in judge_tables.set_tables(sets[0], {"preset": "paper", "weights_from": None})
        if t.title.startswith("Published")
    )
    assert ["Llama-3.1-8B", "Spearman", "0.374", "0.464", "0.520", "0.515"] in table.rows
    assert ["Llama-3.3-70B", "Pearson", "0.435", "0.444", "0.506", "0.503"] in table.rows
    for data, published in (("tfds:helpsteer[validation]", True), ("helpsteer2:val.jsonl", False)):
        elsewhere = make_set("dev", items=make_items(8)) | {"data": data}
        tables = judge_tables.set_tables(elsewhere, {"preset": "paper", "weights_from": None})
        assert any(table.title.startswith("Published") for table in tables) == published


def test_unread_scores_are_counted_and_not_drawn(tmp_path):
    items = make_items(12)
    for item in items[:7]:
        item["scores"]["lager_w"] = None
    html, md = written(tmp_path, [make_set(items=items)], items)
    assert "of 113 scores" in html
    (row,) = re.findall(r"^\| lager_w \|.*\| (\d+) \|$", md, re.MULTILINE)
    assert row == "7"
    assert "what could not be scored" in md


def test_disagreements_are_by_place_and_a_text_only_once():
    items = [
        {
            "source": f"a.jsonl:{i}",
            "criterion": "helpfulness",
            "prompt": f"Question {i}",
            "response": "text",
            "human": float(human),
            "scores": {"lager_w": 3 + score / 100},
        }
        for i, (human, score) in enumerate([(1, 1), (2, 5), (3, 3), (4, 4), (5, 2)])
    ]
    items += [item | {"criterion": "coherence", "source": "b"} for item in items]
    found = judge_report.worst_disagreements(items, "lager_w")
    assert [mistake.prompt for mistake in found] == ["Question 1", "Question 4"]
    assert "people 2, judge 3.05 (above 90% of its scores), a.jsonl:1" in found[0].heading
    assert found[0].answers[0].text == "text"
    assert judge_report.worst_disagreements([], None) == []


@pytest.mark.parametrize("name", ["judge.json", "items/helpsteer.jsonl"])
def test_a_folder_that_is_not_whole_is_refused(tmp_path, name):
    items = make_items(4)
    write_judgement(tmp_path, [make_set(items=items)], items)
    (tmp_path / name).write_text('{"sets": [', encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name}.*run the evaluation again"):
        judge_report.write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        judge_report.write(tmp_path)


def test_writing_again_gives_the_same_bytes(tmp_path, everything):
    assert written(tmp_path, *everything) == written(tmp_path, *everything)


VALUES = st.lists(st.none() | st.floats(-1, 1), min_size=2, max_size=40)
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@given(
    VALUES,
    st.dictionaries(st.sampled_from(judge_plots.LINES), st.none() | st.floats(-1, 1)),
    SHARES,
    st.lists(st.integers(0, 900), min_size=5, max_size=5),
    st.lists(st.floats(-20, 20), max_size=20),
)
def test_any_numbers_can_be_drawn(layers, scores, weights, counts, judged):
    drawn = [
        (
            judge_plots.by_layer({"none": layers, "final": layers[::-1]}, scores),
            any(value is not None for value in layers),
        ),
        (judge_plots.layer_weights(weights, [weights[::-1]]), True),
        (judge_plots.histogram([1, 2, 3, 4, 5], counts, judged, "lager_w"), bool(judged)),
    ]
    for picture, there in drawn:
        assert (picture is not None) == there
        if not picture:
            continue
        ElementTree.fromstring(picture)
        _, _, width, height = re.search(r'viewBox="(\S+) (\S+) (\S+) (\S+)"', picture).groups()
        for axis, limit in (("x", width), ("y", height)):
            numbers = re.findall(rf' (?:{axis}[12]?|c{axis})="([^"]*)"', picture)
            assert all(-1 <= float(number) <= float(limit) + 1 for number in numbers)
        for points in re.findall(r'points="([^"]*)"', picture):
            for point in points.split():
                x, y = map(float, point.split(","))
                assert -1 <= x <= float(width) + 1
                assert -1 <= y <= float(height) + 1


def test_names_beside_the_picture_do_not_touch():
    scores = dict(zip(judge_plots.LINES, (0.31, 0.312, 0.309, 0.0), strict=True))
    picture = judge_plots.by_layer({"none": [0.0, 0.3], "final": [0.1, 0.3]}, scores)
    texts = [node for node in ElementTree.fromstring(picture).iter("text") if node.text in scores]
    heights = sorted(float(node.get("y")) for node in texts)
    assert len(heights) == 4
    assert min(np.diff(heights)) >= judge_plots.GAP - 0.01


def test_the_fixture_is_what_json_can_hold(everything):
    sets, _ = everything
    assert json.loads(json.dumps(sets, allow_nan=False)) == sets
