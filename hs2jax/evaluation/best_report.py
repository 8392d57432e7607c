"""The page of a best-of-n selection: what picking is worth over the number of candidates."""

from pathlib import Path

from hs2jax.evaluation import drawing, report
from hs2jax.evaluation.report import Section, Verdict
from hs2jax.evaluation.tables import Table, count, percent, signed


def write(folder: Path, result: dict) -> Path:
    """Writes report.html and report.md. result: as `score` writes it to best_of_n.json."""
    curve, won = result["curve"], result["win_rate"]
    verdicts = []
    if curve:
        # Only what all prompts have can be compared: means for more candidates are of fewer.
        one, *_, most = [curve[0], *(x for x in curve if x["prompts"] == result["prompts"])]
        sentence = (
            f"The best of {count(most['n'], 'candidate')} has a mean reward of "
            f"{signed(most['reward'])}, one at random {signed(one['reward'])} "
            f"({count(result['prompts'], 'prompt')}). The reward is the one that picked: "
            "it says how far picking goes, not that people agree."
        )
        if most["n"] == 1:
            sentence = "Of the prompts one or more have a single candidate: nothing to pick from."
        verdicts.append(Verdict("unsure", f"Best of {most['n']}", sentence))
    else:
        verdicts.append(Verdict("unsure", "Nothing to pick from", "No prompt has been scored."))
    if won:
        low, high = won["interval"]
        tone = "good" if low > 0.5 else "bad" if high < 0.5 else "unsure"
        verdicts.append(
            Verdict(
                tone,
                "Against the reference",
                f"The picked response beats the reference's on {percent(won['win_rate'])} of "
                f"{count(won['prompts'], 'prompt')} (95% interval {100 * low:.1f} to "
                f"{100 * high:.1f}; ties count half, {won['ties']}).",
            )
        )
    pictures = [("Reward of the best of n", svg)] if (svg := draw(curve)) else []
    section = Section("Best of n", verdicts, pictures, [], _tables(result), [])
    return report.write_page(folder, "Best of n", None, [section])


def draw(curve: list[dict]) -> str | None:
    """Mean reward with its 95% interval over n; None where there is only one candidate."""
    if len(curve) < 2:
        return None
    ends = [end for each in curve for end in each["interval"] or [each["reward"]] * 2]
    sizes = [each["n"] for each in curve]
    axes = drawing.Axes((0.5, sizes[-1] + 0.5), drawing.padded(min(ends), max(ends), 0.05), top=14)
    body = drawing.frame(
        axes,
        [tick for tick in drawing.round_ticks(*axes.x) if tick in sizes],
        drawing.round_ticks(*axes.y),
        "n, candidates for each prompt",
    )
    body.append(drawing.polyline(axes, sizes, [each["reward"] for each in curve], "curve one"))
    for each in curve:
        if each["interval"]:
            body.append(
                drawing.line(
                    axes,
                    each["n"],
                    each["interval"][0],
                    each["n"],
                    each["interval"][1],
                    "bar thin one",
                )
            )
        body.append(drawing.dot(axes, each["n"], each["reward"], "one"))
    label = " ".join(f"{each['n']}: {each['reward']:.2f}." for each in curve)
    return drawing.svg("Mean reward of the best of n", label, axes, body)


def _tables(result: dict) -> list[Table]:
    curve = result["curve"]
    if not curve:
        return []
    names = sorted({name for each in curve for name in each["ratings"]})
    rows = []
    for each in curve:
        low, high = each["interval"] or (each["reward"],) * 2
        rows.append(
            [
                str(each["n"]),
                f"{each['prompts']:,}",
                signed(each["reward"]),
                f"{signed(low)} to {signed(high)}" if each["interval"] else "",
                f"{each['kl']:.2f}",
                *(
                    f"{each['ratings'][name]['mean']:.2f}" if name in each["ratings"] else ""
                    for name in names
                ),
            ]
        )
    columns = ["n", "prompts", "mean reward", "95% interval", "KL at most", *names]
    note = (
        "Over all subsets of n candidates, without drawing (unbiased). Only prompts with n "
        "candidates count. KL: log n − (n − 1)/n, which the distance from the sampler does not "
        "exceed, in nats."
    )
    return [Table("Best of n", columns, rows, note)]
