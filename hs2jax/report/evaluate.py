"""The page of an evaluation: how good a reward model is on each set."""

from collections.abc import Mapping, Sequence

from hs2jax.report import charts, format
from hs2jax.report.page import Case, Figure, Section
from hs2jax.report.run import Run, field, select
from hs2jax.report.views import answer, view

MISTAKES = 5


def sections(run: Run) -> list[Section]:
    """All sets at a glance, each set, and the weights of the attributes."""
    whole = Section("All sets", *view("glance", run.rows))
    weights = Section("Weights and temperature", *view("weights", select(run.rows, set="")))
    found = [whole, *(set_section(run, name) for name in run.sets()), weights]
    return [section for section in found if any(part[1:] for part in section.parts)]


def set_section(run: Run, name: str) -> Section:
    """Say what is to be seen of one scored set, whichever verb scored it."""
    rows, items = select(run.rows, set=name), run.items(name)
    outputs = run.result.get("outputs") or (run.result.get("model") or {}).get("outputs") or []
    verdicts, parts = view("set", rows)
    parts = [_rewards(items), *_predicted(items, outputs), *parts]
    title, note, cases = name, "", _worst_mistakes(items)
    if benchmark := run.result.get("sets", {}).get(name, {}).get("benchmark"):
        title, note = benchmark["title"], f"{benchmark['rule']} Source: {benchmark['source']}."
        score, scores = _benchmark(rows, benchmark)
        verdicts, parts = [*score, *verdicts], [*scores, *parts]
    return Section(title, verdicts, parts, cases, note=note)


def _benchmark(rows: Sequence[Mapping], benchmark: Mapping) -> tuple[list, list]:
    """The scores of sections and subsets, and this model's beside those that papers report."""
    scores = select(rows, metric="score", family=["", "section"], head="")
    published = {row["part"] for row in select(rows, metric="published")}
    ours = [
        row
        | {"metric": "published", "method": "this model", "n": None, "expected": None}
        | {"source": f"{row['n'] or 0:,} of {row['expected']:,} items"}
        for row in select(rows, metric="score", part=[*published])
    ]
    chance = {"reference": benchmark["chance"]}
    rows = [row | chance if row["metric"] == "score" else row for row in rows]
    return view("benchmark", [*ours, *rows], [field(row, "name") for row in scores])


def _rewards(items: Sequence[Mapping]) -> Figure:
    pairs = [(item["rewards"], c, r) for item in items for c, r, _ in item.get("pairs") or []]
    sides = {"chosen": [x[c] for x, c, _ in pairs], "rejected": [x[r] for x, _, r in pairs]}
    return Figure("Rewards", charts.histograms(sides, "reward"))


def _predicted(items: Sequence[Mapping], outputs: Sequence[str]) -> list[Figure]:
    """Pictures of predicted against given ratings."""
    drawn = []
    for k, name in enumerate(outputs):
        rated = [
            (values[k], rating[name])
            for item in items
            for values, rating in zip(item["outputs"], item["ratings"] or [], strict=False)
            if (rating or {}).get(name) is not None
        ]
        drawn.append(rated_figure(name, [p for p, _ in rated], [r for _, r in rated]))
    return drawn


def rated_figure(name: str, predicted: Sequence[float], ratings: Sequence[float]) -> Figure:
    """Draw predictions for each rating: the median, and the 5th to 95th percentile."""
    lines = {"predicted: median, 5 to 95%": charts.spread(predicted, ratings)}
    svg = charts.curves(lines, "rating", diagonal="as rated")
    return Figure(f"{name}: predicted by rating", svg)


def _worst_mistakes(items: Sequence[Mapping]) -> list[Case]:
    """Show the pairs whose rejected response got the higher reward, the largest gap first, each
    prompt once."""
    wrong = []
    for item in items:
        margins = [(item["rewards"][c] - item["rewards"][r], c, r, s) for c, r, s in item["pairs"]]
        if margins and min(margins)[0] < 0:
            wrong.append((*min(margins), item))
    cases = []
    for margin, *pair, strength, item in sorted(wrong, key=lambda each: each[0])[:MISTAKES]:
        strong = f"strength {strength:g}" if strength != 1 else ""
        subset = (item.get("about") or {}).get("subset")
        about = [f"Margin {format.number(margin, format.SIGNED)}", strong, item["source"], subset]
        roles = zip(("Marked better", "The model preferred"), pair, strict=True)
        answers = [answer(role, item, r) for role, r in roles]
        cases.append(Case(", ".join(filter(None, about)), item["prompt"], answers))
    return cases
