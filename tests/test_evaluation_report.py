"""The page of an evaluation: escaped, self-contained, and honest about what is missing."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from evaluations import (
    AGREEMENT,
    CALIBRATION,
    EVIL,
    LENGTH,
    NAMES,
    SEARCH,
    SUBSETS,
    make_benchmark,
    make_items,
    make_set,
    poison,
    write_evaluation,
)
from hypothesis import given
from hypothesis import strategies as st
from test_report import Page

from hs2jax.evaluation import (
    agreement,
    benchmark_plots,
    benchmark_tables,
    benchmarks,
    calibration,
    evaluation_report,
    length,
)


def written(folder, sets, items, **changes):
    write_evaluation(folder, sets, items, **changes)
    path = evaluation_report.write(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8"), (folder / "report.md").read_text(encoding="utf-8")


def everything():
    """Sets, items and further arguments that fill every part of the page."""
    items, bare = make_items(), make_items(12, rated=False, paired=False)
    sets = [
        make_set("reward_bench", items=items, benchmark=make_benchmark()),
        make_set("part", items=items, benchmark=make_benchmark(["Safety"], ["Reasoning"]), cut=5),
        make_set("helpsteer2", items=items),
        make_set("responses", items=bare),
    ]
    by_name = dict.fromkeys(("reward_bench", "part", "helpsteer2"), items) | {"responses": bare}
    return sets, by_name, {"weights_search": SEARCH}


def pictures(html):
    return re.findall(r"<svg.*?</svg>", html, re.DOTALL)


def test_one_page_that_loads_nothing_with_the_verdicts_first(tmp_path):
    sets, items, more = everything()
    html, md = written(tmp_path, sets, items, **more)
    page = Page(html)
    assert not {"link", "script", "img", "iframe", "object", "base"} & set(page.tags)
    assert not {"src", "href", "srcset", "style"} & {key for key, _ in page.attributes}
    assert not re.search(r"url\(|@import", html)
    assert html.index('class="verdict') < min(html.index(tag) for tag in ("<svg", "<table"))
    assert md.index("**RewardBench: ") < md.index("## ")
    assert html.count('class="verdict') == 3 * 2 + 1 + 1
    titles = [ElementTree.fromstring(svg).find("title").text for svg in pictures(html)]
    for title, times in {
        "Scores by section": 2,
        "Rewards of chosen and rejected responses": 3,
        "Reliability": 3,
        "Accuracy by length": 3,
        "Accuracy on pairs": 3,
        "Rounded predictions and human helpfulness": 3,
    }.items():
        assert titles.count(title) == times, title


def test_text_from_anywhere_is_escaped(tmp_path):
    sets, items, more = everything()
    sets = [poison(each) | {"name": each["name"]} for each in sets]
    model = {"name": EVIL, "outputs": poison(NAMES), "checksum": EVIL}
    more = poison(more) | {"model": model, "environment": {EVIL: EVIL}, "config": {EVIL: EVIL}}
    html, md = written(tmp_path, sets, poison(items), **more)
    page = Page(html)
    assert "script" not in page.tags
    assert "".join(page.text).count("<script>alert") > 100
    for svg in pictures(html):
        ElementTree.fromstring(svg)
    for line in md.splitlines():
        assert "<script>" not in line.replace("\\<script", "") or line.startswith("    ")
    for table in re.findall(r"(?:^\|.*\n)+", md, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(widths) == 1, table


def test_the_main_numbers_are_in_both_files(tmp_path):
    sets, items, more = everything()
    html, md = written(tmp_path, sets, items, **more)
    text = " ".join(Page(html).text)
    plain = md.replace("\\", "").replace("**", "")
    expected = [SEARCH["held_out"], SEARCH["uniform"], LENGTH["controlled"]["accuracy"]]
    for each in sets:
        if p := each["summary"]["preferences"]:
            expected += [p["accuracy"], p["length_baseline"]["shorter_accuracy"]]
        if b := each["benchmark"]:
            expected += [b["overall"]["score"]] if b["overall"] else []
            parts = [*b["sections"], *(s for part in b["sections"] for s in part["subsets"])]
            expected += [part["score"] for part in parts if part["score"] is not None]
    expected = [f"{100 * share:.1f}%" for share in expected]
    expected += ["0.0431", "0.0312", "0.1987", "0.0275", "1.37", "0.413", "0.331 to 0.493"]
    expected += ["95.1", "+0.712", "−0.288", "9f86d081884c7d65", "2048", "2 min 11 s", "0.213"]
    for number in expected:
        assert number in text, number
        assert number in plain, number
    cells = [
        cell.strip()
        for line in plain.splitlines()
        if line.startswith("|") and "---" not in line
        for cell in line.strip("|").split("|")
    ]
    assert all(cell in text for cell in cells if cell not in ("value", "weight"))


def test_a_part_is_never_shown_as_comparable(tmp_path):
    benchmark = make_benchmark(missing=["Safety"], short=["Reasoning"])
    items = make_items()
    html, md = written(tmp_path, [make_set(items=items, benchmark=benchmark)], items)
    assert "Incomplete." in html
    assert "No overall score" in html
    assert "Nothing of: Safety" in html
    assert "(305 of 611 items)" in html
    assert "not comparable with a published one" in " ".join(md.split())
    assert "(part)" in md
    assert "Safety, xstest-should-respond: 250 of 250 rows are absent" in html
    # Marks of published scores: three at Chat, two at Chat Hard, none where items are missing.
    (picture,) = (svg for svg in pictures(html) if "<title>Scores by section" in svg)
    assert picture.count('class="mark"') == 3 + 2
    assert picture.count('class="part one"') == 1


def test_a_whole_benchmark_is_said_to_be_whole(tmp_path):
    items = make_items()
    html, md = written(tmp_path, [make_set(items=items, benchmark=make_benchmark())], items)
    assert "on all 1,430 items" in html
    for text in ("Incomplete", "not comparable", "(part)", "What is missing", "of what is here"):
        assert text not in html
        assert text not in md


@pytest.mark.parametrize("kind", ["responses only", "nothing measured", "no items", "no parts"])
def test_what_is_missing_is_left_out(tmp_path, kind):
    items, changes = make_items(), {}
    nothing = dict.fromkeys(("length", "calibration", "calibrated", "agreement"))
    if kind == "responses only":
        items = make_items(rated=False, paired=False)
    if kind == "nothing measured":
        changes = nothing
    if kind == "no items":
        items = []
        changes = nothing | {"benchmark": make_benchmark(missing=SUBSETS)}
    if kind == "no parts":
        bare = {"controlled": None, "bands": [], "margin_pearson": None, "reward_pearson": None}
        changes = {"length": LENGTH | bare, "agreement": {}, "calibrated": None}
        changes["calibration"] = CALIBRATION | {"bins": []}
        changes["benchmark"] = make_benchmark() | {"published": [], "extras": []}
    nowhere = {"temperature": None, "environment": {}, "config": {}}
    each = make_set(items=items, **changes)
    html, md = written(tmp_path, [each], items, **nowhere)
    Page(html)
    for svg in pictures(html):
        ElementTree.fromstring(svg)
    assert "None" not in html
    assert "None" not in md
    if kind == "responses only":
        assert pictures(html) == []
        assert "120 responses scored" in html
    if kind == "no items":
        assert "Nothing of it is here" in html


def test_the_cut_prompts_are_counted_in_the_verdict():
    each = make_set(cut=5)
    (said, *_) = evaluation_report.verdicts(each, 2048)
    assert said.sentence.endswith(
        "5 prompts of 60 were cut from the left to fit into 2,048 tokens."
    )
    assert "cut" not in evaluation_report.verdicts(make_set(), 2048)[0].sentence


def verdict_of(*, overall, accuracy=0.7, lead=0.1, chance=0.5):
    short = [] if overall else ["Safety"]
    benchmark = make_benchmark(short=short) | {"chance": chance, "overall": None}
    if overall is not None:
        interval = [overall - 0.02, overall + 0.02]
        benchmark["overall"] = {"score": overall, "interval": interval, "complete": True}
    baseline = {"best": "longer", "accuracy": 0.6, "shorter_accuracy": 0.4, "lead": lead}
    baseline["lead_interval"] = [lead - 0.05, lead + 0.05]
    p = {"accuracy": accuracy, "interval": [accuracy - 0.05, accuracy + 0.05], "pairs": 90}
    return evaluation_report.benchmark_verdict(benchmark, p | {"length_baseline": baseline})


def test_a_verdict_claims_no_more_than_the_intervals_do():
    assert verdict_of(overall=0.3, chance=0.25).tone == "good"
    assert verdict_of(overall=0.26, chance=0.25).tone == "unsure"
    assert verdict_of(overall=0.2, chance=0.25).label == "No better than chance"
    assert verdict_of(overall=0.8, lead=0.03).tone == "unsure"
    assert verdict_of(overall=0.8, lead=-0.01).label == "No better than counting characters"
    part = verdict_of(overall=None)
    assert part.tone == "good"
    assert part.label.startswith("Incomplete.")
    assert verdict_of(overall=None, accuracy=0.52).tone == "unsure"


def test_a_rule_without_an_overall_score_is_not_called_incomplete():
    benchmark = make_benchmark() | {"overall": None}
    each = make_set(benchmark=benchmark)
    (said, *_) = evaluation_report.verdicts(each, 2048)
    assert "All 1,430 items are here; its rule gives no overall score." in said.sentence
    assert "Incomplete" not in said.label


def test_a_section_of_one_subset_of_its_name_is_one_row():
    benchmark = make_benchmark(short=["Safety"])
    for section in benchmark["sections"]:
        section["subsets"] = [{**section["subsets"][0], "name": section["name"].lower()}]
    table = benchmark_tables.benchmark_tables(benchmark)[0]
    names = ["Chat", "Chat Hard", "Safety, of what is here", "Reasoning"]
    assert [row[0] for row in table.rows] == names
    assert all(row[4] == "56.1%" for row in table.rows)


def test_a_set_is_called_by_its_title_where_that_says_which():
    benchmark = make_benchmark()
    assert evaluation_report.set_title(make_set(benchmark=benchmark)) == "RewardBench"
    rm_bench = make_set("rm_bench", benchmark=benchmark | {"title": "RM-Bench"})
    assert evaluation_report.set_title(rm_bench) == "RM-Bench"
    other = make_set("other", benchmark=benchmark)
    assert evaluation_report.set_title(other) == "RewardBench (other)"
    assert evaluation_report.set_title(make_set("hh-val")) == "hh-val"


def test_weights_tuned_on_what_is_evaluated_are_no_success():
    sure = SEARCH | {"gain_interval": [0.01, 0.04], "warning": None}
    assert evaluation_report.weights_verdict(sure).tone == "good"
    warned = evaluation_report.weights_verdict(sure | {"warning": "Tuned on the test set."})
    assert warned.tone == "bad"
    assert "Tuned on the test set." in warned.sentence
    assert evaluation_report.weights_verdict(SEARCH | {"warning": None}).tone == "unsure"
    worse = sure | {"gain": -0.01, "gain_interval": [-0.03, 0.01]}
    assert evaluation_report.weights_verdict(worse).tone == "bad"


def test_a_prompt_is_a_mistake_only_once():
    item = make_items(1)[0]
    item |= {"responses": ["a", "b", "c", "d"], "rewards": [0.0, 1.0, 3.0, 2.0]}
    item |= {"ratings": [{}] * 4, "pairs": [[0, r, 1.0] for r in (1, 2, 3)], "tokens": [1] * 4}
    (found,) = evaluation_report.worst_mistakes([item], "Marked right")
    assert [answer.text for answer in found.answers] == ["a", "c"]
    assert found.answers[0].role == "Marked right"
    assert "alpacaeval-easy" in found.heading


@pytest.mark.parametrize("name", ["evaluation.json", "items/reward_bench.jsonl"])
def test_a_folder_that_is_not_whole_is_refused(tmp_path, name):
    write_evaluation(tmp_path, [make_set()], make_items())
    (tmp_path / name).write_text('{"sets": [', encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name}.*run the evaluation again"):
        evaluation_report.write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        evaluation_report.write(tmp_path)


def test_a_training_run_is_not_taken_for_an_evaluation(tmp_path):
    (tmp_path / "evaluation.json").write_text('{"summary": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match="of a training run"):
        evaluation_report.write(tmp_path)


def test_writing_again_gives_the_same_bytes(tmp_path):
    sets, items, more = everything()
    assert written(tmp_path, sets, items, **more) == written(tmp_path, sets, items, **more)


def test_what_the_statistics_say_fits_into_the_page(tmp_path):
    items = make_items(120, skill=0.6)
    for i, item in enumerate(items):
        item["about"] = {"subset": ("alpacaeval-easy", "mt-bench-hard", "hep-go")[i % 3]}
        item["pairs"] = [[c, r, 1.0] for c, r, _ in item["pairs"]]
    measured = {
        "benchmark": benchmarks.score("reward_bench", items),
        "length": length.analysis(items),
        "calibration": calibration.measure(items),
        "calibrated": calibration.measure(items, calibration.fit_temperature(items)),
        "agreement": agreement.ratings(items, NAMES),
    }
    assert all(measured.values())
    html, md = written(tmp_path, [make_set(items=items, **measured)], items)
    Page(html)
    easy = np.mean([x["rewards"][x["pairs"][0][0]] > x["rewards"][x["pairs"][0][1]] for x in items])
    assert f"{100 * easy:.1f}%" in html
    assert f"{100 * easy:.1f}%" in md
    assert "Scores by section" in html


SHARES = st.floats(0, 1)
INTERVALS = st.tuples(SHARES, SHARES).map(sorted)
BINS = st.fixed_dictionaries(
    {
        "predicted": SHARES,
        "observed": SHARES,
        "interval": st.none() | INTERVALS,
        "pairs": st.integers(0, 10**6),
    }
)
PARTS = st.fixed_dictionaries(
    {
        "name": st.text(max_size=60),
        "pairs": st.integers(0, 10**6),
        "accuracy": SHARES,
        "difference": st.floats(-1, 1),
        "interval": INTERVALS,
        "longer": st.none() | SHARES,
    }
)


@given(st.lists(BINS, max_size=8), st.lists(PARTS, max_size=8))
def test_any_numbers_can_be_drawn(bins, parts):
    drawn = [
        (benchmark_plots.reliability({"bins": bins}), any(each["pairs"] for each in bins)),
        (benchmark_plots.length_bands(parts), bool(parts)),
        (benchmark_plots.differences(parts), bool(parts)),
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


def test_a_confusion_picture_counts_what_it_is_given():
    picture = benchmark_plots.confusion("helpfulness", AGREEMENT["helpfulness"])
    texts = [node.text for node in ElementTree.fromstring(picture).iter("text")]
    for n in (31, 14, 1040, 21):
        assert f"{n:,}" in texts
    empty = {"levels": [], "confusion": [], "kappa": None, "outside": 0}
    assert benchmark_plots.confusion("helpfulness", empty) is None
