"""Pages of finished runs: the rule for verdicts, escaping, a small made-up run of every kind."""

import html.parser
import json
import math
import re
from pathlib import Path

import pytest
import raters
from command import succeed

from hs2jax import report, workdir
from hs2jax.report import charts, format, page, views
from hs2jax.report.page import Case, Cell, Figure, Section, Table, Verdict
from hs2jax.report.run import Run

EVIL = '<script>alert("&")</script> $x_1$ | *b* \x00'


def row(set_, part, metric, value, low=None, high=None, n=20, **more):
    interval = None if low is None else (low, high)
    return workdir.row(set_, part, metric, value, interval, n, **more)


def make(folder: Path, kind: str, rows, items=None, metrics=(), **result) -> Path:
    record = {"rows": 24, "groups": 24, "tokens": 12345, "skipped": {"no prompt": 2}, "padding": 0}
    workdir.write_rows(folder / "results.jsonl", [{"kind": kind, **each} for each in rows])
    head = {"kind": kind, "records": {"validation": record}, "seconds": 61.0}
    head |= {"environment": {"device": "1 x cpu"}, "config": {"seed": 1, "a": {"b": 1e-5}}}
    workdir.write_json(folder / "result.json", head | result)
    for name, lines in (items or {}).items():
        workdir.write_rows(folder / "items" / f"{name}.jsonl", lines)
    workdir.write_rows(folder / "metrics.jsonl", metrics)
    return folder


def item(prompt="Why?", right=1.0, wrong=0.0, **more):
    more |= {"prompt": prompt, "ratings": [{"helpfulness": 4.0}, {"helpfulness": 1.0}]}
    return raters.item(["Because.", "No."], [right, wrong], [(0, 1, 2)], **more)


def set_rows(name, accuracy=(0.8, 0.6, 0.9), lead=(0.3, 0.1, 0.5)):
    chance = {"reference": 0.5, "better": "higher", "headline": True}
    length = {"reference": 0.0, "better": "higher", "against": "longer"}
    return [
        row(name, "", "accuracy", *accuracy, **chance),
        row(name, "", "lead_over_length", *lead, **length),
        row(name, "", "longer_wins", 0.5, 0.3, 0.7),
        row(name, "", "margin", 1.25),
        row(name, "strength/1", "accuracy", 0.7, 0.4, 0.9, 8),
        row(name, "strength/3", "accuracy", 0.9, 0.6, 0.99, 12),
        row(name, "band/twice as long or more", "accuracy", 0.7, 0.4, 0.9, 8),
        row(name, "bin/1", "agreement", 0.6, 0.4, 0.8, method="as scored", confidence=0.65),
        row(name, "bin/2", "agreement", 0.8, 0.6, 0.9, method="as scored", confidence=0.85),
        row(name, "", "ece", 0.07, method="as scored"),
        row(name, "attribute/helpfulness", "mse", 1.2, 1.0, 1.4),
        row(name, "attribute/helpfulness", "mse_of_mean", 1.5, method="mean of these ratings"),
        row(name, "attribute/helpfulness", "mse_below_mean", 0.3, 0.1, 0.5, reference=0.0),
    ]


def benchmark_rows():
    ours = {"expected": 358, "complete": True}
    return [
        *set_rows("reward_bench"),
        row("reward_bench", "section/Chat", "score", 0.9, 0.8, 0.95, 358, **ours),
        row("reward_bench", "section/Chat/alpaca", "score", 0.9, 0.8, 0.95, 358, **ours),
        row("reward_bench", "section/Chat/alpaca", "longer_wins", 0.4),
        row("reward_bench", "section/Safety", "score", None, n=0, expected=740, complete=False),
        row("reward_bench", "level/Hard/Chat", "score", 0.4),
        row("reward_bench", "style/Chat/concise/detailed", "score", 0.4),
        row("reward_bench", "section/Chat", "published", 0.96, method="GPT", source="a paper"),
    ]


def evaluation(folder: Path, name="models/a/model", plus=0.0, **rows) -> Path:
    """plus: what is added to the rewards of right responses."""
    benchmark = {"title": "RewardBench", "source": "a paper", "rule": "Means.", "chance": 0.5}
    sets = {"own": {"data": "own.jsonl"}, "reward_bench": {"data": "b", "benchmark": benchmark}}
    items = [item(f"{EVIL} {i}", right=plus + 0.1 * i, wrong=0.5) for i in range(9)]
    made = [*set_rows("own", **rows), *benchmark_rows()]
    made.append(row("", "attribute/helpfulness", "weight", 1.0))
    return make(
        folder,
        "evaluate",
        made,
        {"own": items, "reward_bench": [item()]},
        model={"name": name, "outputs": ["helpfulness"]},
        sets=sets,
    )


def training(folder: Path) -> Path:
    lines = [{"kind": "train", "step": i, "loss": 1 / (i + 1)} for i in range(20)]
    lines += [{"kind": "validation", "step": i, "loss": 0.9, "accuracy": 0.8} for i in (0, 20)]
    rows = [*set_rows("validation"), row("", "", "peak_memory_bytes", 2**31)]
    made = {"step": 20, "steps": 20, "objective": "preference", "outputs": ["helpfulness"]}
    return make(
        folder,
        "train_reward_model",
        rows,
        {"validation": [item()]},
        lines,
        warnings=["cold"],
        **made,
    )


def policy(folder: Path) -> Path:
    change = {"reference": 0.0, "better": "lower", "against": "start"}
    rows = [
        row("validation", "", "loss", 1.5, 1.2, 1.8),
        row("validation", "", "change of loss", -0.5, -0.8, -0.2, **change),
        row("validation", "", "perplexity", 4.5),
    ]
    said = item(log_probability=[-3.0, -8.0], learned_tokens=[3, 2], condition={"helpfulness": 4})
    made = {"step": 5, "steps": 9, "objective": "likelihood"}
    return make(folder, "train_policy", rows, {"validation": [said]}, **made)


def best_of_n(folder: Path) -> Path:
    rows = [row("", f"n/{n}", "reward", n / 4, n / 5, n / 3, kl=0.1 * n) for n in (1, 2, 3)]
    rows.append(row("", "", "win_rate", 0.2, 0.1, 0.4, reference=0.5, better="higher", ties=2))
    return make(folder, "best_of_n", rows)


def sampled(folder: Path) -> Path:
    rows = [row("", "", "responses", 40, headline=True)]
    rows.append(row("", "attribute/helpfulness", "mean", 2.5, method="before"))
    return make(folder, "sample", rows)


def planned(folder: Path) -> Path:
    said = [{"tone": "good", "label": "It fits", "sentence": "2 of 3 GiB."}]
    return make(folder, "plan", [row("", "time", "hours", 3.0)], said=said)


def recipe(folder: Path) -> Path:
    training(folder / "first"), policy(folder / "second")
    return make(folder, "recipe", [], stages=["first", "second"])


def text_of(folder: Path) -> str:
    """The page, well-formed: every element that is opened is closed, every id is there once."""
    text = report.write(folder).read_text(encoding="utf-8")
    check(text)
    return text


def check(text: str) -> None:
    opened, ids = [], []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            ids.extend(value for name, value in attributes if name == "id")
            if tag not in ("meta", "!doctype"):
                opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Parser().feed(text)
    assert not opened
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:url\(|href=")#([\w-]+)', text):
        assert target in ids


def test_a_verdict_needs_an_interval_that_excludes_the_reference():
    for ends, better, tone, label in (
        ((0.55, 0.7), "higher", "good", "Better"),
        ((0.3, 0.45), "higher", "bad", "Worse"),
        ((0.45, 0.7), "higher", "unsure", "Not shown to be better"),
        ((0.5, 0.7), "higher", "unsure", "Not shown to be better"),  # It must exclude it.
        ((0.3, 0.45), "lower", "good", "Better"),
        ((0.55, 0.7), "lower", "bad", "Worse"),
        (None, "higher", "unsure", "Not shown to be better"),
    ):
        said = workdir.row("s", "", "accuracy", 0.5, ends, 9, reference=0.5, better=better)
        verdict = page.verdict_of({"chance": said})
        assert (verdict.tone, verdict.label) == (tone, f"{label} than chance")
        assert page.verdict_of({"a": said}, "chance").tone == tone


@pytest.mark.parametrize(
    "change",
    [
        *({"value": x} for x in ("0.5", True, math.nan, [1])),
        *({"set": None}, {"part": 3}, {"metric": ""}, {"low": "a"}, {"high": math.inf}),
    ],
    ids=str,
)
def test_a_row_that_was_edited_into_no_row_is_named(tmp_path, change):
    folder = sampled(tmp_path)
    first, second = workdir.read_rows(folder / "results.jsonl")
    lines = (json.dumps(each) + "\n" for each in (first, second | change))
    (folder / "results.jsonl").write_text("".join(lines))
    with pytest.raises(ValueError, match=r"results\.jsonl, row 2: expected set, part and metric"):
        Run(folder)


def test_a_value_without_an_interval_says_so_where_it_is_held_against_something():
    alone = workdir.row("s", "", "accuracy", 1.0, n=1, reference=0.5, better="higher")
    assert format.line(alone) == "s, accuracy: 100.0% (interval not known), n=1"
    assert format.interval(alone | {"value": None}) == ""
    assert format.interval(workdir.row("s", "", "margin", 1.0)) == ""


def test_one_verdict_of_several_claims():
    above, below, open_ = (
        workdir.row("s", "", "m", 0.0, ends, reference=0.0, better="higher")
        for ends in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1))
    )
    for rows, than, tone, label in (
        ((above, open_), "", "unsure", "Better than a, not shown to be better than b"),
        ((above, below), "", "bad", "Worse than b, better than a"),
        ((above, above), "x", "good", "Better than x on a and b"),
        ((above, below), "x", "unsure", "Better than x on a, worse on b"),
        ((open_, below), "x", "bad", "Worse than x on b, not shown to be better on a"),
    ):
        verdict = page.verdict_of(dict(zip("ab", rows, strict=True)), than)
        assert (verdict.tone, verdict.label) == (tone, label)
    assert page.verdict_of({"a": above}, subject="It").label == "It: better than a"


@pytest.mark.parametrize(
    "kind", [evaluation, training, policy, best_of_n, sampled, planned, recipe]
)
def test_every_kind_has_a_whole_page(tmp_path, kind):
    text = text_of(kind(tmp_path / "run"))
    for section in ("How", "Settings", "1e-05", "12,345", "left out: no prompt"):
        assert section in text
    assert (tmp_path / "run" / "report.md").read_text(encoding="utf-8").startswith("# ")
    # It loads nothing, has no script, and suits dark, paper and a phone.
    assert not re.search(r"<script|\bsrc=|@import|url\((?!#)|<link|\bon\w+=", text)
    assert not re.search(r'href="(?!#)', text)
    for needed in ("prefers-color-scheme: dark", "@media print", "width=device-width"):
        assert needed in text


def test_an_evaluation_says_what_was_measured(tmp_path):
    folder, again = (evaluation(tmp_path / x / "run", accuracy=(0.2, 0.1, 0.4)) for x in "ab")
    text = text_of(folder)
    assert text == text_of(again)  # The same numbers give the same bytes.
    assert "Worse than chance" in text
    assert "Incomplete" in text
    for figure in ("Rewards", "Calibration"):
        assert f"<figcaption>{figure}" in text
    # Sections' intervals are drawn: 80 to 95 of 100, with chance at 50.
    assert '<path class="reference" d="M50.0 0V12"/><path class="range" d="M80.0 6H95.0"/>' in text
    said = (folder / "report.md").read_text(encoding="utf-8")
    assert "| **Safety** | **0** |  | **740** |" in said
    assert "| helpfulness | 20 | 1.200 (1.000 to 1.400) | 1.500 |" in said
    assert "Margin −0.50, strength 2" in said  # The worst mistake.
    assert format.line(Run(folder).rows[0]) == (
        "own, accuracy: 20.0% (95% interval 10.0 to 40.0), n=20"
    )


def test_a_comparison_says_which_is_better(tmp_path, monkeypatch):
    two = evaluation(tmp_path / "two", "b", plus=1.0)
    evaluation(tmp_path / "one", "a")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = Path(succeed("report", "--workdir=~/two", "--against=~/one").strip())
    assert path == two / "against-one" / "report.html"
    text = path.read_text(encoding="utf-8")
    check(text)
    assert "<h1>b against a</h1>" in text
    assert "b: better than a" in text
    assert "McNemar" in text
    assert "+66.7 points (95% interval +28.2 to" in text
    assert "Margin −0.50 by a, +0.50 by b" in text


def test_trainings_say_what_was_learned_and_what_they_warned_of(tmp_path):
    assert "Better than the start" in text_of(policy(tmp_path / "policy"))
    assert "<strong>It fits</strong><p>2 of 3 GiB." in text_of(planned(tmp_path / "plan"))
    text = text_of(training(tmp_path / "training"))
    assert "<figcaption>Loss" in text
    assert re.search(r"<strong>Warning</strong><p>Cold\.", text)


def test_views_say_only_what_is_understood():
    table = {"title", "each", "line", "column", "heading"}
    table |= {"least", "folded", "rest", "track", "note"}
    kinds = {"verdict": {"each", "first"}, "missing": {"label"}, "chart": {"title", "each"}}
    for specs in views.VIEWS.values():
        for spec in specs:
            kind = next((kind for kind in kinds if kind in spec), "rows")
            assert spec.keys() - {"rows", kind} <= kinds.get(kind, table)


def test_text_of_data_is_escaped_everywhere():
    svg = charts.curves({EVIL: [(0, 1), (1, 2)], EVIL * 2: [(None, 1.5)]}, EVIL, diagonal=EVIL)
    answers = [page.Answer(EVIL, EVIL, EVIL), page.Answer("", "", "")]
    table = Table(EVIL, [EVIL, EVIL], [[EVIL, Cell(EVIL, EVIL)]], EVIL, strong=[0])
    case = Case(EVIL, EVIL, answers)
    parts = [Figure(EVIL, svg), table, Figure(EVIL, svg)]
    section = Section(EVIL, [Verdict("good", EVIL, EVIL)], parts, [case], EVIL, EVIL)
    text = page.render("html", EVIL, EVIL, [section] * 3)
    assert "<script" not in text
    assert "\x00" not in text
    assert "$x_1$" in svg  # No formula.
    check(text)
    said = page.render("md", EVIL, EVIL, [section])
    assert r"\<script\>" in said
    for line in said.splitlines():
        assert "<script>" not in line.replace(r"\<", "") or line.startswith("    ")
        assert not line.startswith("|") or len(re.findall(r"(?<!\\)\|", line)) == 3


def test_charts_draw_around_what_is_missing_and_nothing_where_there_is_nothing():
    for svg in (
        charts.curves({"a": [(0, 1.0), (1, None), (2, 3.0)]}, diagonal="as asked"),
        charts.curves({"a": [(0, 1.0, None, None), (1, 2.0, 1.5, 2.5)]}),
        charts.curves({"a": [*((i, i % 7) for i in range(999)), (999, math.nan)]}, most=60),
        charts.histograms({"a": [1.0], "b": [1.0]}, "reward"),
    ):
        assert (svg[:4], svg[-6:]) == ("<svg", "</svg>")
    for nothing in (
        charts.curves({"a": [(0, None), (1, None)], "b": []}),
        charts.curves({"a": [(0, 1.0)], "level": [(None, 1.0)]}),
        charts.curves({"a": charts.spread([], [])}),
        charts.histograms({"a": []}, "x"),
    ):
        assert nothing == ""


def test_runs_of_a_kind_stand_side_by_side(tmp_path):
    for name in "abc":
        training(tmp_path / name)
    path = report.compare(tmp_path / "c", [tmp_path / "a", tmp_path / "b"])
    assert path.parent == tmp_path / "c" / "against-a-b"
    text = path.read_text(encoding="utf-8")
    check(text)
    assert "<h1>c against a, b</h1>" in text
    assert re.search(r"validation, accuracy</th><td><span>80.0%.*80.0%.*80.0%", text)
    assert "<figcaption>Loss on held-out data" in text


def test_a_page_opens_with_large_numbers_and_what_they_are_of(tmp_path):
    training(tmp_path / "run")
    text = text_of(tmp_path / "run")
    assert re.search(r"<dt>validation, accuracy</dt>\n<dd><b>80.0%</b> .*60.0 to 90.0", text)
    assert "synthetic" not in text
    config = {"kind": "train_reward_model", "model": {"name": "owner/base"}}
    config["data"] = {"train": "helpsteer2:mini/train.jsonl"}
    result = workdir.read_json(tmp_path / "run" / "result.json")
    workdir.write_json(tmp_path / "run" / "result.json", result | {"config": config})
    (tmp_path / "run" / "command.txt").write_text("hs2jax train --config=quickstart")
    text = text_of(tmp_path / "run")
    for said in ("owner/base", "helpsteer2:mini/train.jsonl", "--config=quickstart", "synthetic"):
        assert said in text.partition("</header>")[0]
    assert "people" not in text.lower()


def test_a_recipes_stages_stand_in_one_table(tmp_path):
    text = text_of(recipe(tmp_path))
    stages = text.partition("At a glance")[2].partition("</table>")[0]
    assert re.search(r"first</th>.*?80.0%.*second</th>", stages, re.S)


def test_a_run_that_goes_on_has_a_page_of_its_course(tmp_path):
    recipe(tmp_path)
    for place in (tmp_path, tmp_path / "first"):
        workdir.write_json(place / "config.json", {"kind": "recipe", "stages": ["first", "gone"]})
        (place / "result.json").unlink()
    config = {"kind": "train_policy", "objective": {"kind": "likelihood"}}
    workdir.write_json(tmp_path / "first" / "config.json", config)
    for name in ("results.jsonl", "items/validation.jsonl"):
        (tmp_path / "first" / name).unlink()
    with (tmp_path / "first" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 2')  # While it is written.
    for place in (tmp_path, tmp_path / "first"):
        text = text_of(place)
        assert "<strong>Unfinished</strong><p>At step 20;" in text
        assert "<figcaption>Loss" in text


def test_what_is_not_finished_has_no_page(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        report.write(tmp_path)
    for number, text in enumerate(("{}", '{"kind":')):  # Of an earlier version; cut off.
        workdir.write_rows(tmp_path / str(number) / "rows", [])
        (tmp_path / str(number) / "result.json").write_text(text)
        with pytest.raises(ValueError, match=r"result\.json is no whole result"):
            report.write(tmp_path / str(number))
    folder = sampled(tmp_path / "edited")
    path = folder / "results.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert len(Run(folder).rows) == 2
    with pytest.raises(ValueError, match="runs of one kind can be compared, not of evaluate and s"):
        report.compare(sampled(tmp_path / "a"), evaluation(tmp_path / "b"))
    assert Run(sampled(tmp_path / "c")).sets() == []
