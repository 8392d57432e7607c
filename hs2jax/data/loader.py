"""From groups to a stream of batches that a checkpoint can hold its place in.

Everything is tokenised once and the whole run is planned before it starts: grain gives each
epoch's order, each batch takes the next `batch_size` groups of it, packed into rows. So a batch is
exactly the papers' number of groups, and the place in the run is one number.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import grain
import numpy as np

from hs2jax.data import chat, packing
from hs2jax.data.chat import Encoded
from hs2jax.data.groups import Group, distinct, pairs
from hs2jax.data.packing import Example, Shape
from hs2jax.data.record import Record

TOO_LONG = ("skip", "truncate")
ON_ERROR = ("raise", "skip")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Groups that fit, tokenised; `examples[i]` is `groups[i]`."""

    groups: list[Group]
    examples: list[Example]


def prepare(
    groups: Sequence[Group],
    tokenizer,
    *,
    attributes: Sequence[str],
    row_length: int,
    max_tokens: int,
    read: str = "end_of_turn",
    layout: str = "shared",
    too_long: str = "skip",
    derive: str | None = None,
    on_error: str = "raise",
    policy: bool = False,
    whole: bool = False,
    vocab_size: int | None = None,
    record: Record | None = None,
) -> Prepared:
    """Tokenise groups and see that each fits into a row of `row_length` tokens, and each of its
    conversations into `max_tokens`, the model's positions. read, vocab_size: see `chat.encode`.

    attributes: names of the ratings that become the A columns. derive: as for `groups.pairs`.
    too_long: "skip" leaves a group out that does not fit; "truncate" cuts its prompt from the left
    and leaves it out only if its responses alone are too long. on_error: "skip" leaves a group out
    that the chat template refuses; "raise" raises ValueError with its source. `record` counts all
    these, pairs and ties. policy: only each response with its prompt has to fit into a row, unless
    groups have to be whole.
    """
    record = Record() if record is None else record
    # A padded row is as many slots as the largest group has responses.
    slots = max((len(group.responses) for group in groups), default=1) if layout == "padded" else 1
    room = row_length // slots
    kept = Prepared([], [])
    skipped = record if on_error == "skip" else None
    options = {"policy": policy, "vocab_size": vocab_size, "record": record}
    every = chat.encode(tokenizer, groups, read, skipped, **options)
    for group, encoded in zip(groups, every, strict=True):
        if encoded is None:
            continue
        longest, cut = packing.cost(encoded, "padded"), 0
        excess = longest - max_tokens
        if policy and not whole:
            excess = max(excess, longest - room)  # Its responses may lie in several rows.
        else:
            copies = len(encoded.responses) if layout == "separate" else 1
            excess = max(excess, math.ceil((packing.cost(encoded, layout) - room) / copies))
        if excess > 0 and too_long == "truncate":
            encoded, cut = chat.cut_prompt(encoded, excess, tokenizer.bos_token_id), excess
            record.truncated += encoded is not None
        if encoded is None or (excess > 0 and too_long == "skip"):
            record.too_long += 1
            continue
        found, ties = pairs(group, derive)
        found, alike = distinct(found, [ids.tobytes() for ids in encoded.responses])
        record.indistinct += alike
        record.pairs += len(found)
        record.ties += ties
        kept.groups.append(group)
        kept.examples.append(Example(encoded, *_ratings(group, attributes), found, ties, cut))
    return kept


def with_pairs(prepared: Prepared) -> Prepared:
    """Keep only the groups that have preference pairs."""
    kept = [i for i, example in enumerate(prepared.examples) if example.pairs]
    return Prepared([prepared.groups[i] for i in kept], [prepared.examples[i] for i in kept])


def _ratings(group: Group, attributes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Put ratings into columns: f32 and, where there is one, True, both [responses, A]."""
    known = group.ratings or [{}] * len(group.responses)
    table = [[rating.get(name, np.nan) for name in attributes] for rating in known]
    ratings = np.asarray(table, np.float32).reshape(len(known), len(attributes))
    return np.nan_to_num(ratings), ~np.isnan(ratings)


class Piece(NamedTuple):
    """An example as it is laid: whole, or some responses of one that is too long for a row."""

    laid: Example  # What lies in the row.
    example: int  # The number of the whole,
    turn: int  # and its place in the run.
    start: int  # The first of its responses that are here.


@dataclasses.dataclass(frozen=True)
class Batches:
    """A planned run, as a random-access source for grain: item i is batch i.

    An item is `packing.lay`'s arrays with a leading axis M of micro-batches, [M, B, ...], where B
    is `micro_batch_size`. Micro-batches that a batch does not need are all padding and come last.
    `plan[i]` lists the batch's rows.

    `states` gives the states [cost, D] of an example, where they are known before, which are an
    item's "states" [M, B, T, D]. Not for the layout "padded", and not where examples lie in pieces.

    A group that lies in several pieces, each with a copy of the prompt, has one number in
    "group_ids", and with any such group in the run (`split`) every item has "parts" int32
    [M, B, R]: in how many pieces the slot's group lies, 0 in an empty slot.
    """

    examples: list[Example]
    plan: list[list[list[Piece]]]
    shape: Shape
    layout: str
    micro_batch_size: int
    split: bool
    states: Callable[[int], np.ndarray] | None = None

    @property
    def micro_batches(self) -> int:
        return max((math.ceil(len(rows) / self.micro_batch_size) for rows in self.plan), default=0)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        M, B = self.micro_batches, self.micro_batch_size
        rows = self.plan[i] + [[]] * (M * B - len(self.plan[i]))
        batch = packing.lay([[p.laid for p in row] for row in rows], self.shape, self.layout)
        if self.states is not None:
            like = self.states(0)
            batch["states"] = np.zeros((M * B, self.shape.length, like.shape[1]), like.dtype)
            for row, pieces in zip(batch["states"], rows, strict=True):
                for e, start, stop in self.spans(pieces):
                    row[start:stop] = self.states(e)
        if self.split:
            turns = [piece.turn for row in rows for piece in row]
            counts = Counter(turns)
            numbers = {turn: number for number, turn in enumerate(counts)}
            # From the numbers of pieces; empty slots, which are -1, take the last.
            group_ids, parts = (
                np.asarray([*(of[turn] for turn in turns), empty], np.int32)[batch["group_ids"]]
                for of, empty in ((numbers, -1), (counts, 0))
            )
            batch |= {"group_ids": group_ids, "parts": parts}
        return {name: x.reshape(M, B, *x.shape[1:]) for name, x in batch.items()}

    def spans(self, row: list[Piece]) -> list[tuple[int, int, int]]:
        """(example, start, stop): where the tokens of a row's examples lie; not if "padded"."""
        costs = [packing.cost(piece.laid.encoded, self.layout) for piece in row]
        stops = np.cumsum(costs).tolist()
        return [(p.example, stop - c, stop) for p, c, stop in zip(row, costs, stops, strict=True)]

    def slots(self, i: int) -> list[tuple[int, int, int, int]]:
        """List batch i's responses, each as (row, slot, example, response)."""
        found = []
        for row, pieces in enumerate(self.plan[i]):
            counts = ((p, range(len(p.laid.encoded.responses))) for p in pieces)
            responses = ((p.example, p.start + r) for p, count in counts for r in count)
            found += [(row, slot, *each) for slot, each in enumerate(responses)]
        return found


def plan(
    examples: list[Example],
    *,
    row_length: int,
    layout: str,
    batch_size: int,
    micro_batch_size: int,
    epochs: int = 1,
    seed: int | None = None,
    record: Record | None = None,
) -> Batches:
    """Plan all batches of `batch_size` groups; the very last one has what is left.

    seed: shuffles each epoch anew; None keeps the order, for evaluation. A group that is too long
    for a row lies in several, in parts of as many responses as fit; not in the layout "padded".
    Raises ValueError for a response that does not fit into a row with its prompt.
    """
    order = list(range(len(examples))) * epochs
    if seed is not None and examples:
        shuffled = grain.MapDataset.range(len(examples)).seed(seed).shuffle().repeat(epochs)
        order = [int(shuffled[i]) for i in range(len(shuffled))]
    batches, split = [], False
    for start in range(0, len(order), batch_size):
        pieces = []
        for turn, e in enumerate(order[start : start + batch_size], start):
            spans = _split(examples[e].encoded, layout, row_length)
            split |= len(spans) > 1
            parts = [_take_responses(examples[e], *span) for span in spans]
            pieces += [Piece(p, e, turn, at) for p, (at, _) in zip(parts, spans, strict=True)]
        if layout == "padded":
            batches.append([[piece] for piece in pieces])
            continue
        costs = [packing.cost(piece.laid.encoded, layout) for piece in pieces]
        rows = packing.first_fit(costs, row_length)
        batches.append([[pieces[i] for i in row] for row in rows])
    laid = [[piece.laid for piece in row] for rows in batches for row in rows]
    slots = max((len(example.encoded.responses) for example in examples), default=1)
    in_row = max((sum(len(e.encoded.responses) for e in row) for row in laid), default=slots)
    length = row_length if layout != "padded" else row_length // slots * slots
    learned = max((sum(packing.count_learned(e.encoded) for e in row) for row in laid), default=0)
    step = math.ceil(length / 8)  # A few sizes, since a program is compiled for each.
    shape = Shape(
        length=length,
        responses=in_row if layout == "padded" else _bucket(in_row),
        pairs=_bucket(max((sum(len(e.pairs) for e in row) for row in laid), default=1)),
        attributes=examples[0].ratings.shape[1] if examples else 0,
        learned=min(math.ceil(learned / step) * step, length),
    )
    if record is not None:
        of_tokens = "separate" if layout == "padded" else layout  # Without what only fills a slot.
        tokens = sum(packing.cost(e.encoded, of_tokens) for row in laid for e in row)
        run = sum(math.ceil(len(rows) / micro_batch_size) * micro_batch_size for rows in batches)
        record.tokens += tokens
        record.padding += run * shape.length - tokens
    return Batches(examples, batches, shape, layout, micro_batch_size, split)


def _split(encoded: Encoded, layout: str, row_length: int) -> list[tuple[int, int]]:
    """Split responses into runs that fit into a row with their prompt, as (start, stop) each."""
    if layout == "padded" or packing.cost(encoded, layout) <= row_length:
        return [(0, len(encoded.responses))]
    starts, used = [], row_length
    for i, response in enumerate(encoded.responses):
        alone = len(encoded.prompt) + len(response)
        if alone > row_length:
            raise ValueError(
                f"a prompt and response of {alone} tokens do not fit into a row of {row_length}; "
                "leave them out, or make rows longer"
            )
        used += alone if layout == "separate" else len(response)
        if used > row_length:
            starts.append(i)
            used = alone
    return list(itertools.pairwise([*starts, len(encoded.responses)]))


def _take_responses(example: Example, start: int, stop: int) -> Example:
    """Keep some responses of an example, without its pairs where these are not all. A prompt's own
    tokens are learned with the first."""
    whole, part = example.encoded, slice(start, stop)
    if len(whole.responses[part]) == len(whole.responses):
        return example
    mask = (
        np.zeros_like(whole.loss_mask) if start and whole.loss_mask is not None else whole.loss_mask
    )
    return example._replace(
        encoded=Encoded(whole.prompt, whole.responses[part], mask, whole.given[part]),
        ratings=example.ratings[part],
        rating_mask=example.rating_mask[part],
        pairs=[],
    )


def _bucket(n: int) -> int:
    """Round up to a power of two: few sizes, since a program is compiled for each."""
    return 1 << max(n - 1, 0).bit_length()


def iterate(batches: Batches) -> grain.DatasetIterator:
    """Iterate over batches made ahead by threads. `get_state` and `set_state` keep the place."""
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    return iter(grain.MapDataset.source(batches).to_iter_dataset(options))
