"""Tables of steering: the numbers of steering.json as text."""

from hs2jax.evaluation.comparison_report import probability
from hs2jax.evaluation.tables import Table, count, duration, listing, percent


def tables(result: dict) -> list[Table]:
    """What is shown of a result, in order."""
    found = [following_table(result)]
    if result["tests"]:
        found.append(tests_table(result))
    found += [length_table(result), *crosstalk_tables(result), totals_table(result)]
    return [*found, means_table(result), *making_tables(result)]


def following_table(result: dict) -> Table:
    rows, notes = [], []
    for policy, of in _sweeps(result):
        rows.append(
            [
                f"{policy}, {of['attribute']}",
                f"{of['n']:,}",
                number(of["spearman"]["value"]),
                ends(of["spearman"]["interval"]),
                number(of["pearson"]["value"]),
                ends(of["pearson"]["interval"]),
                with_half(of["slope"], 2),
                with_half(of["error"], 2, sign=False),
            ]
        )
        if of["note"]:
            notes.append(f"{policy}, {of['attribute']}: {of['note']}.")
        if of["left_out"]:
            left = count(of["left_out"], "sample")
            notes.append(f"{policy}, {of['attribute']}: {left} empty or too long to be measured.")
    note = (
        "Per unit: how much the measured attribute changes for each unit requested; a policy that "
        "does what it is asked has 1. Error: mean absolute difference of measured and requested. "
        "Intervals count prompts, not samples, as independent."
    )
    columns = ["policy, asked for", "samples", "Spearman", "95% interval", "Pearson"]
    columns += ["95% interval", "per unit", "error"]
    return Table("How closely", columns, rows, " ".join([note, *notes]))


def tests_table(result: dict) -> Table:
    rows = []
    for test in result["tests"]:
        cells = [f"{test['later']} − {test['earlier']}, {test['attribute']}", f"{test['n']:,}"]
        for name in ("spearman", "pearson"):
            of = test[name]
            cells += [
                number(of["difference"], sign=True),
                ends(of["interval"], sign=True),
                "" if of["p"] is None else probability(of["p"]),
            ]
        rows.append(cells)
    columns = ["policies, asked for", "samples", "Spearman", "95% interval", "p"]
    columns += ["Pearson", "95% interval", "p"]
    note = (
        "Differences of correlations on the same prompts and requests; p: two-sided, of no "
        "difference."
    )
    return Table("Against the policy before", columns, rows, note)


def length_table(result: dict) -> Table:
    rows = [
        [
            f"{policy}, {of['attribute']}",
            number(of["length"]["spearman"]["value"]),
            ends(of["length"]["spearman"]["interval"]),
            number(of["length"]["partial"]["value"]),
            ends(of["length"]["partial"]["interval"]),
        ]
        for policy, of in _sweeps(result)
    ]
    columns = ["policy, asked for", "requested and length", "95% interval"]
    columns += ["measured, given length", "95% interval"]
    note = (
        "Requested and length: Spearman's correlation with the number of characters. Measured, "
        "given length: Pearson's correlation of requested and measured among samples of equal "
        "length (the logarithm of characters is held fixed); near 0, length is all that the "
        "request changes of what is measured."
    )
    return Table("Is it length?", columns, rows, note)


def crosstalk_tables(result: dict) -> list[Table]:
    """For each policy, what a request for one attribute does to all that are measured."""
    found = []
    for policy in result["policies"]:
        rows = []
        for of in policy["attributes"]:
            slopes = of["others"] | {of["attribute"]: of["slope"]}
            cells = [with_half(slopes.get(name, {"value": None}), 2) for name in result["names"]]
            rows.append([of["attribute"], *cells])
        note = "Change of the measured attribute for each unit requested, ± half the 95% interval."
        columns = ["asked for", *result["names"]]
        found.append(Table(f"What else changes: {policy['name']}", columns, rows, note))
    return found


def totals_table(result: dict) -> Table:
    rows = []
    for policy in result["policies"]:
        of = policy["totals"]
        rows.append(
            [
                policy["name"],
                with_half(of["reward"], 2) if of["reward"] else "",
                with_half(of["characters"], 0, sign=False),
                with_half(of["tokens"], 0, sign=False),
                "undefined"
                if of["finished"]["value"] is None
                else percent(of["finished"]["value"]),
                with_half(of["log_ratio"], 1) if of["log_ratio"] else "",
                f"{of['samples']:,}",
                f"{of['prompts']:,}",
                f"{of['settings']:,}",
            ]
        )
    columns = ["policy", "reward", "characters", "tokens", "finished", ratio_name(result)]
    columns += ["samples", "prompts", "settings"]
    keep = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    note = "Means over all requests, ± half the 95% interval."
    if any(row[5] for row in rows):
        note += (
            f" The {ratio_name(result)} ({result['config']['reference']}) is the mean of "
            "log Q(y|a,x) − log P(y|x), nats for a response; the policy Q is asked for attributes "
            "and the reference P for nothing."
        )
        if not plain(result):
            note += (
                " At temperature 1 and top-p 1 its mean would be the KL divergence; these "
                "responses were sampled otherwise, so it is not."
            )
    return Table(
        "All requests together",
        [columns[i] for i in keep],
        [[row[i] for i in keep] for row in rows],
        note,
    )


def means_table(result: dict) -> Table:
    requested = sorted({each["requested"] for _, of in _sweeps(result) for each in of["values"]})
    rows = []
    for policy, of in _sweeps(result):
        means = {each["requested"]: each for each in of["values"]}
        for key, decimals in (("measured", 2), ("characters", 0)):
            cells = [
                with_half(means[value][key], decimals, sign=False) if value in means else ""
                for value in requested
            ]
            what = of["attribute"] if key == "measured" else f"{of['attribute']}: {key}"
            rows.append([f"{policy}, {what}", *cells])
    columns = ["policy, asked for", *(f"{value:g}" for value in requested)]
    note = "Mean measured attribute, and mean characters, ± half the 95% interval."
    return Table("By requested value", columns, rows, note, folded=True)


def making_tables(result: dict) -> list[Table]:
    parts = (
        ("Policies", result["models"] | {"wall time": duration(result["seconds"])}, ","),
        ("Data", result["records"], ","),
        ("Settings", result["config"], "d"),  # As one would type them.
        ("Environment", result["environment"], "d"),
    )
    return [
        Table(name, ["", "value"], listing(values, integer), folded=name != "Policies")
        for name, values, integer in parts
    ]


def plain(result: dict) -> bool:
    """Whether responses were sampled from the policy itself, so that a mean over them is one of
    the policy's distribution."""
    return result["config"]["temperature"] == 1 and result["config"]["top_p"] == 1


def ratio_name(result: dict) -> str:
    return "KL from the reference" if plain(result) else "log-ratio to the reference"


def number(value: float | None, decimals: int = 3, sign: bool = False) -> str:
    if value is None:
        return "undefined"
    return f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", "−")


def ends(interval: list[float] | None, decimals: int = 3, sign: bool = False) -> str:
    return " to ".join(number(end, decimals, sign) for end in interval or ())


def with_half(of: dict, decimals: int, sign: bool = True) -> str:
    """An estimate and half its interval, which lies evenly around it."""
    text = number(of["value"], decimals, sign)
    if of["value"] is None or not of["interval"]:
        return text
    return f"{text} ± {(of['interval'][1] - of['interval'][0]) / 2:.{decimals}f}"


def _sweeps(result: dict) -> list[tuple[str, dict]]:
    return [(policy["name"], of) for policy in result["policies"] for of in policy["attributes"]]
