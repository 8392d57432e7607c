"""The programs of a run as a plan compiles them: the functions that run them, given shapes in the
places that their arrays have on a slice. A group has a prompt and equally long responses to it.

Axis letters: P prompts, S positions in the cache, B rows.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hs2jax import config_rules, configs, inference
from hs2jax.alignment import rollouts
from hs2jax.data import loader, packing
from hs2jax.data.chat import Encoded
from hs2jax.data.groups import Pair
from hs2jax.data.packing import Example
from hs2jax.evaluation import scores
from hs2jax.judging import judge
from hs2jax.language_model import LanguageModel
from hs2jax.models import heads, sampler, sharding
from hs2jax.models.hf import hub, weights
from hs2jax.models.next_token import Choice
from hs2jax.reward_model import RewardModel
from hs2jax.training import optimizer, step, tasks, trainable

ANSWERS, QUESTIONS = 5, 5  # Of a judge: HelpSteer's scales and criteria.


class Step(NamedTuple):
    """A program, and what it is run for.

    run: jitted; given, settings: its arguments, shapes that say where they are, and its keywords.
    holds: what is on the chips while it runs, by name, its arguments among it. trips: of a loop
    whose bound is no constant. times: it is run so often for `groups` groups. tokens: of these, and
    computed, padding included; rows: filled and computed, 0 where it has none. useful: operations
    of the groups' tokens.
    """

    name: str
    run: Callable
    given: tuple
    settings: Mapping[str, Any]
    holds: Mapping[str, Any]
    groups: int
    useful: int
    tokens: tuple[int, int]
    rows: tuple[int, int] = (0, 0)
    times: int = 1
    trips: int = 1


def steps(config, mesh) -> list[Step]:
    """List the programs of a plan's run, in their order; those of a training, a step's."""
    match config.base.kind:
        case "train_reward_model" | "train_policy":
            return [training(config, mesh)]
        case "evaluate" | "annotate":
            model = model_of(config.base, RewardModel, config.base.model.name, mesh)
            return [scoring("score", config, model)]
        case "judge":
            return [judging(config, mesh)]
        case "sample":
            model = model_of(config.base, LanguageModel, config.base.model.name, mesh)
            return sampling(config, model, sampler.ROWS * sharding.row_devices(mesh), {})
        case _:
            return reinforcing(config, mesh)


# Models and groups --------------------------------------------------------------------------------


def model_of(base, kind: type, name: str, mesh=None, outputs=("reward",), bias: bool = False):
    """A model of a kind with shapes in place of its parameters: nothing is loaded."""
    config, dtype = hub.config_of(name), configs.dtype(base.model.dtype) or jnp.bfloat16
    if kind is LanguageModel:
        params = weights.shapes(config)
    else:
        config = config.without_lm_head()
        head = jax.eval_shape(
            lambda: heads.init_reward(
                jax.random.key(0), config.hidden_size, len(outputs), bias=bias
            )
        )
        params = {"decoder": weights.shapes(config), "head": head}
    if mesh is not None:
        params = sharding.placed_shapes(params, sharding.shardings(params, mesh))
    more = [] if kind is LanguageModel else [tuple(outputs)]
    return kind(config, params, None, *more, mesh=mesh, dtype=dtype, name=name)


def example(config, columns: int = 0, *, policy: bool = False, pairs: bool = True) -> Example:
    """A group of `config.group_tokens` tokens, of which a policy learns the responses, and the
    prompt where nothing else is said of it than its first token."""
    tokens, many = config.group_tokens, config.responses
    prompt = config.prompt_tokens or tokens // 2
    each = (tokens - prompt) // many
    if each < 1:
        raise ValueError(
            f"config.group_tokens is {tokens}: that leaves nothing for {many} responses behind a "
            f"prompt of {prompt} tokens (config.prompt_tokens)"
        )
    ids = [np.ones(tokens - prompt - each * (many - 1), np.int32)]
    ids += [np.ones(each, np.int32)] * (many - 1)
    learned = np.zeros(prompt, bool) if policy else None
    encoded = Encoded(np.ones(prompt, np.int32), tuple(ids), learned, (0,) * many)
    rated = np.ones((many, columns), np.float32), np.ones((many, columns), bool)
    return Example(encoded, *rated, [Pair(0, 1, 1.0)] if pairs and many > 1 else [])


def check_row(config, tokens: int, key: str, length: int) -> None:
    """Raise ValueError where what cannot be parted is longer than a row."""
    if tokens > length:
        raise ValueError(
            f"config.group_tokens is {config.group_tokens}; a row has {length} (config.base.{key})"
        )


def visible(encoded: Encoded) -> int:
    """Count the pairs of a query and a key that it sees in a group."""
    prompt, lengths = len(encoded.prompt), list(map(len, encoded.responses))
    return prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in lengths)


def of_first(batches: loader.Batches) -> dict:
    """Of the first batch: its groups, tokens and rows, as `Step` has them."""
    plan = batches.plan[0]
    computed = -(-len(plan) // batches.micro_batch_size) * batches.micro_batch_size
    encoded = [batches.examples[p.example].encoded for row in plan for p in row]
    costs = [packing.cost(each, "shared") for each in encoded]
    tokens = sum(costs), computed * batches.shape.length
    return {"groups": len(costs), "tokens": tokens, "rows": (len(plan), computed)}


def placed(batch: Mapping[str, np.ndarray], mesh, axis: int = 0) -> dict:
    """A batch as shapes that are split over the mesh along an axis."""
    place = NamedSharding(mesh, P(*(None,) * axis, sharding.ROWS))
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for name, x in batch.items()
    }


# Training -----------------------------------------------------------------------------------------


def training(config, mesh) -> Step:
    """The step of a training, on a batch of groups. DPO's reference takes nothing: what it says of
    the responses is computed before."""
    base, policy = config.base, config.base.kind == "train_policy"
    check_row(config, config.group_tokens, "data.row_length", base.data.row_length)
    kind = LanguageModel if policy else RewardModel
    head = {name: base.model[name] for name in ("outputs", "bias") if name in base.model}
    model = model_of(base, kind, base.model.name, **head)
    task = tasks.make(base, mesh, model)
    group = example(config, len(task.columns), policy=policy)
    rows = {name: base.data[name] for name in ("row_length", "layout")}
    rows |= {"micro_batch_size": sharding.fit_rows(base.micro_batch_size, mesh)}
    batches = loader.plan([group] * base.batch_size, batch_size=base.batch_size, **rows)
    update, state, frozen = step_of(
        base, task.params, task.objective, task.forward, model, mesh, base.data.layout
    )
    batch = placed(batches[0], mesh, axis=1)
    learned = packing.count_learned(group.encoded)
    once = model.config.forward_flops(config.group_tokens, visible(group.encoded), learned)
    # Without a gradient of the weights where these are frozen.
    passes = 2 if base.lora.rank and not base.trainable.paths else 3
    return Step(
        *("update", update, (state, frozen, batch), {}),
        {"parameters": (state["params"], frozen), "optimizer": state["optimizer"], "batch": batch},
        useful=passes * base.batch_size * once,
        trips=batches.micro_batches,
        **of_first(batches),
    )


def step_of(base, params, objective, forward, model, mesh, layout: str):
    """The jitted step of a training, and the shapes of its state and frozen parameters in their
    places."""

    def begin(params):
        return trainable.split(trainable.begin(params, base), base)

    params, frozen = jax.eval_shape(begin, params)
    tx, _ = optimizer.make(base.optimizer, steps=1000)
    state = jax.eval_shape(lambda params: step.init_state(params, tx), params)
    places = sharding.shardings(state, mesh)
    update = step.make(
        model.config,
        objective,
        tx,
        forward=forward,
        layout=layout,
        dtype=model.dtype,
        remat=base.model.remat,
        shardings=places,
    )
    frozen = sharding.placed_shapes(frozen, sharding.shardings(frozen, mesh))
    return update, sharding.placed_shapes(state, places), frozen


# Scoring and judging ------------------------------------------------------------------------------


def forward_pass(name: str, run, params, batches, encoded, config, settings, **more) -> Step:
    """A forward pass over the first batch, a micro-batch at a time. more: of `Step`."""
    mesh = more.pop("mesh")
    micro = placed({name: x[0] for name, x in batches[0].items()}, mesh)
    counted = of_first(batches)
    once = config.forward_flops(counted["tokens"][0] // counted["groups"], visible(encoded))
    given = (params, micro, *more.pop("given", ()))
    holds = {"parameters": params, "batch": micro} | more.pop("holds", {})
    counted["times"] = counted["rows"][1] // batches.micro_batch_size
    useful = counted["groups"] * once
    return Step(name, run, given, settings, holds, useful=useful, **counted, **more)


def scoring(name: str, config, model: RewardModel, **more) -> Step:
    """Make the program by which `evaluation.scores` scores as many groups as make a step."""
    group = example(config, pairs=False)
    tokens = scores.TOKENS * sharding.row_devices(model.mesh)
    batches = inference.plan_rows(
        [group] * max(1, tokens // config.group_tokens), layout="shared", mesh=model.mesh
    )
    settings = {"config": model.config, "layout": "shared", "dtype": model.dtype}
    return forward_pass(
        *(name, inference.predict, model.params, batches, group.encoded, model.config, settings),
        mesh=model.mesh,
        **more,
    )


def judging(config, mesh) -> Step:
    """Make the program that `judging.judge` runs for a batch of items: LAGER's pass, with the
    logits of the answers in every layer. An item is a group whose responses are its questions."""
    model = model_of(config.base, LanguageModel, config.base.model.name, mesh)
    group = example(config, pairs=False)
    length = judge.row_length(config.group_tokens)
    batches = inference.plan_evaluation(
        [group] * inference.BATCH,
        row_length=length,
        layout="shared",
        rows=max(1, judge.TOKENS // length),
        mesh=mesh,
    )
    columns = jax.ShapeDtypeStruct((ANSWERS, model.config.hidden_size), jnp.float32)
    settings = {"config": model.config, "dtype": model.dtype, "states": False}
    return forward_pass(
        *("judge", judge.run, model.params, batches, group.encoded, model.config, settings),
        given=(columns,),
        mesh=mesh,
    )


# Sampling -----------------------------------------------------------------------------------------


def sampling(config, model: LanguageModel, most: int, beside, **more) -> list[Step]:
    """Make the programs of `models.sampler` for as many responses as are sampled together, at most
    `most`: their prompts, and then a token of each at a time, in a loop of `sampler.STEPS`. All are
    as long as they may be."""
    base, mesh, c, responses = config.base, model.mesh, model.config, config.base.n
    prompt = config.prompt_tokens or config.group_tokens // 2
    B, S = sharding.fit_rows(most, mesh), sampler.bucket(prompt)
    prompts = max(1, B // responses)
    together = sharding.fit_rows(min(prompts, max(1, sampler.TOKENS // S)), mesh)
    whole = sampler.bucket(min(prompt + base.max_new_tokens, c.max_seq_len))
    rows = NamedSharding(mesh, P(sharding.ROWS))

    def array(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

    unstack = functools.partial(sampler.unstack, layers=c.num_layers, dtype=model.dtype)
    top, layers = jax.eval_shape(unstack, model.params)
    stack = sharding.shardings(model.params["layers"], mesh)
    places = jax.tree.map(lambda place: NamedSharding(mesh, P(*place.spec[1:])), stack)
    layers = [sharding.placed_shapes(layer, places) for layer in layers]
    top = sharding.placed_shapes(top, sharding.shardings(top, mesh))

    def cache_of(length):
        k, v = (B, c.num_kv_heads, c.head_dim, length), (B, c.num_kv_heads, length, c.head_dim)
        one = {"k": array(k, model.dtype), "v": array(v, model.dtype)}
        return [one] * c.num_layers

    cache, shorter = cache_of(whole), cache_of(max(S, whole // 2))
    numbers = [array((B,), jnp.int32)] * 4
    keys, tail = array((B, 2), jnp.uint32), array((B, 1), jnp.int32)
    state = sampler.Rows(*numbers, array((B,), bool), keys, tail)
    settings = {"config": c, "dtype": model.dtype}
    held = {"parameters": model.params, "sampler's parameters": (top, layers)} | beside
    many = {"groups": prompts, **more}
    prefill = Step(
        *("prompts", sampler.prefill, (model.params, array((together, S), jnp.int32)), settings),
        held,
        useful=prompts * c.forward_flops(prompt, prompt * (prompt + 1) // 2),
        tokens=(prompts * prompt, -(-prompts // together) * together * S),
        times=-(-prompts // together),
        **many,
    )
    grow = Step(
        *("growing cache", sampler.lengthen, (shorter,), {"S": whole}),
        held | {"cache": shorter},
        useful=0,
        tokens=(0, 0),
        **many,
    )
    new = min(base.max_new_tokens, c.max_seq_len - prompt)
    seen = new * prompt + new * (new + 1) // 2
    choice = Choice(base.temperature == 0, base.top_k, base.top_p < 1, base.kind == "reinforce")
    decode = Step(
        *("tokens", sampler.loop, (top, layers, state, cache, B, base.temperature, base.top_p)),
        settings | {"choice": choice, "ends": tuple((i,) for i in c.eos_ids or (0,))},
        held | {"cache": cache},
        useful=prompts * responses * c.forward_flops(new, seen, new),
        tokens=(prompts * responses * new,) * 2,
        times=math.ceil(new / sampler.STEPS) * -(-prompts * responses // B),
        trips=sampler.STEPS,
        **many,
    )
    return [prefill, grow, decode]


# REINFORCE ----------------------------------------------------------------------------------------


def reinforcing(config, mesh) -> list[Step]:
    """Make the programs of a step of REINFORCE: sampling, each reward model, the frozen start and
    the update, with all that is on the chips beside each."""
    base, many = config.base, config.base.batch_size * config.base.n
    policy = model_of(base, LanguageModel, base.model.name, mesh)
    update, state, frozen = step_of(
        base,
        {"decoder": policy.params},
        rollouts.PolicyGradient(base.clip or None),
        functools.partial(inference.token_log_probabilities, temperature=base.temperature),
        policy,
        mesh,
        "shared",
    )
    raters = {
        name: model_of(base, RewardModel, model, mesh)
        for name, model in config_rules.parse_policies(base.reward_models).items()
    }
    merged, kept = base.lora.rank or base.trainable.last_layers >= 0, flatten_dict(frozen)
    start = flatten_dict({"decoder": policy.params}).items()
    beside = {
        "policy": (state["params"], frozen),
        "optimizer": state["optimizer"],
        "start": [x for name, x in start if name not in kept],  # What is frozen is there once.
        "reward models": [rater.params for rater in raters.values()],
        # The policy as it is sampled: the same arrays where nothing has to be merged.
        "parameters": policy.params if merged else (),
    }
    rows = min(sampler.ROWS * sharding.row_devices(mesh), many)
    sampled = sampling(config, policy, rows, beside)
    found = [
        scoring(f"rewards of {name}", config, rater, holds=beside) for name, rater in raters.items()
    ]
    group = example(config, policy=True, pairs=False)
    batches = inference.plan_rows([group] * base.batch_size, layout="shared", mesh=mesh)
    settings = {"config": policy.config, "layout": "shared", "dtype": policy.dtype}
    start = forward_pass(
        *("start", inference.predict_tokens, {"decoder": policy.params}, batches),
        *(group.encoded, policy.config, settings | {"temperature": base.temperature}),
        holds=beside,
        mesh=mesh,
    )
    of_rows = sharding.fit_rows(base.micro_batch_size, mesh)
    longest = len(group.encoded.prompt) + len(group.encoded.responses[0])
    check_row(config, longest, "row_length", base.row_length)
    part = [group] * (base.batch_size // base.updates)
    nothing = [[np.zeros(len(ids), np.float32) for ids in group.encoded.responses]] * len(part)
    of_tokens = dict.fromkeys(("old", "advantage", "weight", "share"), nothing)
    laid = rollouts.lay(part, of_tokens, row_length=base.row_length, rows=of_rows)
    filled = int((laid["segment_ids"] > 0).any(axis=-1).sum())
    batch = placed(laid, mesh, axis=1)
    used = -(-filled // of_rows)
    learned = sum(map(len, group.encoded.responses))
    once = policy.config.forward_flops(config.group_tokens, visible(group.encoded), learned)
    del beside["parameters"]  # By then it is gone.
    learn = Step(
        *("update", update, (state, frozen, batch), {}, beside | {"batch": batch}),
        groups=len(part),
        useful=3 * len(part) * once,
        tokens=(len(part) * config.group_tokens, used * of_rows * base.row_length),
        rows=(filled, used * of_rows),
        trips=used,
    )
    return [*sampled, *found, start, learn]
