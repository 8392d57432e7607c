"""Groups laid into rows of one length, three ways that must give the same scores.

shared: the prompt lies down once and the group's responses branch from it.
separate: each response is a segment of its own, with its own copy of the prompt.
padded: each response has a slot of its own, as long as every other; row_length is the slots
    together. Cut at the slots, each conversation is a row that needs no mask but causality.

In all three a group lies in one row, so that its pairs do.
Axis letters: B rows, T tokens of a row, R response slots, A attributes, P pair slots.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hs2jax.data.chat import Encoded
from hs2jax.data.groups import Pair

LAYOUTS = ("shared", "separate", "padded")


class Example(NamedTuple):
    """A tokenised group with what is known of it. ratings f32 and rating_mask bool are
    [responses, A]; cut: how many tokens its prompt has lost on the left."""

    encoded: Encoded
    ratings: np.ndarray
    rating_mask: np.ndarray
    pairs: list[Pair]
    ties: int = 0
    cut: int = 0


class Shape(NamedTuple):
    """The fixed sizes of a row: its tokens, response slots, pair slots, attributes, and learned
    tokens, 0 where which these are is not asked."""

    length: int
    responses: int
    pairs: int
    attributes: int
    learned: int = 0


def cost(encoded: Encoded, layout: str) -> int:
    """Count the tokens of a row that the group takes; for "padded", of its longest slot."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; it must be one of {', '.join(LAYOUTS)}")
    lengths = [len(ids) for ids in encoded.responses]
    copies = len(lengths) if layout == "separate" else 1
    return copies * len(encoded.prompt) + (max if layout == "padded" else sum)(lengths)


def count_learned(encoded: Encoded) -> int:
    """Count the tokens that a policy learns of a group, all of which the loss mask has."""
    if encoded.loss_mask is None:
        return 0
    return int(encoded.loss_mask.sum()) + sum(map(len, encoded.responses)) - sum(encoded.given)


def first_fit(costs: Sequence[int], length: int) -> list[list[int]]:
    """Put indices of `costs` into rows that hold `length`: longest first, each in the first row
    with room (first-fit decreasing). Every cost must be at most `length`."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        row = next((row for row, left in enumerate(room) if costs[i] <= left), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(i)
        room[row] -= costs[i]
    return rows


def lay(
    rows: Sequence[Sequence[Example]],
    shape: Shape,
    layout: str,
    firsts: Sequence[int] | None = None,
    *,
    policy: bool = False,
) -> dict[str, np.ndarray]:
    """Lay a batch of rows down as arrays; an empty row is all padding. firsts: the number of each
    row's first group, where rows are left out. policy: there is a loss mask in any case.

    tokens, segment_ids, branch_ids, positions, predictor_index int32 [B, T]: `segment_ids` count
    from 1 and are 0 in padding, `branch_ids` are 0 in a prompt and r in the r-th response,
    `positions` go on from the prompt's end in every branch, `predictor_index` is that of the token
    whose hidden state predicts this one (-1 for a conversation's first).
    end_positions int32 [B, R]: index of each response's last token. group_ids int32 [B, R]: number
    of the group in the batch, -1 in an empty slot. ratings f32, rating_mask bool [B, R, A].
    chosen, rejected int32, strength f32 [B, P]: pairs as response slots of their row; strength 0
    in an empty slot.
    loss_mask bool [B, T], where a group is encoded for a policy: tokens that are predicted and
    learned: of responses, less what was given, and, once, what `Encoded` names of a prompt.
    learned int32 [B, L], where the shape has learned tokens: their indices, then T.
    """
    B, (T, R, P, A, L) = len(rows), shape
    batch = {
        name: np.zeros((B, T), np.int32)
        for name in ("tokens", "segment_ids", "branch_ids", "positions")
    } | {
        "predictor_index": np.full((B, T), -1, np.int32),
        "end_positions": np.zeros((B, R), np.int32),
        "group_ids": np.full((B, R), -1, np.int32),
        "ratings": np.zeros((B, R, A), np.float32),
        "rating_mask": np.zeros((B, R, A), bool),
        "chosen": np.zeros((B, P), np.int32),
        "rejected": np.zeros((B, P), np.int32),
        "strength": np.zeros((B, P), np.float32),
    }
    if policy or any(example.encoded.loss_mask is not None for row in rows for example in row):
        batch["loss_mask"] = np.zeros((B, T), bool)
    number = 0
    for b, row in enumerate(rows):
        at = segment = slot = pair_slot = 0  # Next free token, segment, response and pair slot.
        number = number if firsts is None else int(firsts[b])
        for example in row:
            prompt, learned = example.encoded.prompt, example.encoded.loss_mask
            for pair in example.pairs:
                batch["chosen"][b, pair_slot] = slot + pair.chosen
                batch["rejected"][b, pair_slot] = slot + pair.rejected
                batch["strength"][b, pair_slot] = pair.strength
                pair_slot += 1
            for r, response in enumerate(example.encoded.responses):
                if layout == "padded":
                    at = slot * (T // R)
                if layout != "shared" or r == 0:
                    segment += 1
                    start, at = at, at + len(prompt)
                    _write(batch, b, start, prompt, segment, 0, 0, start - 1)
                    # Once, so that a prompt counts the same in every layout.
                    if r == 0 and learned is not None:
                        batch["loss_mask"][b, start:at] = learned
                branch = r + 1 if layout == "shared" else 1
                _write(
                    batch, b, at, response, segment, branch, len(prompt), start + len(prompt) - 1
                )
                if "loss_mask" in batch:
                    given = example.encoded.given[r] if example.encoded.given else 0
                    batch["loss_mask"][b, at + given : at + len(response)] = True
                at += len(response)
                batch["end_positions"][b, slot] = at - 1
                batch["group_ids"][b, slot] = number
                batch["ratings"][b, slot] = example.ratings[r]
                batch["rating_mask"][b, slot] = example.rating_mask[r]
                slot += 1
            number += 1
    if "loss_mask" in batch:
        batch["loss_mask"] &= batch["predictor_index"] >= 0
        if L:
            index = np.where(batch["loss_mask"], np.arange(T), T)
            batch["learned"] = np.sort(index, axis=1)[:, :L].astype(np.int32)
    return batch


def _write(batch, b, at, ids, segment, branch, position, before):
    """Put `ids` down at `at`; their first token is predicted by the one at index `before`."""
    to = slice(at, at + len(ids))
    batch["tokens"][b, to] = ids
    batch["segment_ids"][b, to] = segment
    batch["branch_ids"][b, to] = branch
    batch["positions"][b, to] = np.arange(position, position + len(ids))
    batch["predictor_index"][b, to] = np.arange(at - 1, at - 1 + len(ids))
    if len(ids):
        batch["predictor_index"][b, at] = before if position else -1
