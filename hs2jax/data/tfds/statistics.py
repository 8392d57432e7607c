"""Compares a built data set with what its paper says about it."""

from typing import NamedTuple

import numpy as np

from hs2jax.data.formats import ATTRIBUTES
from hs2jax.data.tfds import catalogue, reading

# Mean, standard deviation and, where published, Pearson's correlation with helpfulness.
PUBLISHED = {
    "helpsteer": {  # arXiv 2311.09528, section 3.
        "helpfulness": (2.7856, 0.9793),
        "correctness": (2.8369, 0.9935),
        "coherence": (3.2991, 0.7699),
        "complexity": (1.4423, 0.8205),
        "verbosity": (1.5331, 0.9287),
    },
    "helpsteer2/ratings": {  # arXiv 2406.08673, table 2.
        "helpfulness": (2.8655, 1.2703, 1.0),
        "correctness": (2.9644, 1.2689, 0.9430),
        "coherence": (3.6393, 0.6491, 0.4979),
        "complexity": (1.7048, 0.6986, 0.1805),
        "verbosity": (1.9999, 0.7571, 0.0600),
    },
}
# The papers do not say whether validation is among what they describe. It is 5% of the rows, and
# changes none of these numbers by as much.
TOLERANCE = 0.01


class Compared(NamedTuple):
    """A published number beside the one found."""

    quantity: str
    published: float
    found: float

    @property
    def agrees(self) -> bool:
        return abs(self.published - self.found) <= TOLERANCE


def check(name: str, data_dir: str | None = None) -> list[Compared]:
    """Row counts of a built data set, and the statistics of its ratings where some are published.

    Raises FileNotFoundError where it has not been built, and ValueError where its splits have not
    the published numbers of rows: statistics of a part would say nothing.
    """
    dataset, config, source = catalogue.find(name)
    name = catalogue.full_name(dataset, config)
    built = reading.prepared(name, data_dir)
    counts = {split: built.info.splits[split].num_examples for split in source.rows}
    if counts != source.rows:
        raise ValueError(
            f"{name} in {built.data_dir} holds {_show(counts)}, published are "
            f"{_show(source.rows)}: build it from the full files to compare its statistics"
        )
    compared = [Compared(f"{split} rows", n, counts[split]) for split, n in source.rows.items()]
    if name in PUBLISHED:
        rows = (row for split in counts for row in reading.rows(built, split))
        ratings = np.array([[row[attribute] for attribute in ATTRIBUTES] for row in rows])
        compared += compare(ratings, PUBLISHED[name])
    return compared


def compare(ratings: np.ndarray, published: dict[str, tuple[float, ...]]) -> list[Compared]:
    """Ratings [N, 5], in the order of ATTRIBUTES, against published means and so on."""
    found = zip(*describe(ratings), strict=True)
    return [
        Compared(f"{attribute} {kind}", number, float(ours))
        for attribute, numbers in zip(ATTRIBUTES, found, strict=True)
        for kind, number, ours in zip(
            ("mean", "standard deviation", "correlation with helpfulness"),
            published[attribute],
            numbers,
            strict=False,  # HelpSteer's correlations are not published.
        )
    ]


def describe(ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and correlation with the first column, of each column: [5] each."""
    return ratings.mean(0), ratings.std(0), np.corrcoef(ratings, rowvar=False)[0]


def _show(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} rows of {split}" for split, n in counts.items())
