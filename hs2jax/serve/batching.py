"""Conversations of many askers, computed together by one thread in a few shapes that are compiled
before the first of them comes.

Axis letters: B rows, T tokens of a row, R response slots, N numbers of a response.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from hs2jax.data import packing
from hs2jax.data.packing import Example, Shape
from hs2jax.models import sharding

log = logging.getLogger(__name__)

PACKED = 1024  # Tokens of a row in which conversations lie side by side; longer ones have longer.
FLOOR = 16  # Tokens that a response counts at least, which bounds the slots of a row.
ROWS = 8  # Of each accelerator, where much waits; on CPU more than one brings nothing.
COMPILED = collections.Counter()  # Programs that this process has compiled.


def _count(event: str, *_, **__) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED["programs"] += 1


jax.monitoring.register_event_duration_secs_listener(_count)


class NotTakenError(RuntimeError):
    """Work that is not taken; `code`: of HTTP; `seconds`: after which to ask again, if ever."""

    def __init__(self, code: int, what: str, seconds: int | None = None):
        super().__init__(what)
        self.code, self.seconds = code, seconds


STOPS = functools.partial(NotTakenError, 503, "the server stops", 1)


@dataclasses.dataclass
class Waiting:
    """Responses of one prompt, and where their numbers [responses, N] are awaited."""

    example: Example
    found: concurrent.futures.Future
    cost: int


class Batcher:
    """A queue of examples before one thread that computes them.

    forward: (params, a batch as `packing.lay` makes it, "shared") -> [B, R, N]. longest: tokens of
    a conversation. max_queue: how many items may be admitted and not answered yet. rows: of a large
    batch on each device. `computed` and `dropped` count responses.
    """

    def __init__(
        self,
        forward: Callable,
        params: Any,
        longest: int,
        *,
        mesh=None,
        max_queue: int = 4096,
        rows: int | None = None,
    ):
        self.forward, self.params, self.mesh, self.max_queue = forward, params, mesh, max_queue
        rows = rows or (1 if jax.default_backend() == "cpu" else ROWS)
        self.shapes = shapes(longest, sharding.row_devices(mesh), rows)
        self.programs: dict[tuple[int, int], Callable] = {}
        self.compiled_before = 0  # In this process, until all shapes were.
        self.admitted = self.computed = self.dropped = 0
        self.ready, self.error = threading.Event(), None
        self._pace = 0.0  # Seconds for an item, lately.
        self._queue: collections.deque[Waiting] = collections.deque()
        self._changed, self._closed = threading.Condition(), False

    @property
    def longest(self) -> int:
        """Tokens that an example may have, all its responses together."""
        return self.shapes[-1][1]

    def start(self, told: Callable[[], None] = lambda: None) -> None:
        """Compile and compute in a thread from now on. told: is called when it is ready, or has
        failed with `error`."""
        threading.Thread(target=self._work, args=(told,), daemon=True).start()

    def close(self) -> None:
        """Answer what waits with NotTakenError, and compute nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @contextlib.contextmanager
    def admit(self, items: int) -> Iterator[None]:
        """Have places in the queue for as long as the block lasts. Raises NotTakenError where there
        never are so many, or not now."""
        with self._changed:
            if items > self.max_queue:
                what = f"{items} items are more than the queue of {self.max_queue} holds"
                raise NotTakenError(413, f"{what}: ask in parts")
            if self.admitted + items > self.max_queue:
                seconds = min(60, max(1, math.ceil(self.admitted * self._pace)))
                raise NotTakenError(429, f"the queue is full; ask again in {seconds} s", seconds)
            self.admitted += items
        try:
            yield
        finally:
            with self._changed:
                self.admitted -= items

    def put(self, examples: Sequence[Example]) -> list[concurrent.futures.Future]:
        """Queue examples, of at most `longest` tokens each; their numbers [responses, N] come in
        futures, and one that is cancelled before its turn is not computed."""
        waiting = [Waiting(x, concurrent.futures.Future(), cost(x)) for x in examples]
        with self._changed:
            if self._closed:
                raise STOPS()
            self._queue.extend(waiting)
            self._changed.notify()
        return [each.found for each in waiting]

    def _work(self, told) -> None:
        try:
            self._compile()
        except Exception as error:
            self.error = error
        else:
            self.ready.set()
        told()
        while self.ready.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    break
                taken, placed = self._take()
            if taken:
                self._answer(taken, placed)
        for each in self._queue:
            if each.found.set_running_or_notify_cancel():
                each.found.set_exception(STOPS())

    def _compile(self) -> None:
        """Compile a program for each shape, and run it once."""
        for number, shape in enumerate(self.shapes, 1):
            log.info(
                "compiling program %d of %d, for %d x %d tokens", number, len(self.shapes), *shape
            )
            batch = self._lay([], shape)
            program = jax.jit(self.forward).lower(self.params, batch).compile()
            jax.block_until_ready(program(self.params, batch))
            self.programs[shape] = program
        self.compiled_before = COMPILED["programs"]

    def _take(self) -> tuple[list[Waiting], list[list[int]]]:
        """Take what fits, in order, into the largest batch that the first may lie in; and say which
        of it lie in which row."""
        taken, room, placed = [], [], []
        while self._queue:
            first = self._queue[0]
            if not room and not first.found.cancelled():
                rows, length = largest(self.shapes, first.cost)
                room, placed = [length] * rows, [[] for _ in range(rows)]
            row = next((i for i, left in enumerate(room) if left >= first.cost), None)
            if row is None and not first.found.cancelled():
                break
            self._queue.popleft()
            if first.found.set_running_or_notify_cancel():
                room[row] -= first.cost
                placed[row].append(len(taken))
                taken.append(first)
            else:
                self.dropped += len(first.example.encoded.responses)
        return taken, placed

    def _answer(self, taken: list[Waiting], placed: list[list[int]]) -> None:
        begun = time.perf_counter()
        try:
            tables = self._compute(taken, placed)
        except Exception as error:
            for each in taken:
                each.found.set_exception(error)
            return
        count = sum(map(len, tables))
        self.computed += count
        pace = (time.perf_counter() - begun) / count
        self._pace = pace if not self._pace else 0.8 * self._pace + 0.2 * pace
        for each, table in zip(taken, tables, strict=True):
            each.found.set_result(table)

    def _compute(self, taken: list[Waiting], placed: list[list[int]]) -> list[np.ndarray]:
        """Compute the numbers [responses, N] of each, in the smallest shape that holds all."""
        costs = [each.cost for each in taken]
        shape = largest(self.shapes, costs[0])
        for rows, length in self.shapes:
            if max(costs) <= length <= shape[1] and rows * length < math.prod(shape):
                packed = packing.first_fit(costs, length)
                if len(packed) <= rows:
                    shape, placed = (rows, length), packed
                    break
        batch = self._lay([[taken[i].example for i in row] for row in placed], shape)
        table = sharding.to_host(self.programs[shape](self.params, batch))
        found: list[np.ndarray] = [None] * len(taken)
        for row, numbers in zip(placed, table, strict=False):
            slot = 0
            for i in row:
                responses = len(taken[i].example.encoded.responses)
                found[i] = numbers[slot : slot + responses]
                slot += responses
        return found

    def _lay(self, rows: list[list[Example]], shape: tuple[int, int]) -> dict:
        """Lay examples down in a batch of just this shape, empty rows behind them."""
        count, length = shape
        rows = rows + [[]] * (count - len(rows))
        sizes = Shape(length, responses=length // FLOOR, pairs=1, attributes=0)
        return sharding.place_rows(packing.lay(rows, sizes, "shared"), self.mesh)


def cost(example: Example) -> int:
    """Count the tokens that an example takes of a row, so that its slots suffice, too."""
    return max(packing.cost(example.encoded, "shared"), FLOOR * len(example.encoded.responses))


def shapes(longest: int, devices: int, rows: int) -> list[tuple[int, int]]:
    """List the shapes (B, T) that are compiled, by size: a row of each device, of doubling lengths
    until one holds the longest conversation, and `rows` of them in which many are packed."""
    lengths = [128]
    while lengths[-1] < longest:
        lengths.append(2 * lengths[-1])
    found = {(devices, length) for length in lengths}
    found.add((devices * rows, min(PACKED, lengths[-1])))
    return sorted(found, key=lambda shape: (shape[1], shape[0]))


def largest(shapes: Sequence[tuple[int, int]], cost: int) -> tuple[int, int]:
    """Find the largest shape for an example of this cost and those behind it: with rows that are
    packed, or the shortest that are long enough."""
    fitting = [shape for shape in shapes if cost <= shape[1] <= PACKED]
    return fitting[-1] if fitting else next(shape for shape in shapes if cost <= shape[1])
