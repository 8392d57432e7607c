"""Items in, scores out: conversations of many askers, read by one thread and computed by another,
together, in a few shapes that are compiled before the first of them comes.

Axis letters: B rows, T tokens of a row, R response slots, N numbers of a response.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat

import jax
import numpy as np
import prometheus_client as prometheus
from fastapi import HTTPException, Request

from hs2jax import faults
from hs2jax.data import packing
from hs2jax.data.chat import Encoded
from hs2jax.data.conversations import fitted, join, share, unrated
from hs2jax.data.packing import Example, Shape
from hs2jax.models import sharding
from hs2jax.serve.requests import error_of

log = logging.getLogger(__name__)

ANSWER_SECONDS = 300.0  # After which a request is answered that it took too long.
PACKED = 1024  # Tokens of a row in which conversations lie side by side; longer ones have longer.
FLOOR = 16  # Tokens that a response counts at least, which bounds the slots of a row.
ROWS = 8  # Of each accelerator, where much waits; on CPU more than one brings nothing.


@dataclasses.dataclass
class Waiting:
    """Responses of one prompt, and where their numbers [responses, N] are awaited."""

    example: Example
    cost: int
    found: asyncio.Future


class Service:
    """A scorer behind a queue. `stopping`: it takes no more work; `error`: why it never could.

    max_tokens: of a conversation, 0 for the model's positions. max_queue: how many items may be
    admitted and not answered yet. rows: of a large batch on each device.
    """

    def __init__(self, scorer, name: str, *, max_tokens: int = 0, max_queue: int = 4096, rows=None):
        self.scorer, self.name, self.max_queue = scorer, name, max_queue
        positions, self.mesh = scorer.model.config.max_seq_len, scorer.model.mesh
        self.longest = min(max_tokens or positions, positions)
        rows = rows or (1 if jax.default_backend() == "cpu" else ROWS)
        self.shapes = shapes(self.longest, sharding.row_devices(self.mesh), rows)
        self.programs: dict[tuple[int, int], Callable] = {}
        self.ready = self.stopping = self.closed = False
        self.error: Exception | None = None
        self.admitted = 0
        self._pace = 0.0  # Seconds for an item, lately.
        self._queue: list[Waiting] = []
        self._came = asyncio.Event()
        # One each, since tokenizers are not made for several threads.
        self._reader, self._computer = (concurrent.futures.ThreadPoolExecutor(1) for _ in range(2))
        self._measure()

    def _measure(self) -> None:
        """Make what Prometheus reads."""
        self.registry = of = prometheus.CollectorRegistry()
        self.items = prometheus.Counter("hs2jax_items", "Items answered.", ["outcome"], registry=of)
        self.computed = prometheus.Counter("hs2jax_items_computed", "Items computed.", registry=of)
        what = "Items whose client had left, or that took too long, before they were computed."
        self.dropped = prometheus.Counter("hs2jax_items_dropped", what, registry=of)
        what = "Programs compiled since the server was ready."
        compiled = prometheus.Counter("hs2jax_compiled_after_ready", what, registry=of)
        name, labels = "hs2jax_request_seconds", ["route", "code"]
        self.seconds = prometheus.Histogram(name, "Of requests.", labels, registry=of)
        for name, what, value in (
            ("ready", "1 where requests are taken.", lambda: self.ready),
            ("queue_items", "Items not answered yet.", lambda: self.admitted),
            ("programs", "Shapes that are compiled.", lambda: len(self.programs)),
        ):
            prometheus.Gauge(f"hs2jax_{name}", what, registry=of).set_function(value)

        def count(event: str, *_, **__) -> None:
            compiled.inc(self.ready and event == "/jax/core/compile/backend_compile_duration")

        jax.monitoring.register_event_duration_secs_listener(count)

    # Requests -------------------------------------------------------------------------------------

    async def score(
        self, request: Request, items: list, name: str, *, truncate=False, longest: int = 0
    ) -> list[dict]:
        """Score items, called `name` in errors, in their order: {"index", "reward", "outputs",
        "tokens", "truncated"} of each, or {"index", "error"}. longest: of one, in tokens."""
        if items and not self.ready:
            raise not_now("the server is not ready")
        longest = min(longest or self.longest, self.longest)
        with self._admitted(len(items)):
            work = asyncio.ensure_future(self._score(items, name, truncate, longest))
            gone = asyncio.ensure_future(request.receive())  # Behind the body: a disconnect.
            try:
                first = asyncio.FIRST_COMPLETED
                await asyncio.wait({work, gone}, timeout=ANSWER_SECONDS, return_when=first)
                if not work.done():
                    raise HTTPException(504, f"not answered within {ANSWER_SECONDS:g} s")
                found = work.result()
            finally:
                work.cancel()
                gone.cancel()
        for each in found:
            self.items.labels("failed" if "error" in each else "scored").inc()
        return found

    @contextlib.contextmanager
    def _admitted(self, items: int) -> Iterator[None]:
        """Have places in the queue for as long as the block lasts."""
        if items > self.max_queue:
            what = f"{items} items are more than the queue of {self.max_queue} holds"
            raise HTTPException(413, f"{what}: ask in parts")
        if self.admitted + items > self.max_queue:
            seconds = min(60, max(1, math.ceil(self.admitted * self._pace)))
            raise not_now(f"the queue is full; ask again in {seconds} s", seconds, 429)
        self.admitted += items
        try:
            yield
        finally:
            self.admitted -= items

    async def _score(self, items, name: str, truncate: bool, longest: int) -> list[dict]:
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(self._reader, self._read, items, name, truncate, longest)
        found, parts = await reading
        if self.closed:
            raise not_now("the server stops")
        waiting = [Waiting(x, cost(x), loop.create_future()) for _, x in parts]
        self._queue += waiting
        self._came.set()
        tables = await asyncio.gather(*(x.found for x in waiting), return_exceptions=True)
        return await loop.run_in_executor(self._reader, self._name, found, parts, tables)

    def _read(self, items, name, truncate, longest) -> tuple[list[dict], list]:
        """Make examples of items: what is known of each, and (the items of one, this) of each."""
        found, kept = [], {}
        for i, item in enumerate(items):
            place = f"{name}[{i}]"
            try:
                kept[i] = self._fit(self.scorer.encode(item, place), place, truncate, longest)
                tokens = packing.cost(kept[i].encoded, "shared")
                found.append({"index": i, "tokens": tokens, "truncated": kept[i].cut > 0})
            except (ValueError, RecursionError) as error:
                found.append({"index": i, "error": error_of(400, str(error))})
            except Exception as error:
                log.exception("%s", place)
                found.append({"index": i, "error": error_of(500, faults.told(error))})
        parts, order = [], list(kept)
        for run in share([kept[i].encoded for i in order], self.scorer.model.config.hidden_size):
            some = [order[i] for i in run]
            joined = join([kept[i].encoded for i in some])
            alone = len(some) == 1 or cost(joined) > self.shapes[-1][1]
            parts += [([i], kept[i]) for i in some] if alone else [(some, joined)]
        return found, parts

    def _fit(self, encoded: Encoded, place: str, truncate: bool, longest: int) -> Example:
        tokens = packing.cost(encoded, "shared")
        if tokens <= longest:
            return unrated(encoded.prompt, encoded.responses)
        cut, cuts = None, self.scorer.cuts
        if truncate and cuts:
            bos = self.scorer.model.tokenizer.bos_token_id
            cut = fitted(encoded.prompt, encoded.responses[0], longest, bos)
        if cut is None:
            way_out = '"truncate": true cuts the prompt from the left'
            way_out = f"; {'what is read at its end has more' if truncate else way_out}" * cuts
            what = f"{place}: it has {tokens} tokens, and at most {longest} are read{way_out}"
            raise ValueError(what)
        return cut

    def _name(self, found: list[dict], parts: list, tables: list) -> list[dict]:
        """Put the numbers of examples to what is known of their items."""
        for (run, _), table in zip(parts, tables, strict=True):
            for place, i in enumerate(run):
                if isinstance(table, HTTPException):
                    error = error_of(table.status_code, table.detail)
                elif isinstance(table, BaseException):
                    error = error_of(500, faults.told(table))
                elif not np.isfinite(table[place]).all():
                    what = "the model's outputs of it are not finite numbers"
                    error = error_of(422, what, "not_finite")
                else:
                    found[i] |= self.scorer.score(table[place])
                    continue
                found[i] = {"index": i, "error": error}
        return found

    # Computation ----------------------------------------------------------------------------------

    async def run(self, told: Callable[[], None] = lambda: None) -> None:
        """Compile, and compute what waits from then on. told: is called when it is ready, or has
        failed with `error`."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._computer, self._compile)
            self.ready = not self.stopping
        except Exception as error:
            self.error = error
        told()
        while self.error is None:
            await self._came.wait()
            self._came.clear()
            while placed := self._take():
                shape, rows = placed
                begun, taken = time.perf_counter(), [x for row in rows for x in row]
                computing = loop.run_in_executor(self._computer, self._compute, shape, rows)
                (tables,) = await asyncio.gather(computing, return_exceptions=True)
                failed = isinstance(tables, BaseException)
                for each, table in zip(taken, repeat(tables) if failed else tables, strict=False):
                    if not each.found.done():
                        (each.found.set_exception if failed else each.found.set_result)(table)
                if not failed:
                    count = sum(map(len, tables))
                    self.computed.inc(count)
                    pace = (time.perf_counter() - begun) / count
                    self._pace = 0.8 * (self._pace or pace) + 0.2 * pace

    def close(self) -> None:
        """Answer all that waits that the server stops, and take no more."""
        self.closed = True
        for each in self._queue:
            if not each.found.done():
                each.found.set_exception(not_now("the server stops"))
        self._queue.clear()

    def _compile(self) -> None:
        """Compile a program for each shape, and run it once."""
        for number, shape in enumerate(self.shapes, 1):
            place = f"program {number} of {len(self.shapes)}"
            log.info("compiling %s, for %d x %d tokens", place, *shape)
            batch, params = self._lay([], shape), self.scorer.params
            with sharding.within(self.mesh):
                program = jax.jit(self.scorer.forward).lower(params, batch).compile()
            jax.block_until_ready(program(params, batch))
            self.programs[shape] = program

    def _take(self) -> tuple[tuple[int, int], list[list[Waiting]]] | None:
        """Take what fits, in order, into the largest shape that the first may lie in, and lay it
        into rows of the smallest shape that holds all of it; None where nothing waits."""
        waiting = [x for x in self._queue if not x.found.done()]
        left = [x for x in self._queue if x.found.done()]
        self.dropped.inc(sum(len(x.example.encoded.responses) for x in left))
        if not waiting:
            self._queue = []
            return None
        best = largest(self.shapes, waiting[0].cost)
        rows = in_rows(waiting, best)
        taken = sum(map(len, rows))
        self._queue = waiting[taken:]
        for shape in self.shapes:
            if shape[1] <= best[1] and math.prod(shape) < math.prod(best):
                fewer = in_rows(waiting[:taken], shape)
                if sum(map(len, fewer)) == taken:
                    return shape, fewer
        return best, rows

    def _compute(self, shape: tuple[int, int], rows: list[list[Waiting]]) -> list[np.ndarray]:
        """Compute the numbers [responses, N] of each, row by row."""
        examples = [[each.example for each in row] for row in rows]
        batch = self._lay(examples, shape)
        table = sharding.to_host(self.programs[shape](self.scorer.params, batch))
        found = []
        for row, numbers in zip(examples, table, strict=True):
            ends = np.cumsum([len(each.encoded.responses) for each in row], dtype=int)
            found += np.split(numbers, ends)[:-1]
        return found

    def _lay(self, rows: list[list[Example]], shape: tuple[int, int]) -> dict:
        """Lay examples down in a batch of just this shape."""
        count, length = shape
        sizes = Shape(length, responses=length // FLOOR, pairs=1, attributes=0)
        return sharding.place_rows(packing.lay(rows or [[]] * count, sizes, "shared"), self.mesh)


def not_now(what: str, seconds: int = 1, code: int = 503) -> HTTPException:
    """Make the error of work that is not taken, and may be asked for again after some seconds."""
    return HTTPException(code, what, {"Retry-After": str(seconds)})


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


def in_rows(waiting: Sequence[Waiting], shape: tuple[int, int]) -> list[list[Waiting]]:
    """Lay what waits into the rows of a shape, each in the first with room, until one has none."""
    rows: list[list[Waiting]] = [[] for _ in range(shape[0])]
    for each in waiting:
        fits = (row for row in rows if each.cost + sum(x.cost for x in row) <= shape[1])
        if (row := next(fits, None)) is None:
            break
        row.append(each)
    return rows
