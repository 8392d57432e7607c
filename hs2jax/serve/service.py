"""Items in, scores out: read by one thread, computed by another, each with its own error."""

import asyncio
import concurrent.futures
import logging

import numpy as np
import prometheus_client as prometheus
from fastapi import HTTPException, Request
from prometheus_client import metrics_core

from hs2jax import faults
from hs2jax.data import packing
from hs2jax.data.chat import Encoded
from hs2jax.data.conversations import fitted, join, share, unrated
from hs2jax.data.packing import Example
from hs2jax.serve import batching
from hs2jax.serve.batching import Batcher, NotTakenError
from hs2jax.serve.requests import error_of

log = logging.getLogger(__name__)

ANSWER_SECONDS = 300.0  # After which a request is answered that it took too long.


class Service:
    """A scorer behind a queue. `stopping`: it takes no more work."""

    def __init__(self, scorer, name: str, *, max_tokens: int = 0, max_queue: int = 4096, rows=None):
        self.scorer, self.name, self.stopping = scorer, name, False
        positions = scorer.model.config.max_seq_len
        self.longest = min(max_tokens or positions, positions)
        options = {"mesh": scorer.model.mesh, "max_queue": max_queue, "rows": rows}
        self.batcher = Batcher(scorer.forward, scorer.params, self.longest, **options)
        # One, since tokenizers are not made for several threads.
        self.reader = concurrent.futures.ThreadPoolExecutor(1)
        self.registry = prometheus.CollectorRegistry()
        self.items = prometheus.Counter(
            "hs2jax_items", "Items answered.", ["outcome"], registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            "hs2jax_request_seconds", "Of requests.", ["route", "code"], registry=self.registry
        )
        self.registry.register(self)

    @property
    def ready(self) -> bool:
        return self.batcher.ready.is_set() and not self.stopping

    def collect(self):
        """Yield what the queue counts, for Prometheus."""
        gauge, counter = metrics_core.GaugeMetricFamily, metrics_core.CounterMetricFamily
        batcher, after = self.batcher, 0
        if batcher.ready.is_set():
            after = batching.COMPILED["programs"] - batcher.compiled_before
        yield gauge("hs2jax_ready", "1 where requests are taken.", self.ready)
        yield gauge("hs2jax_queue_items", "Items not answered yet.", batcher.admitted)
        yield counter("hs2jax_items_computed", "Items computed.", batcher.computed)
        what = "Items whose client had left, or that took too long, before they were computed."
        yield counter("hs2jax_items_dropped", what, batcher.dropped)
        yield gauge("hs2jax_programs", "Shapes that are compiled.", len(batcher.programs))
        yield counter("hs2jax_compiled_after_ready", "Programs compiled since then.", after)

    async def score(
        self, request: Request, items: list, name: str, *, truncate=False, longest: int = 0
    ) -> list[dict]:
        """Score items, called `name` in errors, in their order: {"index", "reward", "outputs",
        "tokens", "truncated"} of each, or {"index", "error"}. longest: of one, in tokens."""
        if items and not self.ready:
            raise NotTakenError(503, "the server is not ready", 1)
        longest = min(longest or self.longest, self.longest)
        with self.batcher.admit(len(items)):
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

    async def _score(self, items, name: str, truncate: bool, longest: int) -> list[dict]:
        reading = self.reader.submit(self._read, items, name, truncate, longest)
        found, runs, examples = await asyncio.wrap_future(reading)
        waiting = map(asyncio.wrap_future, self.batcher.put(examples))
        tables = await asyncio.gather(*waiting, return_exceptions=True)
        naming = self.reader.submit(self._name, found, runs, tables)
        return await asyncio.wrap_future(naming)

    def _read(self, items, name, truncate, longest) -> tuple[list[dict], list[list[int]], list]:
        """Make examples of items: (what is known of each, the items of each example, these)."""
        found, kept = [], {}
        for i, item in enumerate(items):
            place = f"{name}[{i}]"
            try:
                kept[i] = self._fit(self.scorer.encode(item, place), place, truncate, longest)
                tokens = packing.cost(kept[i].encoded, "shared")
                found.append({"index": i, "tokens": tokens, "truncated": kept[i].cut > 0})
            except ValueError as error:
                found.append({"index": i, "error": error_of(400, str(error))})
            except Exception as error:
                log.exception("%s", place)
                found.append({"index": i, "error": error_of(500, faults.told(error))})
        runs, examples, order = [], [], list(kept)
        for run in share([kept[i].encoded for i in order], self.scorer.model.config.hidden_size):
            some = [order[i] for i in run]
            joined = join([kept[i].encoded for i in some])
            alone = len(some) == 1 or batching.cost(joined) > self.batcher.longest
            runs += [[i] for i in some] if alone else [some]
            examples += [kept[i] for i in some] if alone else [joined]
        return found, runs, examples

    def _fit(self, encoded: Encoded, place: str, truncate: bool, longest: int) -> Example:
        tokens = packing.cost(encoded, "shared")
        if tokens <= longest:
            return unrated(encoded.prompt, encoded.responses)
        cut = None
        if truncate and self.scorer.cuts:
            bos = self.scorer.model.tokenizer.bos_token_id
            cut = fitted(encoded.prompt, encoded.responses[0], longest, bos)
        if cut is None:
            way_out = '; "truncate": true cuts the prompt from the left' * self.scorer.cuts
            if truncate:
                way_out = "; what is read at its end has more" * self.scorer.cuts
            what = f"{place}: it has {tokens} tokens, and at most {longest} are read{way_out}"
            raise ValueError(what)
        return cut

    def _name(self, found: list[dict], runs: list[list[int]], tables: list) -> list[dict]:
        """Put the numbers of examples to what is known of their items."""
        for run, table in zip(runs, tables, strict=True):
            if isinstance(table, Exception):
                known = isinstance(table, NotTakenError)
                error = error_of(
                    *((table.code, str(table)) if known else (500, faults.told(table)))
                )
                for i in run:
                    found[i] = {"index": i, "error": error}
                continue
            for i, numbers in zip(run, table, strict=True):
                if not np.isfinite(numbers).all():
                    what = "the model's outputs of it are not finite numbers"
                    found[i] = {"index": i, "error": error_of(422, what, "not_finite")}
                else:
                    found[i] |= self.scorer.score(numbers)
        return found
