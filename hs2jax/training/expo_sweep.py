"""Which factors ExPO tries, what they gave, and which is the best."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hs2jax.evaluation import comparison, statistics

FOLDS = 5


def coarse_factors(factors: Sequence[float]) -> list[float]:
    """In the order of their trying: the trained model, the initial one, and those asked for."""
    return [1.0, 0.0, *sorted({float(factor) for factor in factors} - {0.0, 1.0})]


def fine_factors(best: float, coarse: Sequence[float], *, step: float, reach: float) -> list[float]:
    """Factors around the best of the coarse ones that are not among them; none where step is 0."""
    if not step:
        return []
    count = math.floor(reach / step + 1e-9)
    # Rounded, as 1.4 + 2 * 0.02 would be 1.44 and a little.
    around = [round(best + i * step, 9) for i in range(-count, count + 1)]
    return [factor for factor in around if factor > 0 and factor not in coarse]


def choose(rows: Sequence[dict]) -> dict:
    """The row with the highest accuracy; of equal ones that with the lowest loss, then that which
    goes the least far from the trained model. Factor 0 cannot be chosen: it is the initial model,
    there to be compared with."""
    able = [row for row in rows if row["factor"] > 0]
    return max(able, key=lambda row: (row["accuracy"], -row["loss"], -abs(row["factor"] - 1)))


def describe(row: dict) -> str:
    return f"factor {row['factor']:g}, accuracy {row['accuracy']:.1%}, loss {row['loss']:.4f}"


class Sweep:
    """The results of a sweep so far: `rows` by factor, and the file of JSON lines they are kept in.

    of: what they follow from. Raises ValueError where the file holds results of something else.
    """

    def __init__(self, path: Path, *, of: str, writes: bool = True):
        self.rows: dict[float, dict] = {}
        self._path, self._of, self._writes = path, of, writes
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for row in map(json.loads, lines):
            if row["of"] != of:
                raise ValueError(
                    f"{path} holds results of other parameters or pairs: what the config names has "
                    "changed since. Give another --workdir, or remove it"
                )
            self.rows[row["factor"]] = row

    def add(self, row: dict, outputs: Sequence[np.ndarray]) -> None:
        """Keeps a row and its outputs [responses, K] of each group, on the disk too."""
        row = {**row, "of": self._of, "outputs": [table.tolist() for table in outputs]}
        self.rows[row["factor"]] = row
        if self._writes:  # Whole or not at all.
            scratch = self._path.with_suffix(".tmp")
            text = "".join(json.dumps(each) + "\n" for each in self.rows.values())
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(self._path)

    def outputs(self, factor: float) -> list[np.ndarray]:
        return [np.array(table, np.float32) for table in self.rows[factor]["outputs"]]

    def best(self, factors: Sequence[float] | None = None) -> dict:
        """The best row so far, among these factors where they are given. See `choose`."""
        rows = self.rows.values()
        return choose([row for row in rows if factors is None or row["factor"] in factors])

    def curve(self) -> list[dict]:
        """The rows in the order of their factors, without outputs."""
        rows = sorted(self.rows.values(), key=lambda row: row["factor"])
        return [{key: row[key] for key in row if key not in ("of", "outputs")} for row in rows]


def compare(trained: list[dict], chosen: list[dict]) -> dict:
    """The second model against the first on the same pairs: see `comparison.compare`."""
    found = comparison.compare(trained, chosen, shown=0)
    return {
        key: x for key, x in found.items() if key not in ("subsets", "attributes", "disagreements")
    }


def held_out(coarse: Sequence[float], items_of: Callable[[float], list[dict]]) -> dict | None:
    """What choosing a factor gains over factor 1 on pairs that had no say in it: `compare`, and
    `factors`, those that the folds chose. None with less than FOLDS groups.

    Cross-validation over groups: the pairs of each fold are judged with the factor that is best on
    the others. Only the coarse factors are candidates, as the finer ones lie where all pairs said.
    """
    trained = items_of(1.0)
    if len(trained) < FOLDS:
        return None
    fold = np.random.default_rng(0).permutation(len(trained)) % FOLDS
    candidates = {factor: items_of(factor) for factor in coarse if factor > 0}
    margins = {}
    for factor, items in candidates.items():
        group, margins[factor], *_ = statistics.pair_columns(items)
    factors, mixed = [], list(trained)
    for n in range(FOLDS):
        others = fold[group] != n
        rows = [
            {
                "factor": factor,
                "accuracy": (margin[others] > 0).mean(),
                "loss": np.logaddexp(0.0, -margin[others]).mean(),
            }
            for factor, margin in margins.items()
        ]
        factors.append(choose(rows)["factor"])
        for i in np.flatnonzero(fold == n):
            mixed[i] = candidates[factors[-1]][i]
    return {**compare(trained, mixed), "factors": factors}
