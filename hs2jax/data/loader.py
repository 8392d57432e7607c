"""From groups to a stream of batches that a checkpoint can hold its place in.

Everything is tokenised once and the whole run is planned before it starts: grain gives each
epoch's order, each batch takes the next `batch_size` groups of it, and the batch's groups are
packed into rows. So every group is seen once an epoch whatever the sizes, a batch is exactly the
papers' number of groups, and the place in the run is one number.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import grain
import numpy as np

from hs2jax.data import chat, packing
from hs2jax.data.chat import Encoded
from hs2jax.data.groups import Group, pairs
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
    record: Record | None = None,
) -> Prepared:
    """Tokenises groups and sees that each fits into a row of `row_length` tokens, and each of its
    conversations into `max_tokens`, the model's positions. read: see `chat.encode`.

    attributes: names of the ratings that become the A columns; a group's other ratings are left
    out. derive: the attribute whose differences stand for preferences where none is given.
    too_long: "skip" leaves a group out that does not fit; "truncate" cuts its prompt from the left
    and leaves it out only if its responses alone are too long. Both are counted in `record`, as are
    pairs and ties. on_error: "skip" leaves a group out that the chat template refuses, and counts
    it in `record`; "raise" raises ValueError with its source. policy: see `chat.encode`; only
    each response with its prompt has to fit into a row.
    """
    if too_long not in TOO_LONG:
        raise ValueError(f"too_long is {too_long!r}; it must be one of {', '.join(TOO_LONG)}")
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error is {on_error!r}; it must be one of {', '.join(ON_ERROR)}")
    record = Record() if record is None else record
    bos = tokenizer.bos_token_id
    # A padded row is as many slots as the largest group has responses.
    slots = max((len(group.responses) for group in groups), default=1) if layout == "padded" else 1
    room = row_length // slots
    kept = Prepared([], [])
    skipped = record if on_error == "skip" else None
    every = chat.encode(tokenizer, groups, read, skipped, policy=policy, record=record)
    for group, encoded in zip(groups, every, strict=True):
        if encoded is None:
            continue
        excess = packing.cost(encoded, "padded") - max_tokens
        if policy:
            # Its responses may lie in several rows.
            excess = max(excess, packing.cost(encoded, "padded") - room)
        else:
            copies = len(encoded.responses) if layout == "separate" else 1
            excess = max(excess, math.ceil((packing.cost(encoded, layout) - room) / copies))
        cut = 0
        if excess > 0 and too_long == "truncate":
            encoded, cut = chat.cut_prompt(encoded, excess, bos), excess
            record.truncated += encoded is not None
        if encoded is None or (excess > 0 and too_long == "skip"):
            record.too_long += 1
            continue
        found, ties = pairs(group, derive)
        record.pairs += len(found)
        record.ties += ties
        kept.groups.append(group)
        kept.examples.append(Example(encoded, *_ratings(group, attributes), found, ties, cut))
    return kept


def with_pairs(prepared: Prepared) -> Prepared:
    """Only the groups that have preference pairs."""
    kept = [i for i, example in enumerate(prepared.examples) if example.pairs]
    return Prepared([prepared.groups[i] for i in kept], [prepared.examples[i] for i in kept])


def _ratings(group: Group, attributes: Sequence[str]):
    ratings = np.zeros((len(group.responses), len(attributes)), np.float32)
    rated = np.zeros(ratings.shape, bool)
    for i, given in enumerate(group.ratings):
        for j, name in enumerate(attributes):
            if name in given:
                ratings[i, j], rated[i, j] = given[name], True
    return ratings, rated


class Part(NamedTuple):
    """Some responses of a group that is too long for one row: those from `start` to before `stop`
    of an example, for the group that is the `turn`-th of the run."""

    example: int
    start: int
    stop: int
    turn: int


@dataclasses.dataclass(frozen=True)
class Batches:
    """A planned run, as a random-access source for grain: item i is batch i.

    An item is `packing.lay`'s arrays with a leading axis M of micro-batches, [M, B, ...], where B
    is `micro_rows`. Micro-batches that a batch does not need are all padding and come last.
    `plan[i]` lists the batch's rows, each a list of example numbers. With several processes each
    lays the whole batch, which is cheap, and gives its own devices their rows.

    `states` are states [cost, D] of each example, where they are known before: an item then has
    "states" [M, B, T, D] too. Not for the layout "padded", which spreads an example over its slots.

    `parts` are numbered on from the examples. A group that lies in parts, each with a copy of the
    prompt, has one number in "group", and with any parts in the run every item has "parts" int32
    [M, B, R]: in how many parts the slot's group lies, 0 in an empty slot.
    """

    examples: list[Example]
    plan: list[list[list[int]]]
    shape: Shape
    layout: str
    micro_rows: int
    states: Sequence[np.ndarray] | None = None
    parts: Sequence[Part] = ()

    @property
    def micro_batches(self) -> int:
        return max((math.ceil(len(rows) / self.micro_rows) for rows in self.plan), default=0)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        M, B = self.micro_batches, self.micro_rows
        rows = self.plan[i] + [[]] * (M * B - len(self.plan[i]))
        batch = packing.lay([[self._laid(e) for e in row] for row in rows], self.shape, self.layout)
        if self.states is not None:
            batch["states"] = self._lay_states(rows)
        if self.parts:
            batch |= self._join_parts(batch["group"], rows)
        return {name: x.reshape(M, B, *x.shape[1:]) for name, x in batch.items()}

    def _part(self, e: int) -> Part | None:
        """The part that has the number e, None where e is a whole example."""
        return None if e < len(self.examples) else self.parts[e - len(self.examples)]

    def _laid(self, e: int) -> Example:
        part = self._part(e)
        return self.examples[e] if part is None else _cut(self.examples[part.example], part)

    def tokens(self, e: int) -> int:
        """How many tokens of conversations the example or part has, padding apart."""
        layout = "separate" if self.layout == "padded" else self.layout
        return packing.cost(self._laid(e).encoded, layout)

    def _join_parts(self, group: np.ndarray, rows: list[list[int]]) -> dict[str, np.ndarray]:
        """The keys "group" and "parts", from the groups [B, R] as they were laid, part by part."""
        parts = [self._part(e) for row in rows for e in row]
        owners = [i if part is None else ("turn", part.turn) for i, part in enumerate(parts)]
        counts = Counter(owners)
        numbers = {owner: number for number, owner in enumerate(counts)}
        # Empty slots, which are -1, take the last.
        number_of = np.asarray([*(numbers[owner] for owner in owners), -1], np.int32)
        parts_of = np.asarray([*(counts[owner] for owner in owners), 0], np.int32)
        return {"group": number_of[group], "parts": parts_of[group]}

    def _lay_states(self, rows: list[list[int]]) -> np.ndarray:
        like = self.states[0]
        laid = np.zeros((len(rows), self.shape.length, like.shape[1]), like.dtype)
        for row, numbers in zip(laid, rows, strict=True):
            for e, start, stop in self.spans(numbers):
                row[start:stop] = self.states[e]
        return laid

    def spans(self, row: list[int]) -> list[tuple[int, int, int]]:
        """(example, start, stop): where the tokens of a row's examples lie; not if "padded", and
        not of parts."""
        costs = [packing.cost(self.examples[e].encoded, self.layout) for e in row]
        stops = np.cumsum(costs).tolist()
        return [(e, stop - cost, stop) for e, cost, stop in zip(row, costs, stops, strict=True)]

    def slots(self, i: int) -> list[tuple[int, int, int, int]]:
        """Where batch i's responses are: (row, slot, example, response) each."""
        found = []
        for row, numbers in enumerate(self.plan[i]):
            slot = 0
            for e in numbers:
                part = self._part(e) or Part(e, 0, len(self.examples[e].encoded.responses), -1)
                for r in range(part.start, part.stop):
                    found.append((row, slot, part.example, r))
                    slot += 1
        return found


def plan(
    examples: list[Example],
    *,
    row_length: int,
    layout: str,
    batch_size: int,
    micro_rows: int,
    epochs: int = 1,
    seed: int | None = None,
    record: Record | None = None,
) -> Batches:
    """Plans all batches of `batch_size` groups; the very last one has what is left.

    seed: shuffles each epoch anew; None keeps the order, for evaluation. The same arguments give
    the same plan everywhere, whatever the number of processes. A group that is too long for a row
    lies in several, in parts of as many responses as fit; not where the layout is "padded".
    Raises ValueError for a response that does not fit into a row with its prompt.
    """
    order = list(range(len(examples))) * epochs
    if seed is not None and examples:
        shuffled = grain.MapDataset.range(len(examples)).seed(seed).shuffle().repeat(epochs)
        order = [int(shuffled[i]) for i in range(len(shuffled))]
    # Of examples, and then of parts.
    costs = [packing.cost(example.encoded, layout) for example in examples]
    responses = [len(example.encoded.responses) for example in examples]
    pairs_of = [len(example.pairs) for example in examples]
    slots = max(responses, default=1)
    batches, parts = [], []
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        if layout == "padded":
            batches.append([[e] for e in chosen])
            continue
        pieces = []
        for turn, e in enumerate(chosen, start=start):
            if costs[e] <= row_length:
                pieces.append(e)
                continue
            for first, stop in _split(examples[e].encoded, layout, row_length):
                pieces.append(len(costs))
                parts.append(Part(e, first, stop, turn))
                costs.append(packing.cost(_cut(examples[e], parts[-1]).encoded, layout))
                responses.append(stop - first)
                pairs_of.append(0)
        rows = packing.first_fit([costs[e] for e in pieces], row_length)
        batches.append([[pieces[i] for i in row] for row in rows])
    every_row = [row for rows in batches for row in rows]
    in_row = max((sum(responses[e] for e in row) for row in every_row), default=slots)
    shape = Shape(
        length=row_length if layout != "padded" else row_length // slots * slots,
        responses=in_row if layout == "padded" else _bucket(in_row),
        pairs=_bucket(max((sum(pairs_of[e] for e in row) for row in every_row), default=1)),
        attributes=examples[0].ratings.shape[1] if examples else 0,
    )
    planned = Batches(examples, batches, shape, layout, micro_rows, parts=parts)
    if record is not None:
        tokens = sum(planned.tokens(e) for row in every_row for e in row)
        run = sum(math.ceil(len(rows) / micro_rows) * micro_rows for rows in batches)
        record.tokens += tokens
        record.padding += run * shape.length - tokens
    return planned


def _split(encoded: Encoded, layout: str, row_length: int) -> list[tuple[int, int]]:
    """The first responses that fit into a row with their prompt, the next that do, and so on: as
    (start, stop) each."""
    found, start = [], 0
    for stop in range(1, len(encoded.responses) + 1):
        alone = packing.cost(_some(encoded, stop - 1, stop), layout)
        if alone > row_length:
            raise ValueError(
                f"a prompt and response of {alone} tokens do not fit into a row of {row_length}; "
                "leave them out, or make rows longer"
            )
        if packing.cost(_some(encoded, start, stop), layout) > row_length:
            found.append((start, stop - 1))
            start = stop - 1
    return [*found, (start, len(encoded.responses))]


def _some(encoded: Encoded, start: int, stop: int) -> Encoded:
    """The prompt with some of its responses. Its own tokens are learned with the first of them."""
    learn = encoded.learn
    if learn is not None and start > 0:
        learn = np.zeros_like(learn)
    some = slice(start, stop)
    return Encoded(encoded.prompt, encoded.responses[some], learn, encoded.given[some])


def _cut(example: Example, part: Part) -> Example:
    """The part as an example of its own, without the group's pairs."""
    some = slice(part.start, part.stop)
    return example._replace(
        encoded=_some(example.encoded, part.start, part.stop),
        ratings=example.ratings[some],
        rated=example.rated[some],
        pairs=[],
    )


def _bucket(n: int) -> int:
    """The next power of two: few sizes, since a program is compiled for each."""
    return 1 << max(n - 1, 0).bit_length()


def iterate(batches: Batches) -> grain.DatasetIterator:
    """The batches, made ahead of time by threads. `get_state` and `set_state` keep the place."""
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    return iter(grain.MapDataset.source(batches).to_iter_dataset(options))
