"""The programs of a run as a plan compiles them: the functions that run them, given shapes in the
places that their arrays have on a slice. A group has a prompt and equally long responses to it.

Axis letters: S positions in the cache, B rows.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from hs2jax import config_rules, configs, inference
from hs2jax.alignment import rollouts
from hs2jax.data import loader, packing
from hs2jax.data.chat import Encoded
from hs2jax.data.groups import Pair
from hs2jax.data.packing import Example
from hs2jax.evaluation import scores
from hs2jax.judging import judge
from hs2jax.language_model import LanguageModel
from hs2jax.models import attention, cache, heads, sampler, sharding
from hs2jax.models.decoder import hold
from hs2jax.models.hf import hub, weights
from hs2jax.models.kernels import flash
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
    of the groups' tokens. visited: of the blocks of scores that causality leaves, the share that
    attention's kernel does not skip.
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
    visited: float = 1.0


def steps(config, mesh) -> list[Step]:
    """List the programs of a plan's run, in their order; those of a training, a step's."""
    base = config.base
    match base.kind:
        case "train_reward_model" | "train_policy":
            return [training(config, mesh)]
        case "evaluate" | "annotate":
            return [scoring("score", config, model_of(base, RewardModel, base.model.name, mesh))]
        case "judge":
            return [judging(config, mesh)]
        case "sample":
            model = model_of(base, LanguageModel, base.model.name, mesh)
            return sampling(config, model, None, {})
        case _:
            return reinforcing(config, mesh)


# Models and groups --------------------------------------------------------------------------------


def model_of(base, kind: type, name: str, mesh, head=None, masters: bool = False):
    """A model of a kind with shapes in place of its parameters: nothing is loaded. head: of a
    reward model's, its outputs and bias."""
    config, dtype = hub.config_of(name), configs.dtype(base.model.dtype) or jnp.bfloat16
    more, config = [], config if kind is LanguageModel else config.without_lm_head()
    params = weights.shapes(config, jnp.float32 if masters else dtype)
    if kind is RewardModel:
        outputs, bias = head or (("reward",), False)
        make = functools.partial(heads.init_reward, jax.random.key(0), bias=bias)
        made = jax.eval_shape(lambda: make(config.hidden_size, len(outputs)))
        params, more = {"decoder": params, "head": made}, [tuple(outputs)]
    params = sharding.placed_shapes(params, sharding.shardings(params, mesh))
    return kind(config, params, None, *more, mesh=mesh, dtype=dtype, name=name)


def example(config, columns: int = 0, *, policy: bool = False, pairs: bool = False) -> Example:
    """A group of `config.group_tokens` tokens, of which a policy learns the responses."""
    tokens, many = config.group_tokens, config.responses
    prompt = config.prompt_tokens or tokens // 2
    each = (tokens - prompt) // many
    if each < 1:
        raise ValueError(
            f"config.group_tokens is {tokens}: that leaves nothing for {many} responses behind a "
            f"prompt of {prompt} tokens (config.prompt_tokens)"
        )
    lengths = [tokens - prompt - each * (many - 1), *[each] * (many - 1)]
    learned = np.zeros(prompt, bool) if policy else None
    ids = [np.ones(length, np.int32) for length in (prompt, *lengths)]
    encoded = Encoded(ids[0], tuple(ids[1:]), learned, (0,) * many)
    rated = np.ones((many, columns), np.float32), np.ones((many, columns), bool)
    return Example(encoded, *rated, [Pair(0, 1, 1.0)] if pairs and many > 1 else [])


def check_row(config, tokens: int, key: str, length: int) -> None:
    """Raise ValueError where what cannot be parted is longer than a row."""
    if tokens > length:
        raise ValueError(
            f"config.group_tokens is {config.group_tokens}; a row has {length} (config.base.{key})"
        )


def work(config, model, group, batches: loader.Batches, batch, passes: int = 1) -> dict:
    """Of the first batch of like groups: these, their operations, tokens, rows and visited blocks,
    as `Step` has them. passes: how many forward passes' operations are done."""
    plan, rows = batches.plan[0], batches.micro_batch_size
    computed = -(-len(plan) // rows) * rows
    groups = len({piece.turn for row in plan for piece in row})
    prompt, *lengths = map(len, (group.encoded.prompt, *group.encoded.responses))
    seen = prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in lengths)
    learned = packing.count_learned(group.encoded)
    once, c = model.config.forward_flops(config.group_tokens, seen, learned), model.config
    ids = (batch[name].reshape(-1, batches.shape.length) for name in ("segment_ids", "branch_ids"))
    visited = share_visited(attention.ends(*ids), c.num_heads // c.num_kv_heads)
    return {
        "groups": groups,
        "useful": passes * groups * once,
        "tokens": (groups * config.group_tokens, computed * batches.shape.length),
        "rows": (len(plan), computed),
        "visited": 1.0 if batches.layout == "padded" else visited,
    }


# Training -----------------------------------------------------------------------------------------


def training(config, mesh) -> Step:
    """The step of a training, on a batch of groups. DPO's reference takes nothing: what it says of
    the responses is computed before."""
    base, policy = config.base, config.base.kind == "train_policy"
    check_row(config, config.group_tokens, "data.row_length", base.data.row_length)
    kind, head = (LanguageModel, None) if policy else (RewardModel, None)
    if not policy:
        head = base.model.outputs, base.model.bias
    model = model_of(base, kind, base.model.name, mesh, head, trainable.masters(base))
    task = tasks.make(base, mesh, model)
    group = example(config, len(task.columns), policy=policy, pairs=True)
    rows = {name: base.data[name] for name in ("row_length", "layout")}
    rows |= {"micro_batch_size": sharding.fit_rows(base.micro_batch_size, mesh)}
    batches = loader.plan([group] * base.batch_size, batch_size=base.batch_size, **rows)
    parts = task.params, task.objective, task.forward
    update, state, frozen = step_of(base, model, *parts, base.data.layout)
    return updating(config, model, group, batches, batches[0], update, state, frozen, {})


def step_of(base, model, params, objective, forward, layout: str):
    """The jitted step of a training, and the shapes of its state and frozen parameters in their
    places."""

    def begin(params):
        return trainable.split(trainable.begin(params, base), base, model.dtype)

    params, frozen = jax.eval_shape(begin, params)
    tx, _ = optimizer.make(base.optimizer, steps=1000)
    state = jax.eval_shape(lambda params: step.init_state(params, tx), params)
    places = sharding.shardings(state, model.mesh)
    how = {"dtype": model.dtype, "remat": step.remat_of(base), "layout": layout, "forward": forward}
    update = step.make(model.config, objective, tx, shardings=places, **how)
    frozen = sharding.placed_shapes(frozen, sharding.shardings(frozen, model.mesh))
    return update, sharding.placed_shapes(state, places), frozen


def updating(config, model, group, batches, batch, update, state, frozen, beside) -> Step:
    """Make the program of an update by a batch. beside: what else is on the chips."""
    base = config.base
    # Without a gradient of the weights where these are frozen.
    passes = 3 if trainable.masters(base) else 2
    counted = work(config, model, group, batches, batch, passes)
    batch = sharding.row_shapes(batch, model.mesh, axis=1)
    holds = {"parameters": (state["params"], frozen), "optimizer": state["optimizer"]}
    return Step(
        *("update", update, (state, frozen, batch), {}, holds | {"batch": batch} | beside),
        trips=batches.micro_batches,
        **counted,
    )


# Scoring and judging ------------------------------------------------------------------------------


def share_visited(end, groups: int) -> float:
    """Of the pairs of blocks that causality leaves, the share of the row in which attention's
    kernel visits most, without a window. end int32 [B, T]; groups: query heads to a key's."""
    blocks = flash.blocks_of(end.shape[1], groups)
    found = flash.visits(end, end, jnp.zeros(1, jnp.int32), blocks)
    return float(found.sum(axis=(1, 2)).max() / blocks.pairs().sum())


def forward_pass(name: str, config, model, group, batches, run, *more, beside=()) -> Step:
    """A forward pass over the first batch, a micro-batch at a time. run: `functools.partial` of
    what is jitted, with its parameters and its keywords. more: arguments behind the batch."""
    batch = batches[0]
    micro = sharding.row_shapes({x: each[0] for x, each in batch.items()}, model.mesh)
    holds = {"parameters": run.args, "batch": micro} | dict(beside)
    counted = work(config, model, group, batches, batch)
    times = counted["rows"][1] // batches.micro_batch_size
    given = (*run.args, micro, *more)
    return Step(name, run.func, given, run.keywords, holds, times=times, **counted)


def scoring(name: str, config, model: RewardModel, beside=()) -> Step:
    """Make the program by which `evaluation.scores` scores as many groups as make a step."""
    group, tokens = example(config), scores.TOKENS * sharding.row_devices(model.mesh)
    run, batches = model.program([group] * max(1, tokens // config.group_tokens))
    return forward_pass(name, config, model, group, batches, run, beside=beside)


def judging(config, mesh) -> Step:
    """Make the program that `judging.judge` runs for a batch of items: LAGER's pass, with the
    logits of the answers in every layer. An item is a group whose responses are its questions."""
    model = model_of(config.base, LanguageModel, config.base.model.name, mesh)
    group, length = example(config), judge.row_length(config.group_tokens)
    rows = {"row_length": length, "rows": max(1, judge.TOKENS // length), "mesh": mesh}
    many = [group] * inference.BATCH
    batches = inference.plan_evaluation(many, layout="shared", **rows)
    columns = jax.ShapeDtypeStruct((ANSWERS, model.config.hidden_size), model.dtype)
    settings = {"config": model.config, "dtype": model.dtype, "states": False}
    run = functools.partial(judge.run, model.params, **settings)
    return forward_pass("judge", config, model, group, batches, run, columns)


# Sampling -----------------------------------------------------------------------------------------


def sampling(config, model: LanguageModel, many: int | None, beside) -> list[Step]:
    """Make the programs of `models.sampler` for as many responses as are sampled together, of
    `many`, or of more than there are rows (None): their prompts, and then a token of each at a
    time, in a loop of `sampler.STEPS`. All are as long as they may be."""
    base, mesh, c, responses = config.base, model.mesh, model.config, config.base.n
    prompt = config.prompt_tokens or config.group_tokens // 2
    rows = sampler.ROWS * sharding.row_devices(mesh)
    B, S = sharding.fit_rows(min(rows, many or rows), mesh), cache.bucket(prompt)
    prompts = max(1, B // responses)
    uses = dict.fromkeys(range((many or B + responses) // responses), responses)
    shared = sampler.together(uses, B, mesh)
    together = sharding.fit_rows(min(prompts, max(1, sampler.TOKENS // S)), mesh)
    new = min(base.max_new_tokens, c.max_seq_len - prompt)
    whole = cache.bucket(new)
    of_prompts, settings = (B // shared, S), {"mesh": mesh, "dtype": model.dtype}
    shapes = functools.partial(sampler.shapes, model.params, c, of_prompts, **settings)
    (*parts, own), (*_, shorter) = shapes((B, whole)), shapes((B, max(64, whole // 2)))
    tokens = sharding.row_shapes(np.zeros((together, S), np.int32), mesh)
    settings = {"config": c, "dtype": model.dtype}
    held = {"parameters": model.params, "sampler's parameters": parts[:2]} | beside
    held |= {"cache of prompts": parts[3]}
    choice = Choice(base.temperature == 0, base.top_k, base.top_p < 1, base.kind == "reinforce")
    prefill = Step(
        *("prompts", cache.prefill, (model.params, tokens), settings, held, prompts),
        useful=prompts * c.forward_flops(prompt, prompt * (prompt + 1) // 2),
        tokens=(prompts * prompt, -(-prompts // together) * together * S),
        times=-(-prompts // together),
    )
    grow = Step(
        *("growing cache", cache.lengthen, (shorter,), {"S": whole}, held | {"cache": shorter}),
        *(prompts, 0, (0, 0)),
    )
    decode = Step(
        *("tokens", sampler.loop, (*parts, own, B, base.temperature, base.top_p)),
        settings | {"choice": choice, "ends": tuple((i,) for i in c.eos_ids or (0,))},
        *(held | {"cache": own}, prompts),
        useful=prompts * responses * c.forward_flops(new, new * prompt + new * (new + 1) // 2, new),
        tokens=(prompts * responses * new,) * 2,
        times=math.ceil(new / sampler.STEPS) * -(-prompts * responses // B),
        trips=sampler.STEPS,
    )
    return [prefill, grow, decode]


# REINFORCE ----------------------------------------------------------------------------------------


def reinforcing(config, mesh) -> list[Step]:
    """Make the programs of a step of REINFORCE: sampling, each reward model, the frozen start and
    the update, with all that is on the chips beside each."""
    base, many = config.base, config.base.batch_size * config.base.n
    masters = trainable.masters(base)
    policy = model_of(base, LanguageModel, base.model.name, mesh, masters=masters)
    raters = {
        name: model_of(base, RewardModel, model, mesh)
        for name, model in config_rules.parse_policies(base.reward_models).items()
    }
    tempered = {"temperature": base.temperature}
    forward = functools.partial(inference.token_log_probabilities, **tempered)
    objective = rollouts.PolicyGradient(base.clip or None)
    learner = step_of(base, policy, {"decoder": policy.params}, objective, forward, "shared")
    _, state, frozen = learner
    start = jax.eval_shape(functools.partial(hold, dtype=policy.dtype), policy.params)
    start = {"decoder": sharding.placed_shapes(start, sharding.shardings(start, mesh))}
    kept, merged = flatten_dict(frozen), base.lora.rank or base.trainable.last_layers >= 0
    others = {
        # What is frozen is there once.
        "start": [x for name, x in flatten_dict(start).items() if name not in kept],
        "reward models": [rater.params for rater in raters.values()],
    }
    beside = {
        **others,
        "policy": (state["params"], frozen),
        "optimizer": state["optimizer"],
        # The policy as it is sampled: the same arrays where nothing has to be merged.
        "parameters": policy.params if merged else (),
    }
    sampled = sampling(config, policy, many, beside)
    rated = [scoring(f"rewards of {name}", config, rater, beside) for name, rater in raters.items()]
    group = example(config, policy=True)
    batches = inference.plan_rows([group] * base.batch_size, layout="shared", mesh=mesh)
    settings = {"config": policy.config, "layout": "shared", "dtype": policy.dtype}
    run = functools.partial(inference.predict_tokens, start, **settings, **tempered)
    first = forward_pass("start", config, policy, group, batches, run, beside=beside)

    longest = len(group.encoded.prompt) + len(group.encoded.responses[0])
    check_row(config, longest, "row_length", base.row_length)
    part = [group] * (base.batch_size // base.updates)
    nothing = [[np.zeros(len(ids), np.float32) for ids in group.encoded.responses]] * len(part)
    of_tokens = dict.fromkeys(("old", "advantage", "weight", "share"), nothing)
    of_rows, length = sharding.fit_rows(base.micro_batch_size, mesh), base.row_length
    laid = rollouts.lay(part, of_tokens, row_length=length, rows=of_rows)
    rows = {"row_length": length, "micro_batch_size": of_rows, "batch_size": len(part)}
    batches = loader.plan(part, layout="shared", **rows)
    learn = updating(config, policy, group, batches, laid, *learner, others)
    return [*sampled, *rated, first, learn]
