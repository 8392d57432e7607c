"""The report: whole, self-contained, escaped, and the same numbers in both files."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hs2jax.evaluation import plots, report
from hs2jax.evaluation.statistics import summarize

NAMES = ["helpfulness", "verbosity"]
EVIL = '<script>alert("x")</script> & </div>\n| a | `b` |'


def scored(n=30, seed=0, rated=True, paired=True):
    rng = np.random.default_rng(seed)
    items = []
    for i in range(n):
        quality = rng.normal(size=2)
        outputs = (quality[:, None] * [0.5, 0.3] + 2 + 0.2 * rng.normal(size=(2, 2))).tolist()
        better = int(quality[1] > quality[0])
        items.append(
            {
                "source": f"val.jsonl:{i + 1}",
                "prompt": f"Question {i}?",
                "responses": ["word " * int(k) for k in rng.integers(1, 9, 2)],
                "outputs": outputs,
                "rewards": [row[0] for row in outputs],
                "ratings": [
                    {name: float(np.clip(round(2 + q), 0, 4)) for name in NAMES} if rated else {}
                    for q in quality
                ],
                "pairs": [[better, 1 - better, float(i % 3 + 1)]] if paired else [],
                "ties": 0,
                "tokens": [3, 4],
            }
        )
    return items


def stage(name="Regression", **changes):
    items = changes.pop("items", None) or scored()
    summary = summarize(items, NAMES)
    return {
        "name": name,
        "config": {"seed": 1234, "optimizer": {"learning_rate": 1e-5, "betas": (0.9, 0.98)}},
        "metrics": [{"kind": "train", "step": i + 1, "loss": 1 / (i + 1)} for i in range(20)],
        "evaluations": [{"step": 10, "loss": 0.5, **summary}, {"step": 20, "loss": 0.4, **summary}],
        "summary": summary,
        "items": items,
        "record": {"rows": 20324, "skipped": {"rating": 3}, "padding_fraction": 0.0432},
        "seconds": 131.0,
        "environment": {"device": "cpu"},
        **changes,
    }


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text.append(data)


def written(folder, *stages, title="A run", command="hs2jax run"):
    path = report.write(folder, title=title, command=command, stages=list(stages))
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8"), (folder / "report.md").read_text(encoding="utf-8")


def test_one_page_with_every_picture_and_nothing_from_elsewhere(tmp_path):
    html, _ = written(tmp_path / "new" / "run", stage(), stage("Bradley-Terry"))
    page = Page(html)
    assert page.tags.count("svg") == 2 * (3 + len(NAMES))
    labels = " ".join(value for key, value in page.attributes if key == "aria-label")
    for title in (
        "Loss over steps",
        "Rewards of chosen",
        "Accuracy on pairs",
        "human verbosity",
    ):
        assert labels.count(title) == 2
    assert page.tags.count("title") == 1 + page.tags.count("svg")
    assert not {"link", "script", "img", "iframe", "object"} & set(page.tags)
    assert not {"src", "href"} & {key for key, _ in page.attributes}
    assert not re.search(r"https?:|url\(|@import", html)
    # The verdict comes first: before the command, the pictures and the tables.
    assert html.index('class="verdict') < min(html.index(t) for t in ("<pre", "<svg", "<table"))


def test_text_from_data_is_escaped(tmp_path):
    items = scored()
    items[0] |= {
        "prompt": EVIL,
        "source": EVIL,
        "responses": [EVIL, "\x00\ud800 null and lone surrogate"],
        "rewards": [-9.0, 9.0],
        "pairs": [[0, 1, 3.0]],
    }
    evil = stage(EVIL, items=items, config={EVIL: EVIL}, environment={"a": EVIL})
    html, md = written(tmp_path, evil, title=EVIL, command=EVIL)
    page = Page(html)
    assert "script" not in page.tags
    assert "\x00" not in html
    assert "".join(page.text).count("<script>alert") >= 8
    # In Markdown: escaped in running text and tables, or inside a block of indented lines.
    for line in md.splitlines():
        assert "<script>" not in line.replace("\\<script", "") or line.startswith("    ")
    rows = [line for line in md.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) in (3, 4, 6, 7, 9) for row in rows)


def test_both_files_have_the_same_numbers(tmp_path):
    html, md = written(tmp_path, stage())
    page = Page(html)
    text = " ".join(page.text)
    cells = [
        cell.strip().replace("\\", "")
        for line in md.splitlines()
        if line.startswith("|") and "---" not in line
        for cell in line.strip("|").split("|")
    ]
    assert len(cells) > 80
    for cell in cells:
        if cell not in ("", "value"):
            assert cell in text
    for verdict in re.findall(r"^\*\*Regression\.\*\* (.*)$", md, re.MULTILINE):
        assert verdict in text
    for expected in ("20,324", "1234", "0.9; 0.98", "optimizer.learning_rate", "2 min 11 s"):
        assert expected in text
    p = summarize(scored(), NAMES)["preferences"]
    assert f"{100 * p['accuracy']:.1f}%" in text
    assert f"{100 * p['interval'][0]:.1f} to {100 * p['interval'][1]:.1f}" in text


@pytest.mark.parametrize("kind", ["pairs", "ratings", "nothing", "name only"])
def test_what_is_missing_is_left_out(tmp_path, kind):
    items = scored(rated=kind == "ratings", paired=kind == "pairs")
    part = {"name": "Only"} if kind == "name only" else stage("Only", items=items)
    html, md = written(tmp_path, part, command=None)
    page = Page(html)
    pictures = {"pairs": 3, "ratings": 1 + len(NAMES), "nothing": 1, "name only": 0}
    assert page.tags.count("svg") == pictures[kind]
    assert html.count('class="verdict') == (kind in ("pairs", "ratings"))
    assert ("### Preferences" in md) == (kind == "pairs")
    assert ("### Ratings" in md) == (kind == "ratings")


def test_strengths_are_shown_only_where_they_differ(tmp_path):
    html, md = written(tmp_path, stage())
    assert "Accuracy by strength" in html
    assert "much better" in html
    assert "### By strength" in md
    alike = [{**item, "pairs": [[c, r, 1.0] for c, r, _ in item["pairs"]]} for item in scored()]
    html, md = written(tmp_path, stage(items=alike))
    assert "slightly" not in html
    assert "slightly" not in md
    assert "Accuracy on pairs" in html


def test_the_running_mean_averages_the_neighbours():
    values = np.random.default_rng(0).normal(size=31)
    expected = [values[max(0, i - 4) : i + 5].mean() for i in range(31)]
    assert plots._running_mean(values, 4) == pytest.approx(expected)


def test_writing_again_gives_the_same_bytes(tmp_path):
    assert written(tmp_path, stage()) == written(tmp_path, stage())


def verdict_of(accuracy, interval, lead, lead_interval):
    length = {"best": "longer", "accuracy": 0.55, "shorter_accuracy": 0.45}
    length |= {"lead": lead, "lead_interval": lead_interval}
    p = {"accuracy": accuracy, "interval": interval, "pairs": 250, "length_baseline": length}
    return report.preference_verdict(p)


def test_the_verdict_claims_no_more_than_the_intervals_do():
    assert verdict_of(0.7, [0.64, 0.75], 0.15, [0.08, 0.22]).tone == "good"
    unsure = verdict_of(0.62, [0.56, 0.68], 0.07, [-0.01, 0.15])
    assert unsure.tone == "unsure"
    assert "clearly above chance" in unsure.sentence
    assert "but not surely" in unsure.sentence
    short = verdict_of(0.53, [0.47, 0.59], -0.02, [-0.1, 0.06])
    assert (short.tone, short.label) == ("bad", "No better than counting characters")
    assert "the interval reaches it" in short.sentence
    assert verdict_of(0.5, [0.44, 0.56], -0.05, [-0.1, 0.0]).label == "No better than chance"


def test_the_rating_verdict_names_what_is_not_better():
    def verdict(**errors):
        return report.rating_verdict(
            {
                n: {"mse": e, "mse_of_mean": 1.0, "mean_from": "training ratings"}
                for n, e in errors.items()
            }
        )

    assert "all 2 attributes" in verdict(helpfulness=0.9, verbosity=0.8).sentence
    partly = verdict(helpfulness=0.9, verbosity=1.0)
    assert (partly.tone, "1 of 2" in partly.sentence) == ("unsure", True)
    assert "not on verbosity" in partly.sentence
    assert verdict(verbosity=1.2).tone == "bad"


def test_the_worst_mistakes_come_first_and_right_pairs_never():
    items = scored(60)
    margins = sorted(i["rewards"][c] - i["rewards"][r] for i in items for c, r, _ in i["pairs"])
    wrong = [margin for margin in margins if margin < 0]
    found = report.worst_mistakes(items, most=3)
    assert len(found) == min(3, len(wrong)) > 0
    for mistake, margin in zip(found, wrong, strict=False):
        assert f"{abs(margin):.2f}" in mistake.heading
        assert [answer.role for answer in mistake.answers] == [
            "People chose",
            "The model preferred",
        ]


NUMBERS = st.floats(-1e6, 1e6)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.one_of(NUMBERS, st.just(float("nan"))))),
    st.lists(st.tuples(st.integers(0, 10**6), NUMBERS)),
    st.lists(st.tuples(NUMBERS, NUMBERS)),
    st.lists(st.tuples(NUMBERS, st.integers(0, 4))),
)
def test_any_numbers_can_be_drawn(train, validation, rewards, ratings):
    pictures = [
        plots.loss_curve(train, validation),
        plots.reward_histograms([c for c, _ in rewards], [r for _, r in rewards]),
        plots.predicted_against_rating("a", [p for p, _ in ratings], [r for _, r in ratings]),
    ]
    there = [any(v == v for _, v in train), bool(rewards), bool(ratings)]
    assert [picture is not None for picture in pictures] == there
    for picture in filter(None, pictures):
        assert "nan" not in picture.replace("human", "")
        assert "inf" not in picture
        Page(picture)
        numbers = re.findall(r' (?:[xy][12]?|c[xy])="([^"]*)"', picture)
        numbers += re.findall(r"[-\d.e]+", " ".join(re.findall(r'points="([^"]*)"', picture)))
        assert all(-1 <= float(number) <= 341 for number in numbers)
