"""Rollouts: responses that a policy samples, what they are worth, and the batch it learns them in.

A rollout is a row of a file, as `hs2jax sample` writes it and "sampled:FILE" reads it:

    {"source", "prompt": [turns], "responses": [texts], "tokens": [[ids], ...],
     "finished": [bool, ...], "rewards": {"NAME": [float or null, ...]},
     "log_policy": [[nats, ...], ...], "log_reference": [[nats, ...], ...]}

log_policy is what the sampler said of each token, and log_reference what the frozen start says of
it, both at the temperature that was sampled at: the distribution that is trained is the sampled
one, and so is the one that it is held against. Only sampled ids are trained, never a text that is
tokenised again; an end that was sampled is a token like any other, and none is added.

Axis letters: G groups, k responses of each, M micro-batches, B rows, T tokens of a row.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hs2jax import losses
from hs2jax.alignment import sources
from hs2jax.data import chat, corpora, loader
from hs2jax.data.chat import Encoded
from hs2jax.data.conversations import unrated
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.inference import response_log_probabilities
from hs2jax.language_model import LanguageModel
from hs2jax.reward_model import RewardModel

# What a batch of `lay` holds of a row of tokens, beside what is learned of each.
OF_ROWS = ("tokens", "segment_ids", "branch_ids", "positions", "predictor_index", "learned")
STAGES = ("sampling", "scoring", "log-probabilities", "update")


def prompts(spec: str, config, policy: LanguageModel, record: Record) -> list[Group]:
    """Read the prompts that leave room for a response in a row and in the model's positions.

    Raises ValueError where none does, or, unless config.on_error is "skip", one does not.
    """
    groups = [
        Group(group.prompt, group.responses[:1], source=group.source)
        for group in corpora.read(spec, on_error=config.on_error, record=record, prompts=True)
    ]
    positions = min(config.row_length, policy.config.max_seq_len)
    found = sources.fitting(policy.tokenizer, policy.config, config, groups, record, positions)
    if not found:
        raise ValueError(f"nothing of {spec} can be answered: {record}")
    return found


class Roller(NamedTuple):
    """A policy with what judges it: the model, whose parameters are those of the moment; the
    parameters of its start; and the reward models by name."""

    policy: LanguageModel
    reference: dict
    raters: dict[str, RewardModel]
    config: Mapping

    def roll(
        self, groups: Sequence[Group], n: int, *, first: int, clock: dict[str, float]
    ) -> list[dict]:
        """Sample n responses to each prompt, score them and ask the start for them.

        first: the number of the first prompt, which no other has; each sample has its own random
        key, whatever lies beside it. clock: seconds of each stage, which are added to. No stage
        leaves arrays on the device; the cache goes with the sampler.
        """
        policy, T, begun = self.policy, self.config.temperature, time.monotonic()
        settings = {name: self.config[name] for name in ("seed", "temperature", "max_new_tokens")}
        found = policy.sample_groups(groups, n, first=first, tempered=True, **settings)
        begun = _clocked(clock, "sampling", begun)
        rows = [
            {
                "source": group.source,
                "prompt": list(group.prompt),
                "responses": [one.text for one in some],
                "tokens": [one.tokens.tolist() for one in some],
                "finished": [one.finished for one in some],
                "rewards": {},
                "log_policy": [_numbers(one.log_probabilities) for one in some],
            }
            for group, some in zip(groups, found, strict=True)
        ]
        for name, rater in self.raters.items():
            for row, rewards in zip(rows, _in(n, rewards_of(rater, rows)), strict=True):
                row["rewards"][name] = rewards
        begun = _clocked(clock, "scoring", begun)
        encoded = [
            Encoded(e.encoded.prompt, (ids,), np.zeros(len(e.encoded.prompt), bool))
            for e in examples(policy, rows)
            for ids in e.encoded.responses
        ]
        where = {"layout": "shared", "rows": None, "mesh": policy.mesh, "dtype": policy.dtype}
        tables = response_log_probabilities(
            self.reference, encoded, policy.config, temperature=T, **where
        )
        for row, some in zip(rows, _in(n, map(_numbers, tables)), strict=True):
            row["log_reference"] = some
        _clocked(clock, "log-probabilities", begun)
        return rows


def _clocked(clock: dict[str, float], stage: str, begun: float) -> float:
    now = time.monotonic()
    clock[stage] = clock.get(stage, 0.0) + now - begun
    return now


def _numbers(table: np.ndarray) -> list[float | None]:
    """Numbers as JSON has them, None for what is not finite."""
    return [float(x) if np.isfinite(x) else None for x in table]


def _in(n: int, things) -> list[list]:
    things = list(things)
    return [things[i : i + n] for i in range(0, len(things), n)]


def rewards_of(rater: RewardModel, rows: Sequence[dict]) -> list[float | None]:
    """Reward each response, as `RewardModel.score` does of its conversation: by the texts, in the
    reward model's own template. None for one that it refuses, that is too long for it, or whose
    reward is not finite."""
    each = [
        Group(tuple(row["prompt"]), (text,), source=row["source"], tokens=(tuple(ids),))
        for row in rows
        for text, ids in zip(row["responses"], row["tokens"], strict=True)
    ]
    scores = rater.score_each(each, skip=True, record=Record())
    return [score.reward if score and np.isfinite(score.reward) else None for score in scores]


def examples(policy: LanguageModel, rows: Sequence[dict]) -> list[loader.Example]:
    """Rollouts as the policy reads them: prompts tokenised, responses as they were sampled."""
    groups = [Group(tuple(row["prompt"]), ("-",), source=row["source"]) for row in rows]
    every = chat.prompt_ids(policy.tokenizer, groups, vocab_size=policy.config.vocab_size)
    return [
        unrated(
            ids,
            [np.asarray(each, np.int32) for each in row["tokens"]],
            loss_mask=np.zeros(len(ids), bool),
        )
        for ids, row in zip(every, rows, strict=True)
    ]


# What rollouts are worth --------------------------------------------------------------------------


class Scale(NamedTuple):
    """A reward model's weight, and the mean and spread of its rewards that become 0 and 1."""

    weight: float = 1.0
    mean: float = 0.0
    spread: float = 1.0


class Worth(NamedTuple):
    """Of each response [G, k]: reward (of all reward models, as they are weighed; NaN where one is
    missing), kl (the log-ratio to the start, nats), penalty (what comes off the reward), kept (that
    it counts), and advantage."""

    reward: np.ndarray
    kl: np.ndarray
    penalty: np.ndarray
    kept: np.ndarray
    advantage: np.ndarray


def weigh(rows: Sequence[dict], scales: Mapping[str, Scale], config) -> Worth:
    """Find how much better each response is than the others to its prompt: of what is maximised,
    which is the reward less config.kl.coefficient times the KL. A response without a finite reward
    is left out of its group, and with config.truncated "drop" one that was cut."""
    reward = sum(
        scale.weight
        * (np.array([row["rewards"][name] for row in rows], float) - scale.mean)
        / scale.spread
        for name, scale in scales.items()
        if scale.weight
    )
    policy, reference = (padded(rows, name, config) for name in ("log_policy", "log_reference"))
    each = np.asarray(losses.kl(policy, reference, kind=config.kl.form), np.float64)
    penalty = config.kl.coefficient * each.sum(axis=2)
    if config.kl.form == "absolute" and config.algorithm == "reinforce":
        penalty /= np.array([[len(ids) for ids in row["tokens"]] for row in rows])
    kl = np.subtract(policy, reference, dtype=np.float64).sum(axis=2)
    kept = np.isfinite(reward) & np.isfinite(kl)
    if config.truncated == "drop":
        kept &= np.array([row["finished"] for row in rows])
    group = np.where(kept, np.arange(len(rows))[:, None], -1)
    value = np.where(kept, reward - penalty, 0.0)
    advantage = losses.group_advantage(value.reshape(-1), group.reshape(-1), kind=config.baseline)
    return Worth(reward, kl, penalty, kept, np.asarray(advantage).reshape(kept.shape))


def padded(rows: Sequence[dict], name: str, config) -> np.ndarray:
    """Numbers of tokens as a table f32 [G, k, longest], 0 behind a response's end and NaN for None:
    of one size for all steps, since what is computed of it is compiled."""
    table = np.zeros((len(rows), len(rows[0]["tokens"]), config.max_new_tokens), np.float32)
    for of_group, row in zip(table, rows, strict=True):
        for of_response, values in zip(of_group, row[name], strict=True):
            of_response[: len(values)] = values
    return table


def numbers(rows: Sequence[dict], worth: Worth) -> dict[str, float]:
    """Sum up rollouts in numbers: means over the responses that count, and of what was left out.

    objective: of what is maximised, reward less penalty.
    entropy: nats a token, the mean of -log p over sampled tokens, which is never negative.
    equal_groups: share of groups whose rewards are all equal, so that they teach the KL alone.
    repetition: share of a response's runs of four tokens that it has already had.
    """
    kept = worth.kept
    tokens = [ids for row in rows for ids in row["tokens"]]
    length = np.array([len(ids) for ids in tokens], float).reshape(kept.shape)
    of_kept = (itertools.compress(row["log_policy"], x) for row, x in zip(rows, kept, strict=True))
    logs = [x for some in of_kept for of in some for x in of]
    equal = [np.ptp(r[k]) == 0 for r, k in zip(worth.reward, kept, strict=True) if k.sum() > 1]
    repeated = np.array(list(map(repetition, tokens))).reshape(kept.shape)
    cut = ~np.array([row["finished"] for row in rows])

    def mean(values):
        return float(values[kept].mean()) if kept.any() else 0.0

    return {
        "objective": mean(worth.reward - worth.penalty),
        "reward": mean(worth.reward),
        "kl": mean(worth.kl),
        "penalty": mean(worth.penalty),
        "length": mean(length),
        "entropy": float(-np.mean(logs)) if logs else 0.0,
        "repetition": mean(repeated),
        "cut": float(cut.mean()),
        "equal_groups": float(np.mean(equal or 0.0)),
        "missing": int((~(np.isfinite(worth.reward) & np.isfinite(worth.kl))).sum()),
    }


def repetition(ids: Sequence[int], size: int = 4) -> float:
    """The share of a response's runs of `size` tokens that stood in it before."""
    runs = list(zip(*(ids[i:] for i in range(size)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


# What is learned ----------------------------------------------------------------------------------


def lay(
    every: Sequence[loader.Example],
    of_tokens: Mapping[str, Sequence[Sequence[np.ndarray]]],
    *,
    row_length: int,
    rows: int,
) -> dict[str, np.ndarray]:
    """Lay rollouts into rows, with arrays of a number for each sampled token, 0 elsewhere.

    of_tokens: by name, of each example and response [tokens]. rows: of a micro-batch. Returns
    arrays [M, B, T], "learned" a half, three quarters or all of that; M is rounded up to a power of
    two, since each is compiled, and those micro-batches, all padding, are not run.
    """
    settings = {"layout": "shared", "batch_size": len(every), "micro_batch_size": rows}
    batches = loader.plan(list(every), row_length=row_length, **settings)
    laid = batches[0]
    for name, values in of_tokens.items():
        table = np.zeros(laid["tokens"].shape, np.float32)
        for row, slot, example, response in batches.slots(0):
            at = (*divmod(row, rows),)
            stop = laid["end_positions"][(*at, slot)] + 1
            of = values[example][response]
            table[at][stop - len(of) : stop] = of
        laid[name] = table
    laid = {name: laid[name] for name in (*OF_ROWS, *of_tokens)}
    (M, B, T), learned = laid["tokens"].shape, laid["learned"].shape[2]
    wide = next(size for size in (-(-T // 2), -(-T * 3 // 4), T) if size >= learned) - learned
    laid["learned"] = np.pad(laid["learned"], [(0, 0), (0, 0), (0, wide)], constant_values=T)
    more = (1 << (M - 1).bit_length()) - M
    laid = {name: np.pad(x, [(0, more), (0, 0), (0, 0)]) for name, x in laid.items()}
    # The decoder asks how many responses a row has, where they have slots of their own.
    return laid | {"end_positions": np.zeros((M + more, B, 1), np.int32)}


def spread(table: np.ndarray, tokens: Sequence[Sequence[Sequence[int]]]) -> list[list[np.ndarray]]:
    """A number of each response [G, k] as one of each of its tokens."""
    return [
        [np.full(len(ids), x) for ids, x in zip(some, values, strict=True)]
        for some, values in zip(tokens, table, strict=True)
    ]


def shares(tokens: Sequence[Sequence[Sequence[int]]], kept: np.ndarray, mean: str):
    """The weight of a response's tokens, [G, k]: 1 / (responses that count), so that a response is
    the sum over its tokens, or with mean "tokens" 1 / (their tokens). One mask is in numerator and
    denominator, over the whole optimizer step."""
    length = np.array([[len(ids) for ids in some] for some in tokens], float)
    total = kept.sum() if mean == "responses" else (length * kept).sum()
    return kept / max(total, 1)


class PolicyGradient(NamedTuple):
    """REINFORCE's loss -A log pi(token), or with `clip` the clipped surrogate, summed with the
    batch's weights of tokens (HelpSteer2-Preference; arXiv 2402.14740, 1707.06347).

    Not here: an entropy bonus (0 in NeMo-Aligner's recipe), and its denominator, which counts
    responses that it does not train.
    """

    clip: float | None = None

    def counts(self, batch):
        """Count nothing: weights are shares of the whole batch."""
        return None

    def loss(self, outputs, batch, counts):
        """outputs: [B, T], as of `inference.token_log_probabilities`. batch: with "old", the
        sampler's, "advantage", "weight" and "share" [B, T]. Returns (scalar, dict): the importance
        ratio's mean, its mean distance from 1, and the share of tokens where it is clipped."""
        learned = batch["share"] > 0
        log_ratio = jnp.where(learned, outputs - batch["old"], 0.0)
        if self.clip:
            each = losses.clipped_surrogate(log_ratio, batch["advantage"], clip=self.clip)
        else:
            each = -batch["advantage"] * outputs
        ratio = jnp.exp(log_ratio)
        off = jnp.abs(ratio - 1)

        def total(weights, values):
            return jnp.sum(jnp.where(learned, weights * values, 0.0))

        return total(batch["weight"], each), {
            "ratio": total(batch["share"], ratio),
            "ratio_off": total(batch["share"], off),
            "clipped": total(batch["share"], off > (self.clip or jnp.inf)),
        }
