"""A policy held against its start: both answer the same prompts, and reward models judge.

The folder gets items/start.jsonl and items/end.jsonl, a response of each to each prompt as
`rollouts` describes it. The random keys are the same for both.
"""

import functools
import json
from collections.abc import Mapping, Sequence

import numpy as np

from hs2jax import workdir
from hs2jax.alignment import rollouts, stage
from hs2jax.config_rules import parse_policies
from hs2jax.evaluation import statistics
from hs2jax.language_model import LanguageModel
from hs2jax.reward_model import RewardModel
from hs2jax.workdir import row


@stage.verb
def compare(config, run: stage.Run) -> list[dict]:
    """Compare a policy with its start. Raises ValueError where they are of different shapes or read
    other tokens, as there is no KL between them then."""
    start, policy = (run.load(LanguageModel, name) for name in (config.start, config.policy))
    if policy.config != start.config or policy.tokenizer.get_vocab() != start.tokenizer.get_vocab():
        raise ValueError(
            f"config.policy: {config.policy} has another shape or vocabulary than config.start, "
            f"{config.start}: name the model that it was trained from"
        )
    raters = {
        name: run.load(RewardModel, model)
        for name, model in parse_policies(config.reward_models).items()
    }
    groups = rollouts.prompts(config.data, config, start, run.record)
    reference, answers = start.params, []
    for name, model in (("start", start), ("end", policy)):
        path = run.workdir / "items" / f"{name}.jsonl"
        if (rows := workdir.from_first(workdir.read_rows(path) if path.exists() else None)) is None:
            roller = rollouts.Roller(model, reference, raters, config)
            rows = roller.roll(groups, 1, first=0, clock={})
            run.write(f"items/{name}.jsonl", rows)
        answers.append(rows)
    found = results(*answers)
    run.result["warnings"] = warnings(found)
    return found


def results(before: Sequence[dict], after: Sequence[dict]) -> list[dict]:
    """Hold a policy's first answer to each prompt against its start's: by each reward model, and in
    KL, length, entropy and repetition, with intervals over prompts; and say what each reward goes
    with."""
    prompts = [json.dumps(each["prompt"]) for each in before]
    of_mean = functools.partial(statistics.interval, np.mean)
    held = {"against": "start", "reference": 0.0, "better": "higher"}

    def logs(item, name):
        return np.array(item[name][0], float)  # NaN for what is not finite.

    measures = {
        "kl": lambda x: (logs(x, "log_policy") - logs(x, "log_reference")).sum(),
        "length": lambda x: len(x["tokens"][0]),
        "entropy": lambda x: -logs(x, "log_policy").mean(),
        "repetition": lambda x: rollouts.repetition(x["tokens"][0]),
        "finished": lambda x: float(x["finished"][0]),
    }
    measured = {
        metric: [np.array([of_item(each) for each in of], float) for of in (before, after)]
        for metric, of_item in measures.items()
    }
    rows = []
    for name in after[0]["rewards"]:
        start, end = (_rewards(of, name) for of in (before, after))
        both = np.isfinite(start) & np.isfinite(end)
        where, n = [p for p, is_there in zip(prompts, both, strict=True) if is_there], both.sum()
        start, end = start[both], end[both]
        for metric, values, more in (
            ("reward", end, {}),
            ("change_of_reward", end - start, held | {"headline": True}),
        ):
            of = of_mean([values], where)
            rows.append(row(name, "", metric, of.value, of.interval, n, **more))
        wins = np.where(end > start, 1.0, np.where(end == start, 0.5, 0.0))
        of, more = statistics.share(wins, where), held | {"reference": 0.5, "headline": True}
        rows.append(row(name, "", "win_rate", of.value, of.interval, n, **more))
        for about in ("length", "repetition", "entropy"):
            x, y = (values[both] for values in measured[about])
            for method, pair in (
                ("at the start", (start, x)),
                ("of the policy", (end, y)),
                ("of the changes", (end - start, y - x)),
            ):
                of = statistics.interval(statistics.spearman, pair, where, statistics.FISHER)
                place = name, f"with/{about}", "spearman"
                rows.append(row(*place, of.value, of.interval, n, method=method))
    for metric, values in measured.items():
        for part, of in zip(("start", ""), values, strict=True):
            if part and metric == "kl":
                continue  # It is 0.
            share = metric in ("finished", "repetition")
            found = statistics.share(of, prompts) if share else of_mean([of], prompts)
            said = "its start" if part else "policy"
            place = "held out", part, metric
            rows.append(row(*place, found.value, found.interval, len(of), of=said))
    return rows


def course(answers: Mapping[int, Sequence[dict]]) -> list[dict]:
    """Follow each reward model through the answers of several steps, the first of which is the
    start: how much its mean has changed, in standard deviations of the start's rewards, so that
    reward models of any scale are seen side by side."""
    start, rows = next(iter(answers.values())), []
    prompts = np.array([json.dumps(each["prompt"]) for each in start])
    for name in start[0]["rewards"]:
        first = _rewards(start, name)
        known = first[np.isfinite(first)]
        if not len(known) or not (spread := known.std()):
            continue
        for step, of in answers.items():
            change = _rewards(of, name) - first
            both = np.isfinite(change)
            found = statistics.interval(np.mean, [change[both] / spread], prompts[both])
            place = name, f"step/{step}", "change_in_deviations"
            rows.append(row(*place, found.value, found.interval, both.sum()))
    return rows


def _rewards(rows: Sequence[dict], name: str) -> np.ndarray:
    """A reward model's rewards of the first answers, NaN where one is missing."""
    return np.array([each["rewards"][name][0] for each in rows], float)


def warnings(rows: Sequence[dict]) -> list[str]:
    """Say where the reward may have been hacked: responses became longer or repeat themselves, or
    reward models contradict one another."""
    found = {
        (each["part"], each["metric"]): each["value"] for each in rows if each["set"] == "held out"
    }
    said = []
    if found["", "length"] > 1.5 * found["start", "length"]:
        said.append("responses became longer by more than half: is it length that is rewarded?")
    if found["", "repetition"] > found["start", "repetition"] + 0.1:
        said.append("responses repeat themselves more than at the start")
    if found["", "entropy"] < 0.5 * found["start", "entropy"]:
        said.append("the entropy of the policy has fallen to less than half")
    changes = [x for x in rows if x["metric"] == "change_of_reward" and x["low"] is not None]
    better = [each["set"] for each in changes if each["low"] > 0]
    worse = [each["set"] for each in changes if each["high"] < 0]
    if better and worse:
        sides = " and ".join(better), " and ".join(worse)
        said.append("better than the start by {}, worse by {}: is a reward hacked?".format(*sides))
    return said
