"""Sampling from a decoder, on the parameters and the mesh that it is trained on.

A prompt is computed once. Its keys and values lie once for all of its samples where each prompt has
as many and none has to wait, else once in each row; what is sampled lies in a cache of its row.
Rows are computed together, a token of each at a time, in a loop on the device that comes back to
the host now and then: after STEPS tokens, so that the cache can grow, or as soon as an eighth of
the rows have ended while samples wait, so that these take their places.

So which rows there are, where a sample lies and when it began changes nothing of what it computes,
and its random numbers come from its own key.

Axis letters: B rows, P prompts, S positions in the cache, K key/value heads, H head size,
L layers, V vocabulary, W tokens of the longest end.
"""

import collections
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec

from hs2jax.models import heads, sharding
from hs2jax.models.attention import POSITIONS
from hs2jax.models.cache import (
    bucket,
    cache_shapes,
    copy_prompts,
    decode,
    lengthen,
    prefill,
    unstack,
)
from hs2jax.models.config import Config
from hs2jax.models.decoder import exact_products
from hs2jax.models.next_token import Choice, draw

TOKENS = 4096  # Of prompts computed together, at most: attention needs memory for each pair.
STEPS = 64  # Tokens of each row between two looks of the host, at most.
ROWS = 32  # Of each device; more would need more memory for their caches.


class SampleRequest(NamedTuple):
    """A sample to be taken. prompt: which one. key: its own random key, uint32 [2]. longest: how
    many new tokens it may have."""

    prompt: int
    key: np.ndarray
    longest: int


class Completion(NamedTuple):
    """A sample: new tokens int32 [tokens], their log-probabilities f32 [tokens] (see `Drawing`);
    whether it ended by itself, then with one of the ends; and what `LanguageModel` reads them as,
    without that end."""

    tokens: np.ndarray
    log_probabilities: np.ndarray
    finished: bool
    text: str = ""


class Drawing(NamedTuple):
    """The way tokens are drawn, see `next_token.draw`, and ends of samples: sequences of ids, one
    or more. Log-probabilities are the model's own, whatever temperature, top-k and top-p tokens
    were drawn with, or `tempered`: at that temperature."""

    ends: tuple[tuple[int, ...], ...]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    tempered: bool = False


class Rows(NamedTuple):
    """The state of each row. token [B]: the last one, at position [B], not in the cache yet.
    begun [B]: the position that the row's own cache begins with. count [B]: new tokens so far;
    longest [B]: as many as may be. live bool [B]. key uint32 [B, 2]. tail [B, W]: the last W
    tokens, -1 before the first new one."""

    token: jax.Array
    position: jax.Array
    begun: jax.Array
    count: jax.Array
    longest: jax.Array
    live: jax.Array
    key: jax.Array
    tail: jax.Array


def keys(seed: int, prompts: Sequence[int], samples: Sequence[int]) -> np.ndarray:
    """Random keys uint32 [requests, 2] of samples by their numbers and their prompts' numbers."""
    made = _keys(seed, np.asarray(prompts, np.int32), np.asarray(samples, np.int32))
    return np.asarray(jax.random.key_data(made))


@jax.jit
def _keys(seed, prompts, samples):
    fold = jax.random.fold_in
    start = jax.random.key(seed, impl="threefry2x32")
    return jax.vmap(lambda prompt, sample: fold(fold(start, prompt), sample))(prompts, samples)


def sample(
    params,
    config: Config,
    prompts: Sequence[np.ndarray],
    requests: Sequence[SampleRequest],
    drawing: Drawing,
    *,
    rows: int | None = None,
    mesh=None,
    dtype=jnp.float32,
) -> list[Completion]:
    """Draw a completion for each request, in their order.

    params: a language model's. prompts: token ids, at least one each; requests of one prompt should
    be neighbours. rows: samples computed at a time, None for ROWS on each device among which rows
    are divided.
    """
    if not requests:
        return []
    rows = rows or ROWS * sharding.row_devices(mesh)
    B = sharding.fit_rows(min(rows, len(requests)), mesh)
    batch = _Batch(params, config, prompts, requests, drawing, B, mesh, dtype)
    # Those with long prompts last, since all have room for the longest; those of one together.
    by_length = [(len(prompts[one.prompt]), one.prompt) for one in requests]
    waiting = collections.deque(sorted(range(len(requests)), key=by_length.__getitem__))
    inside: dict[int, int] = {}  # Which request is in each row.
    nothing = Completion(np.zeros(0, np.int32), np.zeros(0, np.float32), False)
    completions = [nothing] * len(requests)
    while waiting or inside:
        free = [row for row in range(B) if row not in inside]
        entering = {row: waiting.popleft() for row in free[: len(waiting)]}
        if entering:
            with sharding.within(mesh):
                batch.enter({row: requests[request] for row, request in entering.items()})
            inside |= entering
        with sharding.within(mesh):
            found, likely, ended = batch.run(patience=max(1, B // 8) if waiting else B)
        for row, request in sorted(inside.items()):
            new, before = found[row] >= 0, completions[request]
            completions[request] = Completion(
                np.concatenate([before.tokens, found[row][new]]),
                np.concatenate([before.log_probabilities, likely[row][new]]),
                bool(ended[row]),
            )
            if not batch.rows.live[row]:
                del inside[row]
    return completions


class _Batch:
    """The rows, with their cache on the device, and the prompts whose samples wait."""

    def __init__(self, params, config, prompts, requests, drawing, B, mesh, dtype):
        self.params, self.config, self.dtype = params, config, dtype
        self.prompts, self.drawing, self.mesh = prompts, drawing, mesh
        self.top, self.layers = unstack(params, config.num_layers, dtype)
        W = max(map(len, drawing.ends))
        self.rows = no_rows(B, W)
        self.uses = collections.Counter(request.prompt for request in requests)
        self.together = together(self.uses, B, mesh)
        self.of_prompts, self.cache = None, None
        # Of a prompt: keys and values, with those of other prompts, and which of them are its own.
        self.computed: dict[int, tuple[Any, int]] = {}

    def enter(self, entering: Mapping[int, SampleRequest]) -> None:
        """Put requests into rows."""
        new = dict.fromkeys(request.prompt for request in entering.values())
        self._compute([prompt for prompt in new if prompt not in self.computed])
        for row, request in entering.items():
            prompt = self.prompts[request.prompt]
            at = len(prompt) - 1
            state = (prompt[-1], at, at, 0, request.longest, True, request.key, -1)
            for of_rows, value in zip(self.rows, state, strict=True):
                of_rows[row] = value
        P = len(self.rows.live) // self.together
        sources = {id(self.computed[p][0]): self.computed[p][0] for p in new}.values()
        self.of_prompts = self._room(self.of_prompts, P, max(x["v"].shape[3] for x in sources))
        for source in sources:
            indices, targets = np.zeros(P, np.int32), np.full(P, P, np.int32)
            for row, request in entering.items():
                computed, index = self.computed[request.prompt]
                if computed is source:
                    place = row // self.together
                    indices[place], targets[place] = index, place
            self.of_prompts = [
                copy_prompts(layer, source, i, indices, targets)
                for i, layer in enumerate(self.of_prompts)
            ]
        self.uses.subtract(request.prompt for request in entering.values())
        for prompt in new:
            if not self.uses[prompt]:
                del self.computed[prompt]

    def _compute(self, numbers: Sequence[int]) -> None:
        """Compute keys and values of prompts by their numbers, those of like length together."""
        by_length = collections.defaultdict(list)
        for number in numbers:
            by_length[bucket(len(self.prompts[number]))].append(number)
        for S, alike in by_length.items():
            most = max(1, TOKENS // S)
            for some in (alike[i : i + most] for i in range(0, len(alike), most)):
                P = sharding.fit_rows(1 << (len(some) - 1).bit_length(), self.mesh)
                tokens = np.zeros((P, S), np.int32)
                for i, number in enumerate(some):
                    tokens[i, : len(self.prompts[number])] = self.prompts[number]
                placed = sharding.place_rows(tokens, self.mesh)
                computed = prefill(self.params, placed, self.config, self.dtype)
                self.computed |= {number: (computed, i) for i, number in enumerate(some)}

    def _room(self, cache, B: int, S: int):
        """The cache with room for S tokens of each of B rows."""
        if cache is None:
            shapes = cache_shapes(self.config, B, S, self.mesh, self.dtype)
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), shapes)
        return lengthen(cache, S) if cache[0]["v"].shape[POSITIONS["v"]] < S else cache

    def run(self, patience: int) -> list[np.ndarray]:
        """New tokens for all live rows: STEPS of them, or fewer where `patience` rows are free.

        Returns tokens int32 [B, STEPS], -1 where a row was not live; their log-probabilities; which
        rows came to an end.
        """
        live, most = self.rows.live, np.minimum(self.rows.count + STEPS, self.rows.longest)
        self.cache = self._room(self.cache, len(live), bucket(int(most[live].max())))
        ends, temperature, top_p, top_k, tempered = self.drawing
        rows, self.cache, *found = loop(
            *(self.top, self.layers, sharding.place_rows(self.rows, self.mesh)),
            *(self.of_prompts, self.cache),
            *(patience, temperature, top_p),
            config=self.config,
            choice=Choice(temperature == 0, top_k, top_p < 1, tempered),
            ends=ends,
            dtype=self.dtype,
        )
        # Copies, since `enter` writes to them.
        self.rows = jax.tree.map(lambda x: np.array(sharding.to_host(x)), rows)
        return list(map(sharding.to_host, found))


def together(uses: Mapping[int, int], B: int, mesh) -> int:
    """Count the neighbouring rows that share a prompt's keys and values: all its samples, where all
    prompts have as many, which are all in the B rows; else 1. uses: samples of each prompt."""
    n, P = max(uses.values()), len(uses)
    alike = set(uses.values()) == {n} and n * P == B and sharding.fit_rows(P, mesh) == P
    return n if alike else 1


def no_rows(B: int, W: int = 1) -> Rows:
    """B rows without a sample, as arrays of numpy."""
    numbers = (np.zeros(B, np.int32) for _ in range(5))
    return Rows(
        *numbers, np.zeros(B, bool), np.zeros((B, 2), np.uint32), np.full((B, W), -1, np.int32)
    )


def shapes(params, config: Config, prompts, own, *, mesh, dtype):
    """Make what `loop` is given, (top, layers, rows, prompts, cache), as shapes in their places.

    params: shapes in theirs. prompts, own: (rows, tokens for which there is room)."""

    def placed(x, whole):  # As XLA leaves them: a layer as its stack, less the stack's axis.
        spec = whole.sharding.spec[len(whole.shape) - len(x.shape) :]
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, Spec(*spec)))

    made = jax.eval_shape(lambda params: unstack(params, config.num_layers, dtype), params)
    stack, top = params["layers"], {name: x for name, x in params.items() if name != "layers"}
    layers = [jax.tree.map(placed, layer, stack) for layer in made[1]]
    rows = sharding.row_shapes(no_rows(own[0]), mesh)
    caches = (cache_shapes(config, *each, mesh, dtype) for each in (prompts, own))
    return jax.tree.map(placed, made[0], top), layers, rows, *caches


@functools.partial(
    jax.jit,
    static_argnames=("config", "choice", "ends", "dtype"),
    donate_argnames="cache",
)
def loop(
    params,
    layers,
    rows,
    prompts,
    cache,
    patience,
    temperature,
    top_p,
    *,
    config,
    choice,
    ends,
    dtype,
):
    """The loop on the device: (rows, cache, tokens and log-probabilities [B, STEPS], ended [B])."""
    B = len(rows.token)

    def goes_on(state):
        step, rows = state[:2]
        return (step < STEPS) & (jnp.sum(~rows.live) < patience) & jnp.any(rows.live)

    def one(state):
        step, rows, cache, tokens, scores, ended = state
        where = rows.token, rows.begun, rows.position
        hidden, cache = decode(config, params, layers, prompts, cache, *where, dtype)
        logits = heads.logits(params, hidden, config)
        own = jax.vmap(jax.random.fold_in)(
            jax.random.wrap_key_data(rows.key, impl="threefry2x32"), rows.count
        )
        token, score = draw(own, logits, choice, temperature, top_p)
        tail = jnp.concatenate([rows.tail[:, 1:], token[:, None]], axis=1)
        endings = (jnp.all(tail[:, -len(end) :] == jnp.asarray(end), axis=1) for end in ends)
        ends_here = functools.reduce(jnp.logical_or, endings) & rows.live
        tokens = tokens.at[:, step].set(jnp.where(rows.live, token, -1))
        scores = scores.at[:, step].set(score)
        live = rows.live & ~ends_here & (rows.count + 1 < rows.longest)
        count, position = rows.count + rows.live, rows.position + live
        rows = rows._replace(token=token, position=position, count=count, live=live, tail=tail)
        return step + 1, rows, cache, tokens, scores, ended | ends_here

    start = jnp.full((B, STEPS), -1, jnp.int32), jnp.zeros((B, STEPS)), jnp.zeros(B, bool)
    with exact_products(dtype):
        _, *state = jax.lax.while_loop(goes_on, one, (0, rows, cache, *start))
    return state
