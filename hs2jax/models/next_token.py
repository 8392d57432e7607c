"""Drawing the next token from logits: greedy, or by chance, of all tokens or the likely ones.

Nothing is sorted. A token is drawn of all; it is one of the likely ones (top-p) by how much
probability lies above it, one sum. If it is not, the next is drawn of what lies above, which is a
fair draw of the likely ones.

Axis letters: B rows, V vocabulary, E and C the vocabulary as a table of E by C, token e C + c, so
that sums over it run along E and many columns at a time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

COLUMNS = 256


class Choice(NamedTuple):
    """Settings that a program is compiled for. greedy: the likeliest token. top_k: of so many
    likeliest, 0 for all. nucleus: of the likeliest that have top_p of the probability together.
    tempered: log-probabilities are those at the temperature, which must be above 0."""

    greedy: bool = False
    top_k: int = 0
    nucleus: bool = False
    tempered: bool = False


def draw(keys, logits, choice: Choice, temperature, top_p):
    """(tokens int32 [B], their log-probabilities f32 [B] under softmax(logits), or, tempered,
    softmax(logits / temperature)).

    keys: PRNG keys [B], one for each row, so that its token does not depend on its neighbours.
    logits f32 [B, V]. temperature, top_p: numbers; of the choices those that it names. As in
    `transformers`: temperature, then top-k (all that are as likely as the k-th stay), then top-p
    (of equally likely ones those with higher ids stay; the likeliest always does).
    """
    highest = jnp.max(logits, axis=-1, keepdims=True)
    if choice.greedy:
        # Not argmax, which is many times slower on CPU.
        ids = jnp.arange(logits.shape[1], dtype=jnp.int32)
        tokens = jnp.min(jnp.where(logits == highest, ids, logits.shape[1] - 1), axis=-1)
    else:
        weights = jnp.exp((logits - highest) / temperature)
        if choice.top_k:
            weights = jnp.where(among_highest(logits, choice.top_k), weights, 0)
        tokens = _draw(keys, _table(weights), top_p if choice.nucleus else None)
    scale = temperature if choice.tempered else 1.0
    own = (jnp.take_along_axis(logits, tokens[:, None], axis=1) - highest)[:, 0] / scale
    total = _total(_table(jnp.exp((logits - highest) / scale)))
    return tokens, own - jnp.log(total)


def among_highest(logits, count: int):
    """Bool [B, V]: those not below the count-th highest of their row. Found by halving the numbers
    between which that one is: `jax.lax.top_k` takes ten times as long on CPU."""
    count = min(count, logits.shape[1])
    bits = jax.lax.bitcast_convert_type(logits, jnp.int32)
    order = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # Integers in the same order.

    def halve(_, between):
        low, high = between  # So many are not below `low`, fewer are not below `high`.
        middle = (low & high) + ((low ^ high) >> 1)  # Their mean, without overflow.
        many = jnp.sum(order >= middle[:, None], axis=1) >= count
        return jnp.where(many, middle, low), jnp.where(many, high, middle)

    ends = jnp.iinfo(jnp.int32)
    start = (jnp.full(len(logits), end, jnp.int32) for end in (ends.min, ends.max))
    low, _ = jax.lax.fori_loop(0, 32, halve, tuple(start))
    return order >= low[:, None]


def _table(weights):
    """[B, V] as [B, E, C], with zeros where V does not fill it."""
    B, V = weights.shape
    weights = jnp.pad(weights, ((0, 0), (0, -V % COLUMNS)))
    return weights.reshape(B, -1, COLUMNS)


def _total(weights):
    """The sums [B] of tables [B, E, C]: first along E, which XLA does many columns at a time."""
    return jnp.sum(jnp.sum(weights, axis=1), axis=1)


def _draw(keys, weights, top_p):
    """Tokens [B] in proportion to weights [B, E, C]; with top_p of the likeliest of them."""
    if top_p is None:
        return _by_weight(jax.vmap(jax.random.uniform)(keys), weights)
    B, enough = len(weights), top_p * _total(weights)

    def again(state):
        round, tokens, least, settled = state
        rest = jnp.where(above(weights, least, tokens), weights, 0)
        chance = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, round)))(keys)
        tokens = jnp.where(settled, tokens, _by_weight(chance, rest))
        least = jnp.take_along_axis(weights.reshape(B, -1), tokens[:, None], axis=1)[:, 0]
        over = _total(jnp.where(above(weights, least, tokens), weights, 0))
        return round + 1, tokens, least, settled | ~(over >= enough)  # NaN settles, too.

    none = jnp.full(B, -1, jnp.int32), jnp.full(B, -1.0), jnp.zeros(B, bool)
    return jax.lax.while_loop(lambda state: ~jnp.all(state[-1]), again, (0, *none))[1]


def above(weights, least, tokens):
    """Bool [B, E, C]: weightier than `least` [B], or as weighty and of a higher id than tokens."""
    ids = jnp.arange(weights[0].size, dtype=jnp.int32).reshape(weights.shape[1:])
    least, tokens = least[:, None, None], tokens[:, None, None]
    return (weights > least) | ((weights == least) & (ids > tokens))


def _by_weight(chance, weights):
    """Tokens [B], each the one at the part `chance` [B] (0 to below 1) of the weights' sum, as they
    lie column by column."""
    of_columns = jnp.sum(weights, axis=1)
    at = chance * jnp.sum(of_columns, axis=1)
    column, before = _reach(of_columns, at)
    within = jnp.take_along_axis(weights, column[:, None, None], axis=2)[:, :, 0]
    return _reach(within, jnp.maximum(at - before, 0))[0] * COLUMNS + column


def _reach(weights, at):
    """The index [B] of weights [B, X] at which their running sum passes `at`, and the sum before
    it: always of one that weighs something, although the sums are rounded, each by itself. Where
    they pass it nowhere, the last such."""
    sums, ids = jnp.cumsum(weights, axis=1), jnp.arange(weights.shape[1], dtype=jnp.int32)
    last = jnp.max(jnp.where(weights > 0, ids, 0), axis=1)
    passing = (sums > at[:, None]) & (weights > 0)
    index = jnp.minimum(jnp.min(jnp.where(passing, ids, ids[-1]), axis=1), last)
    before = jnp.take_along_axis(sums - weights, index[:, None], axis=1)[:, 0]
    return index, before
