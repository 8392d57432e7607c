"""Tables of a judge's evaluation: the numbers of judge.json as text."""

import re
from collections.abc import Sequence

from hs2jax.evaluation.comparison_report import probability
from hs2jax.evaluation.tables import Table, count, duration, listing
from hs2jax.judging import lager

MEASURES = {"spearman": "Spearman", "pearson": "Pearson", "kendall": "Kendall"}
MEAN = "criteria_mean"  # Of Spearman within each criterion; only where there are several.
BASELINES = {
    "gpt_score": "mean log-probability of the response's tokens, after GPTScore",
    "ridge_probe": "linear regression on the model's states, by other prompts' ratings",
    "reward_model": "the score of a reward model",
}
# LAGER (arXiv 2508.03550), Tables 1 and 5, HelpSteer without reasoning: the likeliest score, the
# expected score, LAGER with even and with tuned weights.
PUBLISHED_METHODS = ("direct", "e_score", "lager_wo", "lager_w")
PUBLISHED = {
    "Llama-3.1-8B": {
        "spearman": (0.374, 0.464, 0.520, 0.515),
        "pearson": (0.376, 0.427, 0.483, 0.486),
    },
    "Qwen2.5-14B": {
        "spearman": (0.420, 0.447, 0.433, 0.443),
        "pearson": (0.428, 0.448, 0.430, 0.443),
    },
    "Llama-3.3-70B": {
        "spearman": (0.435, 0.444, 0.506, 0.504),
        "pearson": (0.435, 0.444, 0.506, 0.503),
    },
}


def set_tables(each: dict, evaluation: dict) -> list[Table]:
    """What is to be shown of a set; what it has not is left out."""
    pooled, criteria = each["criteria"][-1], each["criteria"]
    methods = methods_table(pooled["scores"], evaluation["weights_from"])
    if not pooled["human"]:
        return [means_table(criteria), methods]
    tables = [overall_table(pooled)]
    if len(criteria) > 2:
        tables.append(criteria_table(criteria))
    if pooled.get("tests"):
        tables.append(paired_table("Paired tests", pooled["tests"]))
    if pooled.get("presets"):
        tables.append(presets_table(pooled["presets"], evaluation["preset"]))
    if re.search(r"helpsteer(?![0-9])", each["data"], re.IGNORECASE):  # Not its successors.
        tables.append(published_table(pooled["scores"]))
    tables.append(intervals_table(pooled["scores"]))
    tables += [
        paired_table(f"Paired tests, {criterion['name']}", criterion["tests"], folded=True)
        for criterion in criteria[:-1]
        if criterion.get("tests") and len(criteria) > 2
    ]
    if layers := pooled.get("by_layer"):
        tables.append(layers_table(layers, each.get("weights")))
    return [*tables, methods]


def overall_table(pooled: dict) -> Table:
    people, scores = pooled["human"], pooled["scores"]
    missing = any(of.get("left_out") for of in scores.values())
    several = any(of.get(MEAN) for of in scores.values())
    rows = [
        [
            name,
            value_of(of, "spearman"),
            ends(interval_of(of)),
            *([value_of(of, MEAN), ends(interval_of(of, MEAN))] if several else []),
            value_of(of, "pearson"),
            value_of(of, "kendall"),
            distance(of.get("kl")),
            distance(of.get("mse")),
            number(of.get("mean"), 2),
            number(of.get("sd"), 2),
            *([f"{of.get('left_out') or 0:,}"] if missing else []),
        ]
        for name, of in scores.items()
    ]
    blank = [""] * (8 if several else 6)
    people = ["people", *blank, number(people["mean"], 2), number(people["sd"], 2)]
    rows.append([*people, ""] if missing else people)
    columns = ["", "Spearman", "95% interval", "Pearson", "Kendall", "KL", "MSE", "mean", "sd"]
    note = f"{count(pooled['n'], 'rating')}. "
    if several:
        columns[3:3] = ["mean of criteria", "95% interval"]
        note = (
            f"{count(pooled['n'], 'rating')}, all criteria pooled, as the paper does; so what "
            "differs between criteria counts as well, and a baseline that is fitted for each "
            "criterion knows it. Mean of criteria: of Spearman within each, where it does not. "
        )
    note += (
        "KL and MSE: distance of the scores' distribution from "
        "people's, for scores on the scale. Intervals count that ratings of one prompt hang "
        "together."
    )
    if missing:
        note += " Left out: what could not be scored."
    top = best(scores)
    strong = (list(scores).index(top),) if top else ()
    return Table(
        "Agreement with people",
        columns + ["left out"] * missing,
        rows,
        note,
        strong=strong,
    )


def criteria_table(criteria: Sequence[dict]) -> Table:
    """Spearman of each method on each criterion, in brackets where the interval reaches 0."""
    rows = []
    for name in criteria[-1]["scores"]:
        cells = []
        for criterion in criteria:
            of = criterion["scores"].get(name) or {}
            cell = value_of(of, "spearman")
            cells.append(f"({cell})" if cell and is_noise(of) else cell)
        rows.append([name, *cells])
    rows.append(["ratings", *(f"{criterion['n']:,}" for criterion in criteria)])
    rows.append(
        [
            "people's mean",
            *(number((criterion["human"] or {}).get("mean"), 2) for criterion in criteria),
        ]
    )
    columns = ["", *(criterion["name"] for criterion in criteria)]
    note = "In brackets: the 95% interval reaches 0, so it may be noise."
    return Table("Spearman by criterion", columns, rows, note)


def means_table(criteria: Sequence[dict]) -> Table:
    """Where nobody rated: what the scores are like."""
    rows = [
        [
            name,
            *(
                f"{number(of.get('mean'), 2)} ({number(of.get('sd'), 2)})"
                if (of := criterion["scores"].get(name))
                else ""
                for criterion in criteria
            ),
        ]
        for name in criteria[-1]["scores"]
    ]
    columns = ["", *(criterion["name"] for criterion in criteria)]
    return Table("Mean scores (standard deviation)", columns, rows)


def intervals_table(scores: dict) -> Table:
    rows = [
        [
            name,
            *(cell for key in MEASURES for cell in (value_of(of, key), ends(interval_of(of, key)))),
        ]
        for name, of in scores.items()
    ]
    columns = ["", *(cell for name in MEASURES.values() for cell in (name, "95% interval"))]
    return Table("All correlations with intervals", columns, rows, folded=True)


def paired_table(title: str, tests: Sequence[dict], folded: bool = False) -> Table:
    rows = []
    for test in tests:
        # Names and sign stay on one line.
        row = [f"{test['a']}\u00a0−\u00a0{test['b']}"]
        for key in MEASURES:
            found = test[key]
            row.append(signed(found["difference"]))
            if key == "spearman":
                row.append(ends(found["interval"], signed))
            row.append("" if found["p"] is None else probability(found["p"]))
        if found := test.get(MEAN):
            p = "" if found["p"] is None else probability(found["p"])
            row[4:4] = [signed(found["difference"]), ends(found["interval"], signed), p]
        rows.append(row)
    columns = ["", "Spearman", "95% interval", "p", "Pearson", "p", "Kendall", "p"]
    if any(test.get(MEAN) for test in tests):
        columns[4:4] = ["mean of criteria", "95% interval", "p"]
    note = (
        "Differences of correlations on the same ratings; p counts that ratings of one prompt hang "
        "together. Of many tests some come out below 0.05 by chance: p is not corrected for that."
    )
    return Table(title, columns, rows, note, folded)


def presets_table(presets: dict, used: str) -> Table:
    names = list(dict.fromkeys(name for preset in presets.values() for name in preset))
    rows = [
        [
            preset,
            *(
                cell
                for name in names
                for of in ({"spearman": found.get(name)},)
                for cell in (value_of(of, "spearman"), ends(interval_of(of)))
            ),
        ]
        for preset, found in presets.items()
    ]
    columns = ["", *(cell for name in names for cell in (name, "95% interval"))]
    strong = tuple(i for i, preset in enumerate(presets) if preset == used)
    note = f"Spearman, all criteria pooled. All else here is by the preset {used!r}."
    return Table("Readings of the method (presets)", columns, rows, note, strong=strong)


def published_table(scores: dict) -> Table:
    """The paper's rows for HelpSteer, below what this run has for the same methods."""
    here = [(scores.get(name) or {}) for name in PUBLISHED_METHODS]
    rows = [
        ["this run", MEASURES[key], *(value_of(of, key) for of in here)]
        for key in ("spearman", "pearson")
    ]
    rows += [
        [model, MEASURES[key], *(number(value) for value in values)]
        for model, by_measure in PUBLISHED.items()
        for key, values in by_measure.items()
    ]
    note = (
        "LAGER, Tables 1 and 5 (arXiv 2508.03550), HelpSteer without reasoning. Other models, "
        "other prompts and other data (2,001 ratings of its validation split): how methods "
        "compare, not what to expect here."
    )
    columns = ["", "", *PUBLISHED_METHODS]
    return Table("Published for HelpSteer", columns, rows, note, strong=(0, 1))


def layers_table(layers: dict, weights: dict | None) -> Table:
    mean = (weights or {}).get("mean") or []
    rows = [
        [
            str(layer),
            *(
                number(of[layer]) if layer < len(of) else ""
                for of in (layers["none"], layers["final"])
            ),
            *([number(mean[layer]) if layer < len(mean) else ""] if mean else []),
        ]
        for layer in range(max(map(len, layers.values())))
    ]
    columns = ["layer", "without norm", "with final norm", *(["weight"] if mean else [])]
    note = (
        "Spearman of each layer's own expected score, all criteria pooled. Layer 0 is the "
        "embedding; the last one is after the final norm in both."
    )
    return Table("By layer", columns, rows, note, folded=True)


def methods_table(scores: dict, weights_from: str | None) -> Table:
    """What the names of the methods mean, and where tuned weights come from."""
    rows = [[name, _meaning(name)] for name in scores]
    note = "The names are those of LAGER's Table 2 (arXiv 2508.03550) and its repository."
    if weights_from == "cross-validation":
        note += " Tuned weights are cross-validated: fitted on the ratings of other prompts."
    elif weights_from:
        note += f" Tuned weights are from {weights_from}."
    return Table("What the methods are", ["", "meaning"], rows, note, folded=True)


def _meaning(name: str) -> str:
    if name not in lager.AGGREGATIONS:
        return BASELINES.get(name, "")
    rule = lager.AGGREGATIONS[name]
    kind = "expected score" if rule.expectation else "likeliest score"
    if rule.of == "last":
        return f"{kind} by the last layer"
    return f"{kind} by {rule.of} of all layers, {'tuned' if rule.weighted else 'even'} weights"


def making_tables(evaluation: dict) -> list[Table]:
    """The model, the data and the settings."""
    facts = {
        "model": evaluation["model"],
        "template": evaluation["template"],
        "preset": evaluation["preset"],
        "weights from": evaluation["weights_from"] or "none: even weights only",
    }
    for each in evaluation["sets"]:
        facts[each["name"]] = {
            "data": each["data"],
            "items": each["items"],
            "left out": {reason: n for reason, n in each["left_out"].items() if n} or "none",
        }
    return record_tables(facts, evaluation)


def record_tables(facts: dict, evaluation: dict) -> list[Table]:
    """What is known of the model and the data, how long it took, and by which settings."""
    facts = {**facts, "wall time": duration(evaluation["seconds"])}
    tables = [Table("Data and time", ["", "value"], listing(facts, ","))]
    for name, key in (("Settings", "config"), ("Environment", "environment")):
        if evaluation.get(key):
            rows = listing(evaluation[key], "d")
            tables.append(Table(name, ["", "value"], rows, folded=True))
    return tables


# Numbers ------------------------------------------------------------------------------------------


def best(scores: dict) -> str | None:
    """The method that follows people best by Spearman; None where no method has one."""
    found = {name: value for name, of in scores.items() if (value := _spearman(of)) is not None}
    return max(found, key=found.get, default=None)


def is_noise(of: dict) -> bool:
    """Whether a method's Spearman correlation may be 0 by its interval, or has no interval."""
    interval = interval_of(of)
    return not interval or interval[0] <= 0 <= interval[1]


def is_above(of: dict, measure: str = "spearman") -> bool:
    """Whether it is above 0 by its interval."""
    interval = interval_of(of, measure)
    return bool(interval) and interval[0] > 0


def _spearman(of: dict) -> float | None:
    return (of.get("spearman") or {}).get("value")


def interval_of(of: dict, measure: str = "spearman") -> Sequence[float] | None:
    return (of.get(measure) or {}).get("interval")


def value_of(of: dict, measure: str) -> str:
    """Empty where it was not measured, "undefined" where it has no value."""
    return number(of[measure]["value"]) if of.get(measure) else ""


def number(value: float | None, decimals: int = 3) -> str:
    return "undefined" if value is None else f"{value:.{decimals}f}".replace("-", "−")


def signed(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.3f}".replace("-", "−")


def distance(value: float | None) -> str:
    if value is None:
        return ""
    return "over 100" if value > 100 else number(value)


def ends(interval: Sequence[float] | None, form=number) -> str:
    return f"{form(interval[0])} to {form(interval[1])}" if interval else ""
