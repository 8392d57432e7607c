"""The page of a comparison: which model is better, on what, and how sure that is."""

import copy
import re
import xml.etree.ElementTree as ElementTree

import pytest
from evaluations import (
    EVIL,
    NAMES,
    SUBSETS,
    make_benchmark,
    make_items,
    make_set,
    poison,
    write_evaluation,
)
from test_report import Page

from hs2jax.evaluation import comparison, comparison_report


def two_models(n=150):
    """Items of a model and of one that tells good from bad better."""
    both = [make_items(n, skill=0.5), make_items(n, seed=1, skill=2.0)]
    for items in both:
        for i, item in enumerate(items):
            item["about"]["subset"] = list(SUBSETS["Chat"])[i % 3]
    return both


def written(folder, first, second, *, names=("small", "large"), **changes):
    """Compares evaluations whose sets are {name: items}."""
    for name, sets in zip(names, (first, second), strict=True):
        made = [make_set(each, items=items, **changes) for each, items in sets.items()]
        model = {"name": name, "outputs": NAMES, "weights": None, "dtype": name}
        write_evaluation(folder / name, made, sets, model=model)
    path = comparison_report.write(*(folder / name for name in names), folder / "out")
    assert path == folder / "out" / "report.html"
    return path.read_text(encoding="utf-8"), path.with_suffix(".md").read_text(encoding="utf-8")


def test_the_page_says_what_the_comparison_found(tmp_path):
    first, second = two_models()
    html, md = written(tmp_path, {"reward_bench": first}, {"reward_bench": second})
    text, plain = " ".join(Page(html).text), md.replace("**", "").replace("\\", "")
    found = comparison.compare(first, second, NAMES, NAMES)
    assert found["interval"][0] > 0
    expected = [f"{100 * found[key]:.1f}%" for key in ("first", "second")]
    expected += [f"{100 * found['difference']:+.1f} points"]
    expected += [f"{100 * part['second']:.1f}%" for part in found["subsets"]]
    expected += [f"{found['only_second']:,}", f"{found['neither']:,}"]
    expected += [f"{each['second_mse']:.3f}" for each in found["attributes"].values()]
    for number in expected:
        assert number in text, number
        assert number in plain, number
    assert "large against small" in text
    assert "large is better" in text
    assert text.count("Marked wrong") == len(found["disagreements"][: comparison_report.SHOWN]) > 0
    (svg,) = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    labels = [node.text for node in ElementTree.fromstring(svg).iter("text")]
    assert {"all pairs", *SUBSETS["Chat"]} <= set(labels)


def test_text_from_anywhere_is_escaped(tmp_path):
    first, second = (poison(items) for items in two_models(40))
    for folder, items in (("a", first), ("b", second)):
        each = poison(make_set("set", items=two_models(40)[0], benchmark=make_benchmark()))
        model = {"name": EVIL + folder, "outputs": poison(NAMES)}
        write_evaluation(tmp_path / folder, [each | {"name": "set"}], items, model=model)
    path = comparison_report.write(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    html, md = path.read_text(encoding="utf-8"), path.with_suffix(".md").read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not {"src", "href"} & {key for key, _ in page.attributes}
    assert "url(" not in html
    assert "".join(page.text).count("<script>alert") > 20
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(svg)
    for line in md.splitlines():
        assert "<script>" not in line.replace("\\<script", "") or line.startswith("    ")


def test_a_model_is_not_better_than_itself(tmp_path):
    items = two_models()[0]
    html, _ = written(tmp_path, {"reward_bench": items}, {"reward_bench": copy.deepcopy(items)})
    assert "No difference beyond chance" in html
    assert "is better" not in html
    assert "Where they differ most" not in html


def test_the_other_way_round_it_is_worse(tmp_path):
    first, second = two_models()
    html, _ = written(tmp_path, {"reward_bench": second}, {"reward_bench": first})
    assert "large is worse" in html
    assert 'class="verdict bad"' in html


def test_sets_without_pairs_and_sets_of_one_side_are_said(tmp_path):
    bare, items = make_items(10, rated=False, paired=False), two_models()[0]
    html, md = written(tmp_path, {"responses": bare, "mine": items}, {"responses": bare})
    assert "No pairs to compare on" in html
    assert "sets of its own, not compared" in html
    assert re.search(r"sets of its own, not compared \| mine \| none", md)
    assert "<svg" not in html


def test_benchmark_scores_stand_side_by_side_and_parts_are_named(tmp_path):
    first, second = two_models(40)
    part = make_benchmark(missing=["Safety"], short=["Reasoning"])
    _, md = written(tmp_path, {"a": first}, {"a": second}, benchmark=part)
    assert "RewardBench's own scores" in md
    assert md.count("(part)") == 2


def test_what_cannot_be_compared_is_refused_by_name(tmp_path):
    items = two_models(20)[0]
    with pytest.raises(ValueError, match=r"no set is in both.*a in .*small and b in .*large"):
        written(tmp_path, {"a": items}, {"b": items})
    other = [item | {"prompt": "another"} for item in items]
    with pytest.raises(ValueError, match="set a: nothing in common"):
        written(tmp_path, {"a": items}, {"a": other})


def test_models_of_the_same_name_are_told_apart_by_their_folders(tmp_path):
    evaluations = [{"model": {"name": "model"}}] * 2
    folders = [tmp_path / "one", tmp_path / "two"]
    assert comparison_report.names(evaluations, folders) == ["one", "two"]
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert comparison_report.names(evaluations, folders) == list(map(str, folders))


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (("runs/a/model", "runs/b/model/"), ["a", "b"]),
        (("org/one", "org/two"), ["one", "two"]),
        (("one", "folder/one"), ["one", "folder/one"]),
    ],
)
def test_models_are_called_by_what_differs(names, short, tmp_path):
    evaluations = [{"model": {"name": name}} for name in names]
    assert comparison_report.names(evaluations, [tmp_path, tmp_path]) == short
