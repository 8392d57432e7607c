"""Numbers, counts and settings as people read them."""

import math
import re
from collections.abc import Mapping

PERCENT, POINTS, NUMBER, SIGNED, COUNT = "percent", "points", "number", "signed", "count"
MEMORY = "memory"
# Metrics whose words are not just their names, or that are not numbers with three decimals.
METRICS = {
    # pairs
    "accuracy": ("accuracy", PERCENT),
    "longer_wins": ("longer wins", PERCENT),
    "shorter_wins": ("shorter wins", PERCENT),
    "lead_over_length": ("lead over the better rule of length, points", POINTS),
    "accuracy_ties_as_half": ("accuracy, equal rewards as half", PERCENT),
    "accuracy_half_credit": ("accuracy, equal rewards as half", PERCENT),
    "accuracy_at_equal_length": ("accuracy at equal length", PERCENT),
    "accuracy_difference": ("difference of accuracy, points", POINTS),
    "gain": ("gain of accuracy, points", POINTS),
    "difference": ("difference of accuracy, points", POINTS),
    "margin": ("mean margin", SIGNED),
    "loss": ("loss", ".4f"),
    "equal_rewards": ("pairs with equal rewards", COUNT),
    "equal_lengths": ("pairs of equal length", COUNT),
    "ties": ("ties left out", COUNT),
    "win_rate": ("wins against the reference", PERCENT),
    "reward_length_pearson": ("reward and characters, Pearson", NUMBER),
    "reward_length_spearman": ("reward and characters, Spearman", NUMBER),
    "margin_length_pearson": ("margin and lead in characters, Pearson", NUMBER),
    "reward_of_twice_length": ("reward that twice the median length gains", SIGNED),
    "ece": ("expected calibration error", ".4f"),
    "ece_by_chance": ("the same of a calibrated model", ".4f"),
    "brier": ("Brier score", ".4f"),
    "log_loss": ("loss", ".4f"),
    "agreement": ("how often right", PERCENT),
    # ratings
    "mse": ("squared error", NUMBER),
    "mse_of_mean": ("squared error of the mean", NUMBER),
    "mse_below_mean": ("better than the mean by", NUMBER),
    "mae": ("absolute error", NUMBER),
    "pearson": ("Pearson", NUMBER),
    "spearman": ("Spearman", NUMBER),
    "mse_difference": ("difference of squared errors", "+.3f"),
    "mean_prediction": ("mean predicted", ".2f"),
    "mean_rating": ("mean rated", ".2f"),
    "outside": ("beyond the scale", COUNT),
    # benchmarks and weights
    "score": ("score", PERCENT),
    "score_with_prior": ("score with the prior sets", PERCENT),
    "published": ("published score", PERCENT),
    "ties_as_half": ("equal rewards as half", PERCENT),
    "strict": ("the right one alone is highest", PERCENT),
    "share": ("share", PERCENT),
    "prompts_cut": ("prompts cut", COUNT),
    "weight": ("weight", "+.3f"),
    "held_out": ("held-out accuracy", PERCENT),
    "equal_weights": ("accuracy of equal weights", PERCENT),
    "gain_over_equal": ("held-out gain over equal weights, points", POINTS),
    "gain_over_single": ("held-out gain over the best attribute alone, points", POINTS),
    "temperature": ("temperature", ".4g"),
    # what there was
    "groups": ("prompts", COUNT),
    "left_out": ("left out", COUNT),
    "common": ("items in both", COUNT),
    "missing_first": ("items that only the second scored", COUNT),
    "missing_second": ("items that only the first scored", COUNT),
    # trainings
    "step": ("best step", COUNT),
    "change of loss": ("change of the loss since the start", "+.4f"),
    "peak_memory_bytes": ("most memory used", MEMORY),
    "perplexity": ("perplexity", ".4g"),
    "learned_tokens": ("tokens that are learned", COUNT),
    "effective_sample_size": ("effective samples", ".2f"),
    "effective_fraction": ("effective samples, of all", PERCENT),
    "log_likelihood": ("log-likelihood per token", ".4f"),
    "reward": ("mean reward", SIGNED),
    "rating": ("mean rating", ".2f"),
    "correct": ("picked one is correct", PERCENT),
    "finished": ("finished", PERCENT),
    # judges
    "auc": ("AUC", NUMBER),
    "f1": ("F1", NUMBER),
    "kl": ("KL", NUMBER),
    "kendall": ("Kendall", NUMBER),
    "spearman_within": ("Spearman, mean within criteria", NUMBER),
    "consistency": ("same in both orders", PERCENT),
    "says_a": ("says A", PERCENT),
    "overlap": ("the same rows", PERCENT),
}
COUNTED = (
    *("responses", "rows", "tokens", "unfinished", "steps", "collapsed", "characters", "prompts"),
    *("selected", "tied", "equal", "questions", "dialogues", "unanswerable", "read", "settings"),
    *("prompt", "response", "trained_parameters", "tokens_per_second"),
)


def words_of(metric: str) -> str:
    """Call a metric by what people call it."""
    return METRICS.get(metric, (metric.replace("_", " "), ""))[0]


def form_of(metric: str, difference: bool = False) -> str:
    """Say how a metric's values, or differences of them, are written."""
    form = METRICS.get(metric, ("", COUNT if metric in COUNTED else NUMBER))[1]
    return {PERCENT: POINTS, NUMBER: "+.3f"}.get(form, form) if difference else form


def number(value: float | None, form: str = NUMBER) -> str:
    """Write a value; "" where there is none.

    form: "percent" (of a share: 81.8%), "points" (of a difference of shares: +3.2), "number" (three
    decimals), "signed" (two decimals with the sign), "count" (1,234), "memory" (of bytes: 2.0 GiB),
    or a format specification of Python's, as ".4g".
    """
    if value is None:
        return ""
    if form in (PERCENT, POINTS):
        value *= 100
    if form == MEMORY:
        return memory(int(value))
    decimals = ",.3f" if abs(value) < 1000 else ",.0f"
    known = {PERCENT: ".1f", POINTS: "+.1f", NUMBER: decimals, SIGNED: "+.2f", COUNT: ",.0f"}
    text = format(value, known.get(form, form)).replace("-", "−")
    return text + "%" * (form == PERCENT)


def interval(row: Mapping, form: str = NUMBER) -> str:
    """Write the ends of a row's interval; "" where it has none."""
    if row.get("low") is None or row.get("high") is None:
        return ""
    return f"{number(row['low'], form)} to {number(row['high'], form)}".replace("%", "")


def value(row: Mapping, form: str = NUMBER) -> str:
    """Write a row's value with its unit and its 95% interval, as in a sentence."""
    unit, ends = " points" * (form == POINTS), interval(row, form)
    return number(row["value"], form) + unit + (f" (95% interval {ends})" if ends else "")


def line(row: Mapping) -> str:
    """Write a row as the terminal shows it."""
    parts = row["part"].split("/")[1:]
    names = [
        row.get("stage"),
        row["set"],
        *parts,
        row.get("method"),
        words_of(row["metric"]).removesuffix(", points"),
    ]
    said = value(row, form_of(row["metric"])) or "none"
    return f"{', '.join(filter(None, names))}: {said}" + (f", n={row['n']:,}" if row["n"] else "")


def probability(p: float | None) -> str:
    """Write a p-value."""
    return "" if p is None else "under 0.001" if p < 0.001 else f"{p:.3f}"


def count(n: int, noun: str) -> str:
    """Write how many there are of something."""
    return f"{n:,} {noun}" + "s" * (n != 1)


def duration(seconds: float) -> str:
    if not math.isfinite(seconds) or seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def memory(size: int) -> str:
    """Write a number of bytes."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def listed(names) -> str:
    """Write names as in a sentence: "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def listing(values: Mapping, prefix: str = "") -> list[list[str]]:
    """Flatten nested settings to rows [key, value], as one would type them."""
    rows = []
    for key, each in values.items():
        if isinstance(each, Mapping) and each:
            rows += listing(each, f"{prefix}{key}.")
        else:
            rows.append([f"{prefix}{key}", setting(each)])
    return rows


def setting(value: object) -> str:
    """Write a setting's value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return "; ".join(map(setting, value))
    return "" if value is None or value == {} else str(value)


def clean(text: str) -> str:
    """Replace control characters, which neither HTML nor SVG allows, and lone surrogates."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)
