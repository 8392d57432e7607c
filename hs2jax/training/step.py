"""One update: gradients of all micro-batches, summed, clipped, applied unless they are not finite.

The state is {"params", "optimizer", "step", "not_finite"}: `params` are those that are trained (see
`training.trainable`), `step` counts batches, `not_finite` how many in a row, up to now, gave a loss
or gradient that is not finite and were skipped.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from hs2jax.inference import forward
from hs2jax.models.sharding import path_name, to_host
from hs2jax.training import trainable


def init_state(params, optimizer: optax.GradientTransformation):
    """Make the state before the first step."""
    return {
        "params": params,
        "optimizer": optimizer.init(params),
        "step": jnp.zeros((), jnp.int32),
        "not_finite": jnp.zeros((), jnp.int32),
    }


def beginning(optimizer: optax.GradientTransformation):
    """Make what makes the first state with parameters of its own, where the given ones stay."""
    return lambda params: init_state(jax.tree.map(jnp.copy, params), optimizer)


def gradients(params, batch, objective, apply):
    """Compute loss, metrics and gradients of a batch [M, B, ...], one micro-batch at a time.

    Each micro-batch's loss is its share of the whole batch's, divided by the whole batch's counts:
    so accumulated gradients equal those of the full batch, however unequal the parts are.
    Micro-batches that are all padding come last and are not run.
    """
    counts = objective.counts(batch)
    # A group that lies in several rows needs its weights before the first gradient.
    if "parts" in batch and hasattr(objective, "response_sums"):
        seen = _gather_response_sums(params, batch, objective, apply)
        batch = batch | {"response_weights": objective.response_weights(seen, batch)}

    def loss_of(params, micro):
        outputs = apply(params, micro)
        with jax.named_scope("loss"):
            return objective.loss(outputs, micro, counts)

    value_and_grad = jax.value_and_grad(loss_of, has_aux=True)

    def part(m):
        return value_and_grad(params, _take(batch, m))

    def add(m, total):
        return jax.tree.map(jnp.add, total, part(m))

    if len(batch["segment_ids"]) == 1:  # A loop would hold a second gradient.
        (loss, metrics), grads = part(0)
        return loss, metrics, grads

    # Gradients are as the parameters are: nothing need be differentiated to know their shapes.
    shapes = jax.eval_shape(lambda: loss_of(params, _take(batch, 0))), params
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (loss, metrics), grads = jax.lax.fori_loop(0, _used(batch), add, nothing)
    return loss, metrics, grads


@jax.jit
def _finite(leaves):
    return jnp.stack([jnp.isfinite(x).all() for x in leaves])


def check_finite(params) -> None:
    """Raise ValueError with the names of parameters that are not finite: a last step may have made
    them so although its gradient was."""
    paths, leaves = zip(*jax.tree.leaves_with_path(params), strict=True)
    finite = to_host(_finite(leaves))
    if bad := [path_name(path) for path, whole in zip(paths, finite, strict=True) if not whole]:
        raise ValueError(
            f"the parameters {', '.join(bad)} are not finite: try a lower "
            "config.optimizer.learning_rate"
        )


def _gather_response_sums(params, batch, objective, apply):
    """Sum up the responses of all micro-batches, [M, B, ...], in an extra forward pass."""

    def part(m):
        micro = _take(batch, m)
        return objective.response_sums(apply(params, micro), micro)

    def put(m, seen):
        return jax.tree.map(lambda x, new: x.at[m].set(new), seen, part(m))

    M = len(batch["segment_ids"])
    nothing = jax.tree.map(lambda x: jnp.zeros((M, *x.shape), x.dtype), jax.eval_shape(part, 0))
    return jax.lax.fori_loop(0, _used(batch), put, nothing)


def _take(batch, m):
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, m, 0, False), batch)


def _used(batch):
    return jnp.sum(jnp.any(batch["segment_ids"] > 0, axis=(1, 2)))


def remat_of(config) -> bool | str:
    """Say by a run's config what of a layer is computed again, as `Decoder` takes it."""
    return config.model.remat and (config.model.keeps or True)


def make(config, objective, optimizer, *, layout, dtype, remat, forward=forward, shardings=None):
    """Make the jitted step: (state, frozen, batch) -> (state, metrics). `frozen` are the parameters
    that are not trained. `forward` gives what the objective takes. The state is donated. Metrics
    are numbers, but "bad_gradients", bool [leaves]: whose gradients are not finite."""

    def step(state, frozen, batch):
        def apply(trained, micro):
            params = trainable.join(trained, frozen)
            return forward(params, micro, config, layout=layout, dtype=dtype, remat=remat)

        loss, metrics, grads = gradients(state["params"], batch, objective, apply)
        squares = jnp.stack([jnp.sum(jnp.square(x)) for x in jax.tree.leaves(grads)])
        norm = jnp.sqrt(jnp.sum(squares))
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        with jax.named_scope("update"):
            updates, after = optimizer.update(grads, state["optimizer"], state["params"])
            params = optax.apply_updates(state["params"], updates)
        keep = functools.partial(jax.tree.map, lambda new, old: jnp.where(finite, new, old))
        state = {
            "params": keep(params, state["params"]),
            "optimizer": keep(after, state["optimizer"]),
            "step": state["step"] + 1,
            "not_finite": jnp.where(finite, 0, state["not_finite"] + 1),
        }
        metrics |= {"loss": loss, "gradient_norm": norm, "not_finite": state["not_finite"]}
        metrics["tokens"] = jnp.sum(batch["segment_ids"] > 0)
        metrics["bad_gradients"] = ~jnp.isfinite(squares)
        return state, metrics

    return jax.jit(step, donate_argnums=0, out_shardings=shardings and (shardings, None))
