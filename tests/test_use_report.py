"""Pages of pairs, selections, emotions and knowledge: escaped, and no more than the files say."""

import copy
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from command import fail, succeed
from evaluations import EVIL, poison
from judge_uses import TASKS, make, write_result
from judgements import make_items, make_set, write_judgement
from test_report import Page

from hs2jax.judging import use_report, use_tables


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each task as `hs2jax judge` leaves it, but for the page."""
    return {task: make(tmp_path_factory.mktemp(task), task) for task in TASKS}


def evaluation_of(folder):
    return json.loads((folder / "judge.json").read_text(encoding="utf-8"))


@pytest.fixture
def again(folders, tmp_path):
    """Writes a task's page from its result after a change, in a folder of its own."""

    def written(task, change=lambda result: None, rows=True, **changes):
        evaluation = evaluation_of(folders[task])
        change(evaluation["result"])
        write_result(tmp_path, task, evaluation["result"], **changes)
        if rows and task == "selection":
            for name in ("selected.jsonl", "scores.jsonl"):
                (tmp_path / name).write_bytes((folders[task] / name).read_bytes())
        return read_pages(tmp_path)

    return written


def read_pages(folder):
    path = use_report.write(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8"), (folder / "report.md").read_text(encoding="utf-8")


def plain(md):
    return md.replace("\\", "").replace("**", "")


@pytest.mark.parametrize("task", TASKS)
def test_one_page_that_loads_nothing_with_the_verdict_first(folders, task):
    html, md = read_pages(folders[task])
    page = Page(html)
    assert not {"link", "script", "img", "iframe", "object", "base"} & set(page.tags)
    assert not {"src", "href", "srcset", "style"} & {key for key, _ in page.attributes}
    assert not re.search(r"url\(|@import", html)
    assert html.index('class="verdict') < html.index("<table")
    name = use_report.TITLES[task]
    assert md.index(f"**{name}: ") < md.index("## ")
    expected = {"pairs": 2, "selection": 1, "emotions": 2, "knowledge": 3}
    assert html.count('class="verdict') == expected[task]
    assert "None" not in html + md
    assert not {"nan", "inf", "undefined"} & set(" ".join(page.text).split())
    titles = [
        ElementTree.fromstring(svg).find("title").text
        for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    ]
    drawn = {"selection": ["Scores"], "emotions": ["Weights by layer"]}
    drawn["knowledge"] = drawn["emotions"]
    assert titles == drawn.get(task, [])
    text = " ".join(page.text).replace("\u00a0", " ")
    for said in ("models/SmolLM2-135M-Instruct", "9f86d081884c7d65", "2 min 11 s", "1234"):
        assert said in text
        assert said in md
    assert read_pages(folders[task]) == (html, md)


def numbers_of(value):
    """All numbers anywhere in a file."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for each in value for number in numbers_of(each)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.parametrize("task", TASKS)
def test_every_number_in_a_table_is_from_the_files(folders, task):
    folder = folders[task]
    html, _ = read_pages(folder)
    known = numbers_of(evaluation_of(folder))
    if task == "selection":
        lines = (folder / "scores.jsonl").read_text(encoding="utf-8").splitlines()
        known += numbers_of([json.loads(line) for line in lines])
    known = np.array([0.0, *known])
    known = np.concatenate([known, 100 * known])
    shown = html[: html.index("<h2>How it was made")]
    cells = re.findall(r"<td>(.*?)</td>", shown)
    checked = 0
    for cell in cells:
        if re.search(r"[a-z]{4}|\d e", cell):  # Words: what a method is.
            continue
        for text in re.findall(r"[+−]?\d[\d,]*(?:\.\d+)?", cell.replace("under 0.001", "")):
            number = float(text.replace("−", "-").replace(",", "").lstrip("+"))
            decimals = len(text.split(".")[1]) if "." in text else 0
            near = np.abs(known - number).min()
            assert near <= 0.5000001 * 10**-decimals, cell
            checked += 1
    assert checked > 100


@pytest.mark.parametrize("task", TASKS)
def test_every_number_of_a_result_is_in_a_table(folders, task):
    """What a result has measured is shown, at least in the text file."""
    _, md = read_pages(folders[task])
    result = evaluation_of(folders[task])["result"]
    cells = {cell.strip(" *") for line in plain(md).splitlines() for cell in line.split("|")}
    wanted = {
        "pairs": lambda: [
            f"{100 * row[key]:.1f}%"
            for rows in (*result["ways"].values(), result["baselines"])
            for row in rows.values()
            for key in ("accuracy", "accuracy_half_credit", "consistency", "says_a")
            if key in row
        ],
        "selection": lambda: [
            *(f"{100 * row['overlap']:.1f}%" for row in result["choices"].values()),
            *(f"{row['response']:,.0f}" for row in result["choices"].values()),
            *(f"{of['mean']:.2f}" for of in result["criteria"].values()),
        ],
        "emotions": lambda: [
            f"{of[key]['value']:.3f}".replace("-", "−")
            for of in result["scores"].values()
            for key in ("spearman", "pearson", "kendall")
        ],
        "knowledge": lambda: [
            f"{found['value']:.3f}"
            for of in result["scores"].values()
            for found in (of["auc"], of["published"]["f1"], of["fitted"]["f1"])
        ],
    }[task]()
    assert len(wanted) > 15
    assert set(wanted) <= cells
    for name in result.get("scores") or result.get("choices") or result["ways"]["question"]:
        assert name in cells


@pytest.mark.parametrize("task", TASKS)
def test_text_from_anywhere_is_escaped(again, task):
    def evil(result):
        kept = {"chosen_by", "best_baseline"}
        poisoned = {key: each if key in kept else poison(each) for key, each in result.items()}
        for key in ("criteria", "choices", "scores", "baselines"):
            if key in poisoned:
                poisoned[key][EVIL] = next(iter(poisoned[key].values()))
        for rows in poisoned.get("ways", {}).values():
            rows[EVIL] = rows["direct"]
        if "published" in poisoned:
            poisoned["published"][EVIL] = {EVIL: next(iter(result["published"].values()))["direct"]}
        poisoned["left_out"] = {EVIL: 3}
        result.update(poisoned)

    more = {"model": {"name": EVIL, "checksum": EVIL}, "preset": EVIL}
    more |= {"environment": {EVIL: EVIL}, "config": {EVIL: EVIL, "weights": EVIL}}
    html, md = again(task, evil, **more)
    page = Page(html)
    assert "script" not in page.tags
    assert "".join(page.text).count("<script>alert") > 10
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(svg)
    for line in md.splitlines():
        assert "<script>" not in line.replace("\\<script", "") or line.startswith("    ")
    for table in re.findall(r"(?:^\|.*\n)+", md, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(widths) == 1, table


@pytest.mark.parametrize("task", TASKS)
def test_what_is_missing_is_left_out(again, task):
    def strip(result):
        for key in ("published", "tests", "weights"):
            result.pop(key, None)

    html, md = again(task, strip, rows=False, config={}, environment={})
    Page(html)
    assert "<svg" not in html
    assert not re.search("Published for|Paired|Settings|Environment|were chosen|mean scores", md)
    assert "None" not in html + md
    assert "| left out | none |" in md
    html, md = again(task, lambda result: result.update(left_out={"too long": 3, "not finite": 0}))
    assert "Left out: too long 3." in md
    assert "| left out.too long | 3 |" in md
    assert "not finite" not in html


def test_what_has_no_value_is_called_undefined(again):
    def constant(result):
        for of in result["scores"].values():
            for key in ("spearman", "pearson", "kendall"):
                of[key] = {"value": None, "interval": None}
        for test in result["tests"]:
            for key in ("spearman", "pearson", "kendall"):
                test[key] = {"difference": None, "interval": None, "p": None}

    html, md = again("emotions", constant)
    assert "no correlation with people is defined" in html
    assert "undefined" in md

    def one_order(result):
        result["choices"]["lager_wo"] |= {"spearman": None, "tied": 1200}

    _, md = again("selection", one_order)
    assert "undefined" in md
    assert "1,200 rows are as good as the last one chosen: chance decided there." in md


# Verdicts -----------------------------------------------------------------------------------------


def test_pairs_are_judged_by_chance_and_by_length(folders):
    result = evaluation_of(folders["pairs"])["result"]
    result["best_baseline"] = "shorter"
    result["baselines"]["shorter"]["accuracy"] = 0.55

    def said(accuracy, interval, lead, lead_interval):
        for rows in result["ways"].values():
            rows["lager_w"] |= {"accuracy": accuracy, "interval": interval}
            rows["lager_w"] |= {"lead": lead, "lead_interval": lead_interval}
        return use_report.pairs_verdicts(result)

    good, other = said(0.8, [0.7, 0.9], 0.25, [0.1, 0.4])
    assert (good.tone, good.label) == ("good", "Clearly above chance and length (question)")
    assert "in both orders, lager_w agrees with people on 80.0% of 80 pairs" in good.sentence
    assert "(95% interval 70.0 to 90.0)" in good.sentence
    assert "always preferring the shorter response (55.0%): +25.0 points" in good.sentence
    assert (other.tone, other.label) == ("good", "Clearly above chance and length (pointwise)")
    assert "orders" not in other.sentence
    assert said(0.8, [0.7, 0.9], 0.1, [-0.1, 0.3])[0].tone == "unsure"
    assert said(0.8, [0.7, 0.9], -0.1, [-0.3, 0.1])[0].tone == "bad"
    assert said(0.45, [0.3, 0.6], 0.1, [0.05, 0.3])[0].label.startswith("No better than chance")
    for rows in result["ways"].values():
        del rows["lager_w"]
    assert "lager_wo agrees" in use_report.pairs_verdicts(result)[0].sentence


def test_knowledge_is_judged_by_chance_and_by_calling_all_unanswerable(folders):
    result = evaluation_of(folders["knowledge"])["result"]
    result["always"] = 0.5

    def said(auc, f1):
        changed = copy.deepcopy(result)
        for name, of in changed["scores"].items():
            of["auc"] = {"value": auc[0] - 0.01 * (name != "e_score"), "interval": auc[1:]}
            of["fitted"]["f1"] = {"value": f1[0], "interval": f1[1:]}
        return use_report.knowledge_verdicts(changed)

    chance, always, layers = said([0.7, 0.6, 0.8], [0.7, 0.6, 0.8])
    assert (chance.tone, always.tone) == ("good", "good")
    assert chance.label == "Clearly better than chance"
    assert "e_score tells" in chance.sentence
    assert "AUC 0.700 (95% interval 0.600 to 0.800; chance is 0.5)" in chance.sentence
    assert "over 90 questions, 30 of them unanswerable" in chance.sentence
    assert always.label == "Clearly better than calling everything unanswerable"
    assert "calling all questions unanswerable has 0.500" in always.sentence
    chance, always, _ = said([0.55, 0.4, 0.7], [0.55, 0.4, 0.7])
    assert (chance.tone, always.tone) == ("unsure", "unsure")
    chance, always, _ = said([0.5, 0.4, 0.6], [0.45, 0.4, 0.7])
    assert (chance.tone, always.tone) == ("bad", "bad")
    test = result["tests"][0]["auc"]
    assert f"{test['difference']:+.3f}".replace("-", "−") + " from e_score" in layers.sentence
    assert layers.sentence.startswith("In AUC the tuned cross-layer score")
    assert "p =" not in layers.sentence


def test_emotions_and_selections_say_what_was_measured(folders):
    result = evaluation_of(folders["emotions"])["result"]
    agreement, layers = use_report.emotions_verdicts(result)
    top = max(result["scores"], key=lambda name: result["scores"][name]["spearman"]["value"])
    assert agreement.sentence.startswith(f"{top} follows people's ratings best of 10 ways")
    assert "Spearman" in layers.sentence
    result = evaluation_of(folders["selection"])["result"]
    (chosen,) = use_report.selection_verdicts(result)
    assert chosen.tone == "unsure"
    assert "15 of 60 rows chosen" in chosen.sentence
    assert "not measured" in chosen.sentence


# Rows of a selection ------------------------------------------------------------------------------


def test_the_first_chosen_rows_and_the_extremes_are_shown(folders):
    folder = folders["selection"]
    html, md = read_pages(folder)
    chosen = [json.loads(line) for line in (folder / "selected.jsonl").open(encoding="utf-8")]
    assert len(chosen) == 15
    text = " ".join(Page(html).text)
    for row, there in zip(chosen, [True] * 10 + [False] * 5, strict=True):
        quality = row["output"].split()[1]
        assert (f"quality {quality}" in text) == there
        assert (f"{len(row['output']):,} characters" in text) or not there
        assert row["output"] not in text or len(row["output"]) <= use_report.CHARACTERS
    assert " …" in text
    lines = [json.loads(line) for line in (folder / "scores.jsonl").open(encoding="utf-8")]
    lines.sort(key=lambda line: line["means"]["lager_wo"])
    tables = dict(re.findall(r"### (\w+) mean scores\n\n((?:\|.*\n)+)", plain(md)))
    for which, expected in (("Lowest", lines[:10]), ("Highest", lines[:-11:-1])):
        shown = [row.split(" | ") for row in tables[which].splitlines()[2:]]
        assert [row[0].strip("| ") for row in shown] == [
            line["source"].removeprefix(f"{folder}/") for line in expected
        ]
        assert [row[1] for row in shown] == [f"{x['means']['lager_wo']:.2f}" for x in expected]


def test_rows_of_several_formats_are_shown(again, tmp_path):
    rows = [
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        {"prompt": "Why?", "responses": ["Because."]},
    ]
    again("selection", rows=False)
    path = tmp_path / "selected.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data": "instructions:a.json+responses:b.jsonl[:9]"}
    html, md = again("selection", lambda result: result.update(data), rows=False)
    assert "1. Add. 1, 2" in html
    assert "    Because." in md
    path.write_text('{"no": "such"}\n')
    with pytest.raises(ValueError, match=r"selected\.jsonl: .*a row is not as in instructions:a"):
        use_report.write(tmp_path)


# The command --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["knowledge", "scores"])
def test_hs2jax_report_writes_the_page_again(folders, tmp_path, task):
    if task == "scores":
        items = make_items(6, criteria=["helpfulness"], methods=["lager_wo", "e_score"])
        write_judgement(tmp_path, [make_set(items=items)], items, task="scores")
    else:
        write_result(tmp_path, task, evaluation_of(folders[task])["result"])
    printed = succeed("report", f"--workdir={tmp_path}")
    assert printed.strip() == str(tmp_path / "report.html")
    said = {"knowledge": "Telling what cannot be answered", "scores": "Agreement with people"}
    assert said[task] in (tmp_path / "report.md").read_text(encoding="utf-8")
    (tmp_path / "judge.json").write_text('{"task": ')
    assert "judge.json: not whole JSON" in fail("report", f"--workdir={tmp_path}")


def test_given_weights_are_named_by_their_file(folders):
    _, md = read_pages(folders["pairs"])
    assert "Tuned weights are from runs/other/weights.json." in md
    assert "| weights from | runs/other/weights.json |" in md
    _, md = read_pages(folders["emotions"])
    assert "Tuned weights are cross-validated" in md
    _, md = read_pages(folders["selection"])
    assert "| weights from | none: even weights only |" in md
    assert use_tables.weights_from({"result": {"weights_from": "given"}}) == "given"
