"""Statistics of a built data set: the arithmetic, what counts as agreeing, what is refused."""

import json

import numpy as np
import pytest

from hs2jax.data.formats import ATTRIBUTES
from hs2jax.data.tfds import __main__ as command
from hs2jax.data.tfds import catalogue, statistics

# Ten rows; the columns are worked out by hand below.
RATINGS = np.array(
    [[i % 5, 4 - i % 5, 2 + i % 2, int(i < 5), int(i % 5 in (0, 4))] for i in range(10)]
)
PUBLISHED = {
    "helpfulness": (2.0, 2**0.5, 1.0),
    "correctness": (2.0, 2**0.5, -1.0),
    "coherence": (2.5, 0.5, 0.0),
    "complexity": (0.5, 0.5, 0.0),
    "verbosity": (0.4, 0.24**0.5, 0.0),
}


def test_means_deviations_and_correlations():
    means, deviations, correlations = statistics.describe(RATINGS)
    for i, name in enumerate(ATTRIBUTES):
        assert (means[i], deviations[i], correlations[i]) == pytest.approx(PUBLISHED[name])


def test_compared_with_what_is_published():
    compared = statistics.compare(RATINGS, PUBLISHED)
    assert len(compared) == 15
    assert all(each.agrees for each in compared)
    off = {**PUBLISHED, "verbosity": (0.42, 0.24**0.5)}
    compared = statistics.compare(RATINGS, off)
    assert len(compared) == 14, "a correlation that is not published is not compared"
    assert [each.quantity for each in compared if not each.agrees] == ["verbosity mean"]


def test_a_perturbation_of_the_ratings_is_noticed():
    for column in range(5):
        changed = RATINGS.copy()
        changed[0, column] += 1
        assert not all(each.agrees for each in statistics.compare(changed, PUBLISHED))


def test_published_tables_are_whole():
    for name, table in statistics.PUBLISHED.items():
        assert tuple(table) == ATTRIBUTES
        assert catalogue.find(name)[2].format in ("helpsteer", "helpsteer2")
    assert statistics.PUBLISHED["helpsteer2/ratings"]["helpfulness"][2] == 1


@pytest.fixture
def small(monkeypatch, tmp_path):
    """HelpSteer2 as if ten rows, in two splits, were all that was published."""
    source = catalogue.DATASETS["helpsteer2"].configs["ratings"]
    small = source._replace(rows={"train": 6, "validation": 4})
    monkeypatch.setitem(catalogue.DATASETS["helpsteer2"].configs, "ratings", small)
    monkeypatch.setitem(statistics.PUBLISHED, "helpsteer2/ratings", PUBLISHED)

    def build(train, ratings=RATINGS):
        rows = [
            {
                "prompt": f"p{i // 2}",
                "response": f"r{i}",
                **dict(zip(ATTRIBUTES, map(int, row), strict=True)),
            }
            for i, row in enumerate(ratings)
        ]
        parts = {"train": rows[:train], "validation": rows[train:]}
        for split, part in parts.items():
            text = "".join(json.dumps(row) + "\n" for row in part)
            (tmp_path / f"{split}.jsonl").write_text(text)
        folders = [f"--manual_dir={tmp_path}", f"--data_dir={tmp_path / 'data'}"]
        return command.main(["helpsteer2", *folders, "--check"])

    return build


def test_full_files_are_checked_over_both_splits(small, capsys):
    assert small(train=6) == 0
    said = capsys.readouterr().out
    assert "train rows" in said
    assert "verbosity correlation with helpfulness" in said
    assert said.count(" published  ") == 17


def test_other_ratings_are_an_error(small, capsys):
    changed = RATINGS.copy()
    changed[:, 3] = 3 - changed[:, 3]
    assert small(6, changed) == 1
    assert "not as published: complexity mean" in capsys.readouterr().err


def test_a_part_is_refused(small, capsys):
    assert small(train=8) == 1
    said = capsys.readouterr()
    assert "8 rows of train, 2 rows of validation, published are 6 rows of train" in said.err
    assert "mean" not in said.out


def test_what_is_not_built_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has not been built"):
        statistics.check("helpsteer2", str(tmp_path))
