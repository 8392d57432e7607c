"""Settings that do not go together: refusals of a config whose settings are each as they may be."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from hs2jax.config_rules import (
    CROSS_VALIDATE,
    OF_PAIRS,
    can_be_swept,
    data,
    file,
    flat,
    parse_names,
    parse_policies,
    parse_weights,
)

# Kinds whose programs a plan knows.
PLANNED = (
    *("train_reward_model", "train_policy"),
    *("evaluate", "annotate", "judge", "sample", "reinforce"),
)
# Of a kind: what chooses, and with which choices a setting is read; with others it has no effect.
CHOOSES = {"train_reward_model": "objective.kind", "train_policy": "objective.kind"}
CHOOSES |= {"reinforce": "algorithm", "judge": "task"}
_OF_PPO = ("learning_rate", "value_clip", "discount", "decay")
_RANKED = ("preference", "label_smoothing", "centering")
READERS = {
    "train_reward_model": {
        **{f"objective.{name}": ("bradley_terry", "joint") for name in _RANKED},
        "objective.preference_weight": ("joint",),
    },
    "train_policy": {
        "objective.normalize_tokens": ("steerlm2",),
        **{f"objective.{name}": ("dpo",) for name in (*_RANKED[:2], "smoothing")},
        "objective.reduction": ("ipo",),
        **dict.fromkeys(("objective.beta", "objective.max_drift", "select"), OF_PAIRS),
        **dict.fromkeys(("data.derive", "data.pairs"), OF_PAIRS),
    },
    "reinforce": {"baseline": ("reinforce",), **{f"ppo.{name}": ("ppo",) for name in _OF_PPO}},
    "judge": {
        "criteria": ("scores", "pairs"),
        **dict.fromkeys(("condition", "validation", "baselines", "folds"), ("scores",)),
        "on_error": ("scores", "pairs", "selection"),
        "recipe": ("scores", "emotions", "knowledge"),
        **dict.fromkeys(("fraction", "max_tokens"), ("selection",)),
    },
}
# Settings that are without effect where another one is off.
NEEDS = {
    "objective.smoothing": "objective.label_smoothing",
    "lora.alpha": "lora.rank",
    "lora.targets": "lora.rank",
    "kl.form": "kl.coefficient",
    "model.keeps": "model.remat",
}
BASELINES = ("gpt_score", "ridge_probe", "reward_model")


def refusals(c: ConfigDict, default: ConfigDict) -> Iterator[str]:
    """Say of settings that contradict one another: "KEY ...", each a sentence."""
    yield from _unread(c.kind, flat(c), flat(default))
    match c.kind:
        case "train_reward_model":
            compared, outputs = c.objective.output, c.model.outputs
            if outputs and compared not in ("", *outputs):
                yield f"objective.output is {compared!r}; the model's outputs are {outputs}"
        case "train_policy":
            yield from _policy(c)
        case "evaluate":
            own = {"model.weights": c.model.weights, "max_tokens": c.max_tokens}
            for key in (key for key, given in own.items() if given and c.model.justifier):
                yield f"{key} is for reward models: leave it out with config.model.justifier"
            if c.model.weights == "search" and not c.validation:
                yield 'model.weights is "search": name the pairs to search on in config.validation'
        case "sample":
            if c.responses and c.server:
                yield "responses and config.server both say who answers: set one of them"
            if not c.model.name and not c.responses:
                yield "model.name is not set"
            if c.responses and c.instruction:
                yield "instruction: the responses of a file are written already; leave it empty"
            if c.responses and len(c.conditions) > 1:
                yield "conditions: the responses of a file were written for one attribute setting"
        case "annotate" if c.reward and c.attributes:
            yield "attributes are not written where config.reward is: leave them empty"
        case "judge":
            yield from _judge(c)
        case "sweep" if not can_be_swept(c.get("base")):
            yield "base: expected a config of kind train_reward_model, or train_policy on pairs"
        case "plan":
            yield from _plan(c, c.get("base", {}))
        case "reinforce":
            yield from _reinforce(c)
    trained = c.get("trainable", {})
    if trained.get("cache") and (trained.last_layers < 0 or c.data.layout == "padded"):
        yield (
            "trainable.cache keeps what frozen layers give: it needs config.trainable.last_layers "
            'and a layout other than "padded"'
        )


def _unread(kind: str, given: dict, usual: dict) -> Iterator[str]:
    """Say which settings that are not as usual are read by nothing, by others' values."""
    changed = [name for name in given if name in usual and given[name] != usual[name]]
    key, readers = CHOOSES.get(kind), READERS.get(kind, {})
    for name in changed:
        if name in readers and given[key] not in readers[name]:
            choices = " and ".join(readers[name])
            yield f"{name} is for config.{key} {choices}, not for {given[key]}"
        elif name in NEEDS and not given[NEEDS[name]]:
            yield f"{name} is without effect, as config.{NEEDS[name]} is {given[NEEDS[name]]}"
        elif name == "optimizer.final" and given["optimizer.schedule"] == "constant":
            yield f"{name} is without effect, as config.optimizer.schedule is constant"


def _plan(c: ConfigDict, base: ConfigDict) -> Iterator[str]:
    kind = base.get("kind")
    if kind not in PLANNED:
        yield f"base: expected a config of kind {', '.join(PLANNED)}"
    elif not base.model.name:
        yield "base.model.name is not set: nothing is computed here"
    if c.search and kind not in PLANNED[:2]:
        yield "search is over the settings of a training"
    if kind == "reinforce" and base.algorithm == "ppo":
        yield 'base.algorithm is "ppo", whose value model is not planned; plan "reinforce"'


def _policy(c: ConfigDict) -> Iterator[str]:
    kind = c.objective.kind
    if kind == "steerlm2":
        end = 'so with config.objective.kind "steerlm2" it must be'
        if c.data.condition:
            held = "sampled groups have conditions of their own"
            yield f'data.condition is {c.data.condition!r}; {held}, {end} ""'
        if c.data.too_long != "skip":
            held = "the log-probabilities of sampled groups are those after whole prompts"
            yield f'data.too_long is {c.data.too_long!r}; {held}, {end} "skip"'
    if kind in OF_PAIRS and c.data.condition:
        held = "makes each response a group of its own, which has no pairs"
        yield f"data.condition is {c.data.condition!r}, which {held}: leave it empty"
    if c.data.pairs == "extremes" and not c.data.derive:
        yield "data.pairs is 'extremes': name in config.data.derive of what"


def _reinforce(c: ConfigDict) -> Iterator[str]:
    if c.n < 2 and c.algorithm == "reinforce":
        yield "n is 1; expected 2 or more, as a response is held against the others to its prompt"
    names, weights = [*parse_policies(c.reward_models)], parse_weights(c.reward_weights)
    if weights and (unknown := set(weights) - set(names)):
        yield f"reward_weights: {', '.join(unknown)} is none of {', '.join(names)}"
    if weights and not any(weights.values()):
        yield f"reward_weights is {c.reward_weights!r}, so that nothing is rewarded"
    if c.batch_size % c.updates:
        yield f"updates is {c.updates}, which does not divide config.batch_size {c.batch_size}"
    if c.max_new_tokens >= c.row_length:
        yield f"row_length is {c.row_length}; it must hold a prompt and config.max_new_tokens"


def _judge(c: ConfigDict) -> Iterator[str]:
    baselines = parse_names(c.baselines)
    if set(baselines) - set(BASELINES):
        yield f"baselines are {c.baselines!r}; expected some of {', '.join(BASELINES)}"
    if ("reward_model" in baselines) != bool(c.reward_model):
        yield 'reward_model names the model of "reward_model" in config.baselines: set both or none'
    if "gpt_score" in baselines and c.criteria == "rubric":
        yield (
            "baselines: gpt_score asks by the same criteria for every row; name them in "
            "config.criteria instead of 'rubric', or leave gpt_score out"
        )
    if "ridge_probe" in baselines and c.folds < 3:
        yield f"folds is {c.folds}; expected 3 or more for ridge_probe"
    if c.validation and c.weights:
        yield "validation and config.weights both say where weights come from: set one of them"
    if c.task in ("pairs", "selection") and c.weights == CROSS_VALIDATE:
        yield (
            f"weights is {c.weights!r}, but {c.task} has no ratings: give the weights.json of "
            'another run, or "" for even weights'
        )
    try:
        (file if c.task in ("emotions", "knowledge") else data)(c.data)
    except (ValueError, FileNotFoundError) as error:
        yield f"data: {error}"
