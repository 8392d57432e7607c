"""From groups to a stream of batches that a checkpoint can hold its place in.

Everything is tokenised once and the whole run is planned before it starts: grain gives each
epoch's order, each batch takes the next `batch_size` groups of it, packed into rows. So a batch is
exactly the papers' number of groups, and the place in the run is one number.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import grain
import numpy as np

from hs2jax.data import chat, packing, records
from hs2jax.data.chat import Encoded
from hs2jax.data.groups import Group, distinct, pairs
from hs2jax.data.packing import Example, Shape
from hs2jax.data.record import Record

TOO_LONG = ("skip", "truncate")
ON_ERROR = ("raise", "skip")


class Prepared(NamedTuple):
    """Groups that fit, tokenised; `examples[i]` is `groups[i]`. Both are made as they are read."""

    groups: Sequence[Group]
    examples: Sequence[Example]


def prepare(
    groups: Iterable[Group],
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
    folder: Path | None = None,
) -> Prepared:
    """Tokenise groups and see that each fits into a row of `row_length` tokens, and each of its
    conversations into `max_tokens`, the model's positions. read, vocab_size: see `chat.encode`.

    attributes: names of the ratings that become the A columns. derive: as for `groups.pairs`.
    too_long: "skip" leaves a group out that does not fit; "truncate" cuts its prompt from the left
    and leaves it out only if its responses alone are too long. on_error: "skip" leaves a group out
    that the chat template refuses; "raise" raises ValueError with its source. `record` counts all
    these, pairs and ties. policy: only each response with its prompt has to fit into a row, unless
    groups have to be whole.
    folder: where all that does not follow from lengths is kept, or found (`records.keep`).
    """
    record, bos = Record() if record is None else record, tokenizer.bos_token_id

    def make(some: Sequence[Group], left_out: Record) -> list[records.Made]:
        skipped, made = left_out if on_error == "skip" else None, []
        options = {"policy": policy, "vocab_size": vocab_size, "record": left_out}
        every = chat.encode(tokenizer, some, read, skipped, **options)
        for group, encoded in zip(some, every, strict=True):
            if encoded is not None:
                found, ties = pairs(group, derive)
                found, alike = distinct(found, [ids.tobytes() for ids in encoded.responses])
                example = Example(encoded, *_ratings(group, attributes), found, ties)
                made.append((group, example, alike, encoded.prompt[:1].tolist() == [bos]))
        return made

    kept = records.keep(groups, make, record, folder)
    table = kept.table
    rows, longest = table.examples, table.costs("padded")
    # A padded row is as many slots as the largest group has responses.
    room = (
        row_length // max(rows["responses"].max(initial=1), 1) if layout == "padded" else row_length
    )
    excess = longest - max_tokens
    if policy and not whole:
        excess = np.maximum(excess, longest - room)  # Its responses may lie in several rows.
    else:
        copies = rows["responses"] if layout == "separate" else 1
        excess = np.maximum(excess, -((room - table.costs(layout)) // copies))
    fits, cut = excess <= 0, np.maximum(excess, 0)
    if too_long == "truncate":
        fits = excess <= np.maximum(rows["prompt"] - rows["starts"], 0)
        record.truncated += int((fits & (cut > 0)).sum())
    record.too_long += int((~fits).sum())
    groups, every = kept.rows()
    index = np.flatnonzero(fits)
    fitting, cut = every.table.take(index), cut[index]

    def example(i: int) -> Example:
        one, n = every[index[i]], int(cut[i])
        return one._replace(encoded=chat.cut_prompt(one.encoded, n, bos), cut=n) if n else one

    fitting.examples["cut"] = cut
    fitting.examples["prompt"] -= cut
    for i in np.flatnonzero(fitting.examples["asked"] * cut):
        fitting.examples["learned"][i] = example(i).encoded.loss_mask.sum()
    record.indistinct += int(fitting.examples["alike"].sum())
    record.pairs += len(fitting.pairs)
    record.ties += int(fitting.examples["ties"].sum())
    return Prepared(groups.take(index), records.Rows(fitting, example))


def with_pairs(prepared: Prepared) -> Prepared:
    """Keep only the groups that have preference pairs."""
    kept = np.flatnonzero(records.table(prepared.examples).examples["pairs"])
    return Prepared(*(each.take(kept) for each in prepared))


def _ratings(group: Group, attributes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Put ratings into columns: f32 and, where there is one, True, both [responses, A]."""
    known = group.ratings or [{}] * len(group.responses)
    table = [[rating.get(name, np.nan) for name in attributes] for rating in known]
    ratings = np.asarray(table, np.float32).reshape(len(known), len(attributes))
    return np.nan_to_num(ratings), ~np.isnan(ratings)


class Piece(NamedTuple):
    """An example as it is laid: whole, or some responses of one that is too long for a row."""

    example: int  # The number of the whole,
    turn: int  # and its place in the run.
    start: int  # Of its responses those that lie here,
    stop: int
    cost: int  # and the tokens that they take.


class Plan(Sequence):
    """The rows of each batch, each a list of pieces, from one array of all pieces.

    pieces: [pieces], in their order, with the "row" of its batch beside what `Piece` has. bounds:
    [batches + 1], the first piece of each batch.
    """

    KIND = np.dtype([("row", "i4"), *((name, "i4") for name in Piece._fields)])

    def __init__(self, pieces: np.ndarray, bounds: np.ndarray):
        self.pieces, self.bounds = pieces, bounds
        # Rows of each batch; none is without a piece.
        self.rows = (
            np.maximum.reduceat(pieces["row"], bounds[:-1]) + 1 if len(bounds) > 1 else bounds[:0]
        )

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, i):
        if isinstance(i, slice):
            start, stop, _ = i.indices(len(self))
            return Plan(self.pieces, self.bounds[start : stop + 1])
        i = range(len(self))[i]
        found = [[] for _ in range(self.rows[i])]
        for row, *piece in self.pieces[self.bounds[i] : self.bounds[i + 1]].tolist():
            found[row].append(Piece(*piece))
        return found


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

    `here`: bool [B], which rows of a micro-batch this process has devices for; only these are read,
    and the others are all padding. None: all.
    """

    examples: Sequence[Example]
    plan: Plan
    shape: Shape
    layout: str
    micro_batch_size: int
    split: bool
    policy: bool
    states: Callable[[int], np.ndarray] | None = None
    here: np.ndarray | None = None

    @property
    def micro_batches(self) -> int:
        return math.ceil(self.plan.rows.max(initial=0) / self.micro_batch_size)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        M, B = self.micro_batches, self.micro_batch_size
        rows = self.plan[i]
        rows += [[]] * (M * B - len(rows))
        own = (
            rows
            if self.here is None
            else [row if self.here[r % B] else [] for r, row in enumerate(rows)]
        )
        laid = [
            [_take_responses(self.examples[p.example], p.start, p.stop) for p in row] for row in own
        ]
        firsts = np.cumsum([0, *map(len, rows)])
        batch = packing.lay(laid, self.shape, self.layout, firsts, policy=self.policy)
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
        stops = np.cumsum([piece.cost for piece in row]).tolist()
        return [(p.example, stop - p.cost, stop) for p, stop in zip(row, stops, strict=True)]

    def slots(self, i: int) -> list[tuple[int, int, int, int]]:
        """List batch i's responses, each as (row, slot, example, response)."""
        found = []
        for row, pieces in enumerate(self.plan[i]):
            responses = ((p.example, r) for p in pieces for r in range(p.start, p.stop))
            found += [(row, slot, *each) for slot, each in enumerate(responses)]
        return found


def plan(
    examples: Sequence[Example],
    *,
    row_length: int,
    layout: str,
    batch_size: int,
    micro_batch_size: int,
    epochs: int = 1,
    seed: int | None = None,
    record: Record | None = None,
    here: np.ndarray | None = None,
) -> Batches:
    """Plan all batches of `batch_size` groups; the very last one has what is left.

    seed: shuffles each epoch anew; None keeps the order, for evaluation. here: see `Batches`. A
    group that is too long for a row lies in several, in parts of as many responses as fit; not in
    the layout "padded". Raises ValueError for a response that does not fit into a row with its
    prompt.
    """
    table = records.table(examples)
    costs, of = table.costs(layout), table.examples
    order = np.tile(np.arange(len(of)), epochs)
    if seed is not None and len(of):
        shuffled = grain.MapDataset.range(len(of)).seed(seed).shuffle().repeat(epochs)
        order = np.fromiter((shuffled[i] for i in range(len(shuffled))), np.int64)
    firsts = table.starts("responses")
    whole = list(zip(of["responses"].tolist(), costs.tolist(), strict=True))

    def parts(e: int) -> list[tuple[int, int, int]]:
        """(start, stop, cost) of each piece of an example."""
        count, cost = whole[e]
        if layout == "padded" or cost <= row_length:
            return [(0, count, cost)]
        lengths = table.responses["length"][firsts[e] : firsts[e + 1]].tolist()
        return _split(int(of["prompt"][e]), lengths, layout, row_length)

    batches = [np.zeros(0, Plan.KIND)]
    for first in range(0, len(order), batch_size):
        some = enumerate(order[first : first + batch_size].tolist(), first)
        pieces = [Piece(e, turn, *part) for turn, e in some for part in parts(e)]
        rows = [[i] for i in range(len(pieces))]
        if layout != "padded":
            rows = packing.first_fit([piece.cost for piece in pieces], row_length)
        laid = [(r, *pieces[i]) for r, row in enumerate(rows) for i in row]
        batches.append(np.array(laid, Plan.KIND))
    laid, bounds = np.concatenate(batches), np.cumsum([len(each) for each in batches])
    split = bool(len(laid) > len(order))

    # The most of each that any row has.
    begins = np.flatnonzero(
        np.diff(laid["row"], prepend=-1) | np.isin(np.arange(len(laid)), bounds)
    )
    e, in_piece = laid["example"], laid["stop"] - laid["start"]
    learned = np.concatenate([[0], np.cumsum(table.responses["learned"], dtype=np.int64)])
    learned = learned[firsts[e] + laid["stop"]] - learned[firsts[e] + laid["start"]]
    learned += np.where(laid["start"] == 0, of["learned"][e], 0)
    paired = np.where(in_piece == of["responses"][e], of["pairs"][e], 0)

    def most(counts: np.ndarray, default: int) -> int:
        return int(np.add.reduceat(counts, begins).max()) if len(counts) else default

    slots = int(of["responses"].max(initial=1))
    length = row_length if layout != "padded" else row_length // slots * slots
    step = math.ceil(length / 8)  # A few sizes, since a program is compiled for each.
    in_row = most(in_piece, slots)
    shape = Shape(
        length=length,
        responses=in_row if layout == "padded" else _bucket(in_row),
        pairs=_bucket(most(paired, 1)),
        attributes=table.responses["ratings"].shape[1],
        learned=min(math.ceil(most(learned, 0) / step) * step, length),
    )
    planned = Plan(laid, bounds)
    if record is not None:
        of_tokens = table.costs("separate")[e] if layout == "padded" else laid["cost"]
        run = int((-(-planned.rows // micro_batch_size) * micro_batch_size).sum())
        record.tokens += int(of_tokens.sum())
        record.padding += run * shape.length - int(of_tokens.sum())
    policy = bool(of["asked"].any())
    about = (planned, shape, layout, micro_batch_size, split, policy)
    return Batches(examples, *about, here=here)


def _split(
    prompt: int, lengths: Sequence[int], layout: str, row_length: int
) -> list[tuple[int, int, int]]:
    """Split responses into runs that fit into a row with their prompt: start, stop and tokens."""
    found = []
    for i, length in enumerate(lengths):
        alone = prompt + length
        if alone > row_length:
            raise ValueError(
                f"a prompt and response of {alone} tokens do not fit into a row of {row_length}; "
                "leave them out, or make rows longer"
            )
        more = alone if layout == "separate" else length
        if found and found[-1][2] + more <= row_length:
            found[-1] = (found[-1][0], i + 1, found[-1][2] + more)
        else:
            found.append((i, i + 1, alone))
    return found


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
