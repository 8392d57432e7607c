"""REINFORCE with a baseline from the group (HelpSteer2-Preference, section 5; arXiv 2402.14740).

Each step samples responses to prompts from the policy as it is, scores them, takes the KL from the
frozen start off, holds each against the others to its prompt, and updates the policy. All of it is
on one mesh with one set of the policy's parameters. The folder gets

    rollouts/STEP.jsonl   what was sampled and scored at each step, see `rollouts`
    items/start.jsonl, items/step_STEP.jsonl, items/end.jsonl   the held-out prompts, answered
                          before, at steps on the way, and after the last one
    metrics.jsonl         the numbers of each step, and of the held-out prompts
    model/                the best step's policy: of those that were evaluated, the one with the
                          highest held-out mean of what is maximised, reward less KL penalty

Until it is finished, checkpoints/ and best/ have what a killed run goes on from: with the same
bits, as the rollouts that are there are not sampled again.
"""

import functools
import logging
import time
from collections.abc import Sequence

import grain
import jax
import numpy as np

from hs2jax import stopping, workdir
from hs2jax.alignment import compare, ppo, rollouts, stage
from hs2jax.alignment.rollouts import Roller, Scale
from hs2jax.config_rules import parse_policies, parse_weights
from hs2jax.data import corpora
from hs2jax.data.record import Record
from hs2jax.inference import token_log_probabilities
from hs2jax.language_model import LanguageModel
from hs2jax.models import sharding
from hs2jax.models.decoder import hold
from hs2jax.reward_model import RewardModel
from hs2jax.training import metrics, optimizer, profiling, step, trainable
from hs2jax.training.checkpoint import RunState, check_room
from hs2jax.workdir import row

log = logging.getLogger(__name__)

HELD_OUT = 2**30  # The first held-out prompt's number, which no prompt of a step comes to.
SHOWN = ("objective", "reward", "kl", "length", "entropy")


@stage.verb
def reinforce(config, run: stage.Run) -> list[dict]:
    """Align a policy with reward models. Raises ValueError where it diverges, or where too many
    responses have no reward, with the step and the reason."""
    folder, started = run.workdir, time.monotonic()
    run.mesh = mesh = sharding.make_mesh(**config.mesh)
    named = config.model.name, config.model.template
    policy = run.load(LanguageModel, *named, masters=trainable.masters(config))
    raters = {
        name: run.load(RewardModel, model)
        for name, model in parse_policies(config.reward_models).items()
    }
    records = {"train": Record(), "validation": Record()}
    prompts = rollouts.prompts(config.data, config, policy, records["train"])
    held_out = rollouts.prompts(config.validation, config, policy, records["validation"])
    run.records = {name: record.to_dict() for name, record in records.items()}
    weights = parse_weights(config.reward_weights) or dict.fromkeys(raters, 1.0)
    scales = {name: _scale(run, rater, weights.get(name, 0.0)) for name, rater in raters.items()}

    # What is trained ----------------------------------------------------------------------------
    params = trainable.begin({"decoder": policy.params}, config, mesh)
    params, frozen = trainable.split(params, config, policy.dtype)
    roller = Roller(policy, hold(policy.params, policy.dtype), raters, config)
    tx, rate = optimizer.make(config.optimizer, config.steps * config.updates)
    begin = step.beginning(tx)  # The start's parameters stay as the reference.
    shapes = jax.eval_shape(begin, params)
    places = sharding.shardings(shapes, mesh)
    state = jax.jit(begin, out_shardings=places)(params)
    del params
    critic = None
    if config.algorithm == "ppo":
        name = next(name for name, scale in scales.items() if scale.weight)
        critic = ppo.Critic(config, policy, raters[name], scales[name])

    def states():
        return {"policy": state} | ({"value": critic.state} if critic else {})

    check_room(folder, states(), state["params"], policy.params, stay=config.keep_checkpoints)
    policy.params = None  # Of the state from now on; the start's would be held beside them.
    update = step.make(
        policy.config,
        rollouts.PolicyGradient(config.clip or None),
        tx,
        forward=functools.partial(token_log_probabilities, temperature=config.temperature),
        layout="shared",
        dtype=policy.dtype,
        remat=step.remat_of(config),
        shardings=places,
    )

    # Begin, or restore --------------------------------------------------------------------------
    def items(step):
        return f"items/{ {0: 'start', config.steps: 'end'}.get(step, f'step_{step:06d}') }"

    at = RunState(folder, frozen, started=started)
    made = (*map(items, range(0, at.step + at.evaluated, config.evaluate_every)), "rollouts/000001")
    at.need("metrics.jsonl", *(f"{name}.jsonl" for name in made))  # As the end does.
    if at.restored:
        restored = at.restore(states())
        state = restored["policy"]
        if critic:
            critic.state = restored["value"]
        del restored
        log.info("going on from step %d", at.step)
    about = {"project": config.wandb_project, "config": config.to_dict()}
    out = metrics.Metrics(folder, start=at.step, total=config.steps, **about)
    order = grain.MapDataset.range(len(prompts)).seed(config.seed).shuffle().repeat()

    def policy_of(trained):
        return trainable.finish(trainable.join(trained, frozen))["decoder"]

    def roll(name, groups, n, clock, first):
        """Rollouts of a file, or new ones that are written to it."""
        path = folder / f"{name}.jsonl"
        there = workdir.from_first(workdir.read_rows(path) if path.exists() else None)
        if there is None:
            policy.params = policy_of(state["params"])
            there = roller.roll(groups, n, first=first, clock=clock)
            policy.params = None  # Or they would be held beside the state after the update.
            workdir.settle(folder)  # Another run must not take them for its own.
            run.write(f"{name}.jsonl", there)
        worth = rollouts.weigh(there, scales, config)
        found = rollouts.numbers(there, worth)
        _check(config, name, found, worth)
        return there, worth, found

    def evaluate():
        """Answer the held-out prompts, and keep the policy where no step before was better."""
        _, worth, found = roll(items(at.step), held_out, 1, {}, first=HELD_OUT)
        out.write("validation", at.step, found)
        values, best = {x: found[x] for x in SHOWN}, at.best and at.best["values"]
        out.say(f"step {at.step}, held out: {metrics.one_line(values)}")
        # Where no answer counts nothing is known.
        better = worth.kept.any() and (not best or values["objective"] > best["objective"])
        if at.step and (better or (at.step == config.steps and not best)):
            at.save_best(state["params"], values)
            at.save(states())

    # Steps --------------------------------------------------------------------------------------
    evaluated = at.restored is not None and at.evaluated
    tracer = profiling.traced(folder / "profile", config.profile)
    with stopping.deferred(), jax.set_mesh(mesh), tracer as before_step:
        try:
            while True:
                if not evaluated:
                    evaluate()
                if at.step == config.steps:
                    break
                evaluated = True
                if stop := stopping.asked():
                    raise stopping.Stopped(f"{stop}; saved at step {at.step}")
                if at.step > at.saved and at.step % config.checkpoint_every == 0:
                    at.save(states())
                at.check()
                before_step(state)
                turns = range(at.step * config.batch_size, (at.step + 1) * config.batch_size)
                groups, clock = [prompts[int(order[i])] for i in turns], {}
                name = f"rollouts/{at.step + 1:06d}"
                rows, worth, found = roll(name, groups, config.n, clock, first=turns[0])
                if at.step == 0:
                    out.say(f"sampler and trainer differ by {on_policy(rows):.2g} nats at most")
                begun = time.monotonic()
                learner = functools.partial(update, frozen=frozen), critic
                state, values = _learn(config, policy, mesh, learner, state, rows, worth)
                clock["update"] = time.monotonic() - begun
                at.step += 1
                evaluated = at.step % config.evaluate_every != 0 and at.step < config.steps
                found |= values | {f"{name}_seconds": x for name, x in clock.items()}
                if "loss" in values:
                    found["learning_rate"] = float(rate(int(state["step"]) - 1))
                out.write("train", at.step, found)
                out.show(at.step, {x: found[x] for x in SHOWN})
                skipped = max(found.get(f"{of}not_finite", 0) for of in ("", "value_"))
                if skipped >= config.not_finite_limit:
                    raise ValueError(
                        f"{skipped:.0f} updates in a row, up to step {at.step}, had a loss or "
                        "gradient that is not finite and were skipped: try a lower "
                        "config.optimizer.learning_rate, or of PPO config.ppo.learning_rate"
                    )
                step.check_finite(state["params"])
        except stopping.Stopped:
            if at.step > at.saved:
                at.save(states(), evaluated=evaluated)
            raise
        finally:
            at.wait()

    # The best step's policy ---------------------------------------------------------------------
    state, best = None, at.best["step"]
    policy.params = policy_of(at.restore_best(sharding.placed_shapes(shapes, places)["params"]))
    policy.save(folder / "model")
    out.say(f"best, step {best} of {config.steps}: {metrics.one_line(at.best['values'])}")
    out.close()
    run.result |= {"step": best, "steps": config.steps, "seconds": at.seconds}
    rows = []
    if workdir.is_first():
        first = workdir.read_rows(folder / "rollouts" / "000001.jsonl")
        every = [*range(0, config.steps, config.evaluate_every), config.steps]
        answers = {x: workdir.read_rows(folder / f"{items(x)}.jsonl") for x in every}
        rows = compare.results(answers[0], answers[best]) + compare.course(answers)
        rows += costs(metrics.read(folder / "metrics.jsonl", "train"))
        rows.append(row("", "", "on_policy_difference", on_policy(first)))
        rows.append(row("", "", "step", best))
        run.result["warnings"] = compare.warnings(rows)
    return workdir.from_first(rows)


def _scale(run: stage.Run, rater: RewardModel, weight: float) -> Scale:
    """Find the mean and the spread of a reward model's rewards over config.standardize."""
    scalar = rater.scalar_weights()
    if scalar is None:
        raise ValueError(
            f"config.reward_models: a model with the outputs {', '.join(rater.outputs)} and no "
            "weights has no one reward"
        )
    if not (weight and run.config.standardize):
        return Scale(weight)
    spec, record = run.config.standardize, Record()
    groups = list(corpora.read(spec, on_error=run.config.on_error, record=record))
    tables = run.rate(rater, groups, record)
    rewards = np.concatenate([table @ scalar for table in tables if table is not None])
    run.records["standardize"] = record.to_dict()
    if not rewards.std() > 0:
        raise ValueError(f"config.standardize: the rewards of {spec} are alike")
    return Scale(weight, float(rewards.mean()), float(rewards.std()))


def on_policy(rows: Sequence[dict]) -> float:
    """The largest difference between what the sampler says of a token and what training says of it,
    in nats, of rollouts of the start, which both are."""
    both = (
        np.subtract(*(np.array(x, float) for x in pair))
        for each in rows
        for pair in zip(each["log_policy"], each["log_reference"], strict=True)
    )
    return float(np.nanmax(np.abs(np.concatenate([*both]))))


def _check(config, name: str, found: dict, worth: rollouts.Worth) -> None:
    """Raise ValueError where a run should not go on. name: of the rollouts."""
    share = found["missing"] / worth.reward.size
    if share > config.missing_limit:
        raise ValueError(
            f"{name}: {found['missing']} of {worth.reward.size} responses have no finite "
            f"reward or log-probability, more than config.missing_limit {config.missing_limit:g}: "
            "are they empty, or too long for the reward model, or are its parameters not whole?"
        )
    if config.kl.ceiling and found["kl"] > config.kl.ceiling:
        raise ValueError(
            f"{name}: responses are {found['kl']:.1f} nats from the policy's start on average, "
            f"above config.kl.ceiling {config.kl.ceiling:g}: the policy diverges; try a lower "
            "config.optimizer.learning_rate or a higher config.kl.coefficient"
        )


def _learn(config, policy, mesh, learner, state, rows, worth):
    """Update the policy by rollouts, a part of their prompts at a time: (state, numbers). A part
    without anything to learn makes no update. learner: the step, and of PPO the value model."""
    (update, critic), every = learner, rollouts.examples(policy, rows)
    tokens = [each["tokens"] for each in rows]
    of_rows = sharding.fit_rows(config.micro_batch_size, mesh)
    laid = functools.partial(rollouts.lay, row_length=config.row_length, rows=of_rows)
    known = {"old": [each["log_policy"] for each in rows]}
    if critic:
        known |= critic.advantages(every, rows, worth, laid)
    else:
        known["advantage"] = rollouts.spread(worth.advantage, tokens)
    found, idle = {}, 0
    for part in np.split(np.arange(len(rows)), config.updates):
        kept, some = worth.kept[part], [tokens[i] for i in part]
        if not (kept.any() and (critic or worth.advantage[part].any())):
            idle += 1
            continue
        of_tokens = {name: [table[i] for i in part] for name, table in known.items()}
        for name, mean in (("weight", config.mean), ("share", "tokens")):
            of_tokens[name] = rollouts.spread(rollouts.shares(some, kept, mean), some)
        batch = sharding.place_rows(laid([every[i] for i in part], of_tokens), mesh, axis=1)
        state, values = update(state, batch=batch)
        values |= critic.learn(batch) if critic else {}
        for name, x in values.items():
            if name != "bad_gradients":
                found.setdefault(name, []).append(float(x))
    last = {name: xs[-1] for name, xs in found.items() if name.endswith("not_finite")}
    return state, {name: float(np.mean(xs)) for name, xs in found.items()} | last | {"idle": idle}


def costs(steps: Sequence[dict]) -> list[dict]:
    """Say how the training went, by what metrics.jsonl has of each step."""
    spent = {
        name: sum(each.get(f"{name}_seconds", 0.0) for each in steps) for name in rollouts.STAGES
    }
    rows = [
        row("", f"stage/{name}", "share_of_time", seconds / max(sum(spent.values()), 1e-9))
        for name, seconds in spent.items()
    ]
    counted = {"missing": sum(each["missing"] for each in steps)}
    counted |= {"idle_updates": sum(each["idle"] for each in steps), "steps": len(steps)}
    seconds = np.median([sum(each.get(f"{x}_seconds", 0) for x in spent) for each in steps])
    counted |= {"seconds_per_step": seconds, "peak_memory_bytes": metrics.peak_memory()}
    return rows + [row("", "", name, value) for name, value in counted.items()]
