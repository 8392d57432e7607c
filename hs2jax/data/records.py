"""Tokenised groups: their numbers in memory, their tokens and texts in records that are read when
they are asked for, from files that are made once.

A folder of records holds, of each SHARD groups that were read, NUMBER.array_record and NUMBER.npz:
their table and what was left out of them, written last. A shard without it, or of another length,
was not finished and is made again. record.json, with what was counted, marks the end.
Axis letters: N examples, F responses of all, Q pairs of all, A attributes.
"""

import dataclasses
import itertools
import json
import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from hs2jax import atomic, faults, locks
from hs2jax.data.chat import Encoded
from hs2jax.data.groups import Group, Pair
from hs2jax.data.packing import Example
from hs2jax.data.record import Record

log = logging.getLogger(__name__)

SHARD = 8192  # Groups of a file: what a killed preparation makes again, at most.
PART = 256  # Groups that are tokenised together.
AT_RANDOM = "readahead_buffer_size:0,max_parallelism:0"
# learned: tokens of the prompt that a policy learns, where it is `asked` to. alike: pairs left out
# as a model cannot tell them apart. starts: whether it starts with BOS.
OF_EXAMPLE = ("prompt", "learned", "responses", "pairs", "ties", "alike", "cut", "asked", "starts")
PAIR = np.dtype([("chosen", "i4"), ("rejected", "i4"), ("strength", "f8")])


class Table(NamedTuple):
    """Numbers of examples [N], of their responses [F] and pairs [Q], with a name for each."""

    examples: np.ndarray
    responses: np.ndarray
    pairs: np.ndarray

    def take(self, index: np.ndarray) -> "Table":
        """Keep some examples, in this order."""
        counts = (self.examples[name] for name in ("responses", "pairs"))
        of_each = zip(counts, (self.responses, self.pairs), strict=True)
        return Table(self.examples[index], *(x[_spans(n, index)] for n, x in of_each))

    def starts(self, name: str) -> np.ndarray:
        """Index [N + 1] of each example's first among all "responses" or "pairs"."""
        return np.concatenate([[0], np.cumsum(self.examples[name], dtype=np.int64)])

    def costs(self, layout: str) -> np.ndarray:
        """Count the tokens of a row that each takes [N], as `packing.cost` does."""
        copies = self.examples["responses"] if layout == "separate" else 1
        own, reduce = np.zeros(0, np.int64), np.maximum if layout == "padded" else np.add
        if len(self.examples):  # Each has a response.
            lengths = self.responses["length"].astype(np.int64)
            own = reduce.reduceat(lengths, self.starts("responses")[:-1])
        return copies * self.examples["prompt"].astype(np.int64) + own


def _spans(counts: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Indices of all that belongs to the things at `index`, of which each has so many."""
    first, n = np.cumsum(counts, dtype=np.int64) - counts, counts[index]
    return np.repeat(first[index] - np.cumsum(n) + n, n) + np.arange(n.sum())


class Rows(Sequence):
    """Things, one for each example of a table, that are made when they are asked for."""

    def __init__(self, table: Table, get: Callable[[int], object]):
        self.table, self._get = table, get

    def __len__(self) -> int:
        return len(self.table.examples)

    def __getitem__(self, i):
        place = range(len(self))[i]
        return self._get(place) if isinstance(place, int) else [self._get(each) for each in place]

    def take(self, index: np.ndarray) -> "Rows":
        """Keep some, in this order."""
        return Rows(self.table.take(index), lambda i: self._get(index[i]))


def table(examples: Iterable[Example]) -> Table:
    """Make the table of examples, or give it where they have one."""
    if isinstance(examples, Rows):
        return examples.table
    of_examples, of_responses, pairs, ratings, rated = [], [], [], [], []
    for encoded, rating, mask, found, ties, cut in examples:
        learned, lengths = encoded.loss_mask, list(map(len, encoded.responses))
        asked, count = learned is not None, len(lengths)
        prompt = len(encoded.prompt), int(learned.sum()) if asked else 0
        of_examples.append((*prompt, count, len(found), ties, 0, cut, asked, 0))
        given = encoded.given or (0,) * count
        of_responses += [(n, (n - g) * asked) for n, g in zip(lengths, given, strict=True)]
        pairs += map(tuple, found)
        ratings.append(rating)
        rated.append(mask)
    width = ratings[0].shape[1] if ratings else 0
    kinds = [("length", "i4"), ("learned", "i4"), ("ratings", "f4", width), ("rated", "?", width)]
    responses = np.zeros(len(of_responses), kinds)
    if of_responses:
        responses["length"], responses["learned"] = zip(*of_responses, strict=True)
        responses["ratings"], responses["rated"] = np.concatenate(ratings), np.concatenate(rated)
    kinds = [(name, "i4") for name in OF_EXAMPLE]
    return Table(np.array(of_examples, kinds), responses, np.array(pairs, PAIR))


def join(tables: Sequence[Table]) -> Table:
    """Join the tables of neighbours; without an example, none knows the attributes."""
    tables = [of for of in tables if len(of.examples)] or [table([])]
    return Table(*map(np.concatenate, zip(*tables, strict=True)))


# Records ------------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """Examples as a table, and what reads the record of each: its tokens, and its group."""

    table: Table
    read: Callable[[int], bytes]

    def rows(self) -> tuple[Rows, Rows]:
        """Groups and examples."""
        firsts = {name: self.table.starts(name) for name in ("responses", "pairs")}

        def of(name: str, i: int) -> np.ndarray:
            return getattr(self.table, name)[firsts[name][i] : firsts[name][i + 1]]

        def example(i: int) -> Example:
            row, responses = self.table.examples[i], of("responses", i)
            bounds = np.cumsum([row["prompt"], *responses["length"]])
            content = self.read(i)
            ids = np.frombuffer(content, np.int32, bounds[-1])
            mask = np.frombuffer(content, bool, row["prompt"], ids.nbytes) if row["asked"] else None
            prompt, *parts = np.split(ids, bounds[:-1])
            pairs = [Pair(*each) for each in of("pairs", i).tolist()]
            known = responses["ratings"], responses["rated"], pairs, int(row["ties"])
            return Example(Encoded(prompt, tuple(parts), mask), *known)

        def group(i: int) -> Group:
            row, lengths = self.table.examples[i], of("responses", i)["length"]
            start = 4 * (int(row["prompt"]) + int(lengths.sum())) + row["prompt"] * row["asked"]
            fields = json.loads(self.read(i)[start:])
            lists = {name: tuple(fields[name]) for name in ("prompt", "responses", "ratings")}
            return Group(**fields | lists | {"tokens": tuple(map(tuple, fields["tokens"]))})

        return Rows(self.table, group), Rows(self.table, example)


def _content(group: Group, encoded: Encoded) -> bytes:
    mask = [] if encoded.loss_mask is None else [encoded.loss_mask]
    arrays = (x.tobytes() for x in (encoded.prompt, *encoded.responses, *mask))
    return b"".join([*arrays, json.dumps(vars(group)).encode()])


# A group, its example, how many of its pairs a model cannot tell apart, and if it begins with BOS.
Made = tuple[Group, Example, int, bool]
Make = Callable[[Sequence[Group], Record], list[Made]]


def keep(groups: Iterable[Group], make: Make, record: Record, folder: Path | None = None) -> Kept:
    """Make the examples of groups, PART at a time, and keep them in a folder, or in memory.

    groups: read only where the folder does not hold all of them, and counted in `record` by who
    gives them. make: of some groups, counts what it leaves out in the record that it is given.
    Raises OSError that names the folder where the disk does not take them.
    """
    if folder is None:
        left_out = Record()
        parts = list(_parts(iter(groups), make, left_out))
        contents = list(itertools.chain.from_iterable(contents for _, contents in parts))
        record.add(left_out)
        return Kept(join([of for of, _ in parts]), contents.__getitem__)
    folder.mkdir(parents=True, exist_ok=True)
    end, shards = folder / "record.json", []
    with locks.locked(folder / "lock"), faults.naming(folder):
        while shard := _open(folder, len(shards)):
            shards.append(shard)
        if not end.exists() or len(shards) < json.loads(end.read_text())["shards"]:
            stream, done = iter(groups), SHARD * len(shards)
            next(itertools.islice(stream, done, done), None)  # The last shard may hold fewer.
            while _write(folder, len(shards), stream, make):
                shards.append(_open(folder, len(shards)))
                log.info(
                    "%s: tokens of %d groups", folder, sum(len(x.examples) for x, *_ in shards)
                )
            for *_, left_out in shards:
                record.add(left_out)
            counted = {"shards": len(shards), "record": dataclasses.asdict(record)}
            with atomic.writing(end) as file:
                json.dump(counted, file)
        record.__dict__.update(json.loads(end.read_text())["record"])
    tables, readers = [of for of, *_ in shards], [reader for _, reader, _ in shards]
    starts = np.cumsum([0, *(len(of.examples) for of in tables)])

    def read(i: int) -> bytes:
        shard = int(np.searchsorted(starts, i, side="right")) - 1
        return readers[shard].read([int(i - starts[shard])])[0]

    return Kept(join(tables), read)


def _parts(groups: Iterator[Group], make: Make, record: Record):
    while some := list(itertools.islice(groups, PART)):
        made = make(some, record)
        part = table([example for _, example, *_ in made])
        part.examples["alike"] = [alike for *_, alike, _ in made]
        part.examples["starts"] = [starts for *_, starts in made]
        yield part, [_content(group, example.encoded) for group, example, *_ in made]


def _write(folder: Path, number: int, groups: Iterator[Group], make: Make) -> bool:
    """Write a shard of the next groups; False where none is left."""
    groups = itertools.islice(groups, SHARD)
    first = next(groups, None)
    if first is None:
        return False
    left_out, tables, place = Record(), [], folder / f"{number:06d}.array_record"
    with atomic.whole(place) as scratch:
        writer = ArrayRecordWriter(str(scratch), "group_size:1")
        for part, contents in _parts(itertools.chain([first], groups), make, left_out):
            tables.append(part)
            for content in contents:
                writer.write(content)
        writer.close()
    said = json.dumps(dataclasses.asdict(left_out))
    with atomic.whole(place.with_suffix(".npz")) as scratch, scratch.open("wb") as file:
        np.savez(file, **join(tables)._asdict(), left_out=said)
    return True


def _open(folder: Path, number: int) -> tuple[Table, ArrayRecordReader, Record] | None:
    """Open a shard; None where it is not whole."""
    place = folder / f"{number:06d}.array_record"
    try:
        with np.load(place.with_suffix(".npz")) as file:
            of = Table(*(file[name] for name in Table._fields))
            left_out = Record(**json.loads(str(file["left_out"])))
        reader = ArrayRecordReader(str(place), AT_RANDOM)
        return (of, reader, left_out) if reader.num_records() == len(of.examples) else None
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile):
        return None
