"""Items in, scores out: conversations of many askers, read by one thread and computed by another,
together, in a few shapes that are compiled and timed before the first of them comes.

Axis letters: B rows, T tokens of a row, R response slots, N numbers of a response.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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
from hs2jax.models.sampler import bucket
from hs2jax.serve.requests import error_of

log = logging.getLogger(__name__)

ANSWER_SECONDS = 300.0  # After which a request is answered that it took too long.
PACKED, SHORT = 1024, 256  # Tokens of rows of which several are computed together.
FLOOR = 16  # Tokens that a response counts at least, which bounds the slots of a row.
ROWS = 8  # Of each accelerator, where much waits; on CPU more than one brings nothing.
READ = ("tokens", "segment_ids", "branch_ids", "positions", "end_positions")  # Of a batch.


@dataclasses.dataclass(eq=False)
class Waiting:
    """Responses of one prompt, by number the `items` of a request, and where the scores of each are
    awaited."""

    items: Sequence[int]
    example: Example
    found: asyncio.Future
    cost: int = dataclasses.field(init=False)  # Tokens of a row, so that its slots suffice, too.

    def __post_init__(self):
        encoded = self.example.encoded
        self.cost = max(packing.cost(encoded, "shared"), FLOOR * len(encoded.responses))


class Service:
    """A scorer behind a queue. `stopping`: it takes no more work; `error`: why it never could.

    name: of the model, or the folder that it is in. max_tokens: of a conversation, 0 for the
    model's positions. max_queue: how many items may be admitted and not answered yet. rows: of a
    large batch on each device.
    """

    def __init__(self, scorer, name: str, *, max_tokens: int = 0, max_queue: int = 4096, rows=None):
        self.scorer, self.max_queue = scorer, max_queue
        self.name, self.names = Path(name).name, (Path(name).name, name, "", None)
        positions, self.mesh = scorer.model.config.max_seq_len, scorer.model.mesh
        self.longest = min(max_tokens or positions, positions)
        rows = rows or (1 if jax.default_backend() == "cpu" else ROWS)
        self.shapes = shapes(self.longest, sharding.row_devices(self.mesh), rows)
        # Of each shape that is compiled, and the seconds that it takes.
        self.programs: dict[tuple[int, int], Callable] = {}
        self.times: dict[tuple[int, int], float] = {}
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
        found, parts = await loop.run_in_executor(
            self._reader, self._read, items, name, truncate, longest
        )
        if self.closed:
            raise not_now("the server stops")
        waiting = [Waiting(*part, loop.create_future()) for part in parts]
        self._queue += waiting
        self._came.set()
        try:
            for each in waiting:
                try:
                    scores = await each.found
                except HTTPException as error:
                    scores = itertools.repeat({"error": error_of(error.status_code, error.detail)})
                except Exception as error:
                    scores = itertools.repeat({"error": error_of(500, faults.told(error))})
                for i, score in zip(each.items, scores, strict=False):
                    found[i] = {"index": i} | ({} if "error" in score else found[i]) | score
        finally:
            for each in waiting:
                each.found.cancel()  # Where nobody waits any more, nothing is computed.
        return found

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
        parts, order, longest_row = [], list(kept), self.shapes[-1][1]
        for run in share([kept[i].encoded for i in order], self.scorer.model.config.hidden_size):
            some = [order[i] for i in run]
            joined = join([kept[i].encoded for i in some]) if len(some) > 1 else None
            if joined and Waiting(some, joined, None).cost <= longest_row:
                parts.append((some, joined))
            else:
                parts += [([i], kept[i]) for i in some]
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
                try:
                    found = await loop.run_in_executor(self._computer, self._compute, shape, rows)
                except Exception as error:
                    found = itertools.repeat(error)
                else:
                    count = sum(map(len, found))
                    self.computed.inc(count)
                    self._pace = (time.perf_counter() - begun) / count
                for each, scores in zip(taken, found, strict=False):
                    if not each.found.done():
                        failed = isinstance(scores, Exception)
                        (each.found.set_exception if failed else each.found.set_result)(scores)

    def close(self) -> None:
        """Answer all that waits that the server stops, and take no more."""
        self.closed = True
        for each in self._queue:
            if not each.found.done():
                each.found.set_exception(not_now("the server stops"))
        self._queue.clear()

    def _compile(self) -> None:
        """Compile a program for each shape, and see how long it takes."""
        for number, shape in enumerate(self.shapes, 1):
            place = f"program {number} of {len(self.shapes)}"
            log.info("compiling %s, for %d x %d tokens", place, *shape)
            with sharding.within(self.mesh):
                program = jax.jit(self.scorer.forward).lower(
                    self.scorer.params, self._lay([], shape)
                )
            self.programs[shape] = program.compile()
            times, until = [], time.perf_counter() + 0.1
            while not times or time.perf_counter() < until:
                begun = time.perf_counter()
                self._compute(shape, [])
                times.append(time.perf_counter() - begun)
            self.times[shape] = min(times)

    def _take(self) -> tuple[tuple[int, int], list[list[Waiting]]] | None:
        """Take what waits, the first of it at least, laid into rows of the shape in which most
        tokens are computed a second; None where nothing waits."""
        waiting = [x for x in self._queue if not x.found.done()]
        left = (x for x in self._queue if x.found.done())
        self.dropped.inc(sum(len(x.items) for x in left))
        self._queue = waiting
        if not waiting:
            return None

        def speed(placed) -> float:
            return sum(x.cost for row in placed[1] for x in row) / self.times[placed[0]]

        fitting = (shape for shape in self.shapes if waiting[0].cost <= shape[1])
        shape, rows = max(((shape, in_rows(waiting, shape)) for shape in fitting), key=speed)
        taken = {id(x) for row in rows for x in row}
        self._queue = [x for x in waiting if id(x) not in taken]
        return shape, rows

    def _compute(self, shape: tuple[int, int], rows: list[list[Waiting]]) -> list[list[dict]]:
        """Score the responses of each, row by row."""
        batch = self._lay([[each.example for each in row] for row in rows], shape)
        table = sharding.to_host(self.programs[shape](self.scorer.params, batch))
        found = []
        for row, numbers in zip(rows, table, strict=False):
            ends = np.cumsum([len(each.items) for each in row], dtype=int)
            found += [list(map(self._named, some)) for some in np.split(numbers, ends)[:-1]]
        return found

    def _named(self, numbers: np.ndarray) -> dict:
        if np.isfinite(numbers).all():
            score = self.scorer.score(numbers)
            if np.isfinite(score["reward"] or 0.0):
                return score
        what = "the model's outputs of it are not finite numbers"
        return {"error": error_of(422, what, "not_finite")}

    def _lay(self, rows: list[list[Example]], shape: tuple[int, int]) -> dict:
        """Lay examples down in a batch of just this shape."""
        count, length = shape
        sizes = Shape(length, responses=length // FLOOR, pairs=1, attributes=0)
        laid = packing.lay(rows or [[]] * count, sizes, "shared")
        return sharding.place_rows({name: laid[name] for name in READ}, self.mesh)


def not_now(what: str, seconds: int = 1, code: int = 503) -> HTTPException:
    """Make the error of work that is not taken, and may be asked for again after some seconds."""
    return HTTPException(code, what, {"Retry-After": str(seconds)})


def shapes(longest: int, devices: int, rows: int) -> list[tuple[int, int]]:
    """List the shapes (B, T) that are compiled, by length: a row of each device, of rising lengths
    until one holds the longest conversation, and several in which many are computed."""
    lengths = [128]
    while lengths[-1] < longest:
        lengths.append(bucket(lengths[-1] + 1) if lengths[-1] < PACKED else 2 * lengths[-1])
    found = {(devices, length) for length in lengths}
    for together in (PACKED, SHORT):
        length = next((x for x in lengths if x >= together), lengths[-1])
        found.add((devices * rows * PACKED // together, length))
    return sorted(found, key=lambda shape: (shape[1], shape[0]))


def in_rows(waiting: Sequence[Waiting], shape: tuple[int, int]) -> list[list[Waiting]]:
    """Lay what waits into the rows of a shape, each into the first that has room, if one has."""
    count, length = shape
    rows, room = [[] for _ in range(count)], [length] * count
    for each in itertools.islice(waiting, count * length // FLOOR):
        row = next((i for i, left in enumerate(room) if each.cost <= left), None)
        if row is not None:
            rows[row].append(each)
            room[row] -= each.cost
    return rows
