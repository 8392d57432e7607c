"""Configs of every kind of run: defaults, rules of each setting, and one check before anything is
loaded.

A config is an ml_collections.ConfigDict whose `kind` is a key of SETTINGS. Papers' values are used
where they are stated: HelpSteer2 (arXiv 2406.08673, section 3 and appendix), the NeMo-Aligner
recipe of HelpSteer2-Preference (arXiv 2410.01257), HelpSteer (arXiv 2311.09528, section 4.4) and
SteerLM (arXiv 2310.05344).
"""

import difflib

import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from hs2jax import config_rules as rules
from hs2jax.config_rules import above, anything, at_least, needed, one_of, parsed
from hs2jax.data import loader, packing, templates
from hs2jax.losses import reward

# What the first paper asks a policy for: the best answers, of middling complexity and length.
PAPER_CONDITION = "helpfulness=4,correctness=4,coherence=4,complexity=2,verbosity=2"

# Settings of several kinds ------------------------------------------------------------------------
# Each key's default and rule.

_DTYPE = ("", one_of("", "float32", "bfloat16"))  # "": float32 on CPU, bfloat16 elsewhere.
_TEMPLATE = ("", one_of("", *templates.TEMPLATES))
_ON_ERROR = ("raise", one_of(*loader.ON_ERROR))  # "skip" counts what is left out in the record.
_WEIGHTS = ("", parsed(rules.parse_weights))
_NEEDED = ("", needed())
_NEEDED_DATA = ("", rules.needed_data)
_DATA = ("", rules.data)
_COUNT = at_least(1)

_SEED = {"seed": (0, rules.seed)}
_MESH = {"mesh.data": (1, anything), "mesh.fsdp": (-1, anything), "mesh.tensor": (1, anything)}

_TRAINING = {
    **_SEED,
    "model.name": ("smollm2-135m-instruct", needed()),  # Folder, GGUF file, hub id or short name.
    # How messages become text, such as NeMo's "extra_id" and "steerlm"; "": as recorded, else the
    # tokenizer's own.
    "model.template": _TEMPLATE,
    "model.dtype": _DTYPE,  # Of the computation.
    "model.remat": (True, anything),  # Recompute each layer in the backward pass, to save memory.
    "data.train": _NEEDED_DATA,  # "format:path[slice]", several joined with "+".
    "data.validation": _NEEDED_DATA,
    "data.layout": ("shared", one_of(*packing.LAYOUTS)),  # See data.packing.
    "data.row_length": (4096, _COUNT),  # Tokens of a row. A group that does not fit is too long.
    "data.too_long": ("skip", one_of(*loader.TOO_LONG)),  # "truncate" cuts prompts from the left.
    "data.on_error": _ON_ERROR,
    # What is trained. A reward model's head always is.
    "trainable.paths": ("", rules.regex),  # Of paths; "": all, or with LoRA none. See README.
    # Only these, what is above them, and no embedding; -1: all.
    "trainable.last_layers": (-1, at_least(-1)),
    "trainable.cache": (False, anything),  # Compute the layers below once, and keep that on disk.
    "lora.rank": (0, at_least(0)),  # Above 0: LoRA on projections, whose own weights are frozen.
    "lora.alpha": (16.0, above(0)),  # The addition is scaled by alpha / rank.
    "lora.targets": (".", rules.regex),  # Of projections, such as "attention/(q|v)$".
    "optimizer.learning_rate": (2e-6, above(0)),
    "optimizer.schedule": ("constant", one_of("constant", "cosine")),
    "optimizer.warmup": (10, at_least(0)),  # Steps.
    "optimizer.final": (0.1, at_least(0)),  # Of the peak, where "cosine" ends.
    "optimizer.b1": (0.9, at_least(0)),
    "optimizer.b2": (0.98, at_least(0)),
    "optimizer.weight_decay": (0.1, at_least(0)),
    "optimizer.max_grad_norm": (1.0, above(0)),  # Of the gradient's global norm.
    "optimizer.mu_dtype": ("float32", one_of("float32", "bfloat16")),  # bfloat16 saves memory.
    "batch_size": (64, _COUNT),  # Groups. With two responses each, the papers' 128 rows.
    "micro_batch_size": (8, _COUNT),  # Rows computed at a time, over all devices; for memory.
    "epochs": (2, _COUNT),
    "evaluate_every": (10, _COUNT),  # Steps.
    "checkpoint_every": (50, _COUNT),  # Steps.
    "not_finite_limit": (5, _COUNT),  # Steps in a row without a finite gradient that stop the run.
    **_MESH,
}

# Of data that is read.
_READING = {
    "data": _NEEDED_DATA,  # "format:path[slice]", several joined with "+".
    "on_error": _ON_ERROR,
    **_MESH,
}
# Of conversations that are scored.
_SCORING = {**_READING, "max_tokens": (0, at_least(0))}  # Prompts are cut. 0: what fits.
# Attribute whose differences are preferences where none are.
_DERIVE = {"derive": ("", anything)}
# Of a model that is asked, as a whole config.
_MODEL = {
    "model.name": _NEEDED,  # Folder, hub id or short name.
    "model.template": _TEMPLATE,  # How messages become text; "": as recorded.
    "model.dtype": _DTYPE,  # Of the computation.
}

# Every kind's settings ----------------------------------------------------------------------------

SETTINGS = {
    "train_reward_model": {
        **_TRAINING,
        "model.outputs": (("reward",), rules.names),  # Of a new head; (): the checkpoint's head.
        "model.bias": (False, anything),  # transformers' heads have none.
        # As in "helpfulness=0.65,verbosity=-0.4", for one scalar; "": as recorded in the
        # checkpoint, else the output that the objective compares.
        "model.weights": _WEIGHTS,
        "data.derive": ("", anything),  # Attribute whose differences are preferences if none are.
        "objective.kind": ("bradley_terry", one_of("regression", "bradley_terry", "joint")),
        "objective.output": ("", anything),  # What Bradley-Terry compares; "": the first output.
        "objective.preference": ("regular", one_of(*reward.KINDS)),
        "objective.label_smoothing": (0.0, rules.smoothing),
        "objective.centering": (0.0, at_least(0)),  # 0.01 keeps rewards around zero.
        "objective.preference_weight": (1.0, at_least(0)),  # Of the pairs in "joint".
        "select": ("loss", one_of("loss", "accuracy")),  # The best step, on the validation data.
    },
    # HelpSteer's values for SteerLM, which HelpSteer2 follows.
    "train_policy": {
        **_TRAINING,
        # "ratings": every rated response is learned as the answer to a request for its ratings
        # (SteerLM); "": as the data have it, which is no request but in sampled groups.
        "data.condition": ("", one_of("", "ratings")),
        # "steerlm2" is of groups that were weighed.
        "objective.kind": ("likelihood", one_of("likelihood", "steerlm2")),
        # NeMo's division of a group's loss by its responses' mean length, in "steerlm2". Not the
        # paper's.
        "objective.normalize_tokens": (False, anything),
        # SteerLM and HelpSteer; HelpSteer2's SteerLM 2.0: 1e-7.
        "optimizer.learning_rate": (5e-6, above(0)),
        "optimizer.warmup": (0, at_least(0)),  # None is stated.
        "optimizer.weight_decay": (0.01, at_least(0)),  # SteerLM, appendix, and NeMo's recipe.
        # Groups: conversations, or in "steerlm2" prompts with their samples. Where each is asked
        # for its ratings, up to eight neighbours that answer one prompt are a group (not in
        # "padded").
        "batch_size": (128, _COUNT),
        "epochs": (2, _COUNT),  # HelpSteer's 800 steps are about two; each SteerLM 2.0 round's two.
        "evaluate_every": (50, _COUNT),
        "select": ("loss", one_of("loss")),
    },
    # And a config by name for each of the stages, in whose texts "{NAME}" is an earlier stage's
    # folder.
    "recipe": {"stages": ((), needed(what="names of stages"))},
    # And `base`, a config that the arms change: (("NAME", {"KEY": value, ...}), ...). Without a
    # reference the first arm is it.
    "sweep": {
        "seeds": ((0,), rules.seeds),
        "arms": ((), rules.arms),
        "reference": ("", anything),
    },
    "evaluate": {
        **_SEED,  # Of the search for weights.
        **_MODEL,
        **_SCORING,
        **_DERIVE,
        # How the outputs make one reward, as in "helpfulness=0.65,verbosity=-0.4"; "llama3_70b" or
        # "nemotron4_340b": the published ones; "search": those that do best on the validation
        # pairs; "": as recorded with the model.
        "model.weights": ("", rules.reward_weights),
        # Pairs that are not evaluated, to fit the temperature on, and the weights where asked.
        "validation": _DATA,
    },
    "expo": {
        # Two reward models: folders of exports or of runs, or names on the hub.
        "initial": _NEEDED,
        "trained": _NEEDED,
        # How the outputs make one reward; "": as recorded with the trained model.
        "weights": _WEIGHTS,
        "dtype": _DTYPE,  # Of the computation.
        # `data`: validation pairs that choose the factor; `test`: others on which the initial,
        # trained and chosen models are scored once; "" for none.
        **_SCORING,
        **_DERIVE,
        "test": _DATA,
        # Factors of trained - initial; 0 (initial) and 1 (trained) are always there too. Then a
        # finer grid around the best of them.
        "factors": ((1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0), rules.factors),
        "fine_step": (0.02, at_least(0)),  # 0: no finer grid.
        "fine_reach": (0.08, at_least(0)),
    },
    "judge": {
        **_SEED,  # Of folds and of fitting.
        "model.name": _NEEDED,  # Folder, hub id or short name of a language model.
        "model.dtype": _DTYPE,  # Of the computation.
        # `data` is a file's path for emotions, knowledge; `max_tokens` is of a row that a selection
        # may take.
        **_SCORING | {"data": _NEEDED},
        # scores: responses by criteria, against human ratings where there are some. pairs: which
        # of two responses is better, against human preferences. selection: choose training data.
        # emotions: EQ-Bench's. knowledge: SelfAware's.
        "task": ("scores", one_of("scores", "pairs", "selection", "emotions", "knowledge")),
        # A set that `judging.criteria.load` knows ("helpsteer", "flask", "summeval") or a .json
        # file; for pairs one criterion, "helpfulness" or "SET/NAME".
        "criteria": ("helpsteer", needed()),
        # How the score is made known: "forced", its token predicted right after the question;
        # "direct", the judge writes it; "reasoning", it writes feedback first.
        "condition": ("forced", one_of("forced", "direct", "reasoning")),
        # What is aggregated, and how: `judging.lager.PRESETS`.
        "preset": ("recommended", one_of("paper", "repository", "recommended")),
        # Of the layers: "" for even ones, the weights.json of another run, or "cross-validate":
        # fitted to the human ratings of the other folds, and saved as fitted to all. Emotions and
        # knowledge are always cross-validated where no file is given.
        "weights": ("", rules.layer_weights),
        "validation": _DATA,  # Rated data that weights are fitted on and that is not judged.
        "recipe": ("converged", one_of("converged", "published")),  # How weights are fitted.
        "folds": (5, at_least(2)),  # Of scores; emotions and knowledge have five.
        # Beside the judge's: gpt_score, ridge_probe, reward_model, joined with ",".
        "baselines": ("", anything),
        "reward_model": ("", anything),  # Folder or name, for the baseline of that name.
        "fraction": (0.1, rules.share),  # Of an instruction file, that a selection takes.
    },
    # HelpSteer2, section 4.5.
    "sample": {
        **_SEED,
        **_MODEL | {"model.name": ("", anything)},  # A language model.
        **_READING,  # Prompts.
        # Every prompt is answered with each of these attribute settings; "" asks for nothing.
        "conditions": (
            (PAPER_CONDITION,),
            needed(parsed(rules.parse_condition), "texts (\"('',)\" asks for nothing)"),
        ),
        # Stands below the last turn of each prompt while it is answered, and is not kept: what it
        # asks for seems to come by itself, so that answers differ in what one cannot yet ask for.
        # For SteerLM; `hs2jax weigh` does not take such answers.
        "instruction": ("", anything),
        "n": (10, _COUNT),  # Responses for each prompt and setting.
        "temperature": (0.7, at_least(0)),
        "top_p": (0.9, rules.share),
        "top_k": (0, at_least(0)),  # Only the likeliest so many tokens; 0: all.
        "max_new_tokens": (1024, _COUNT),
        # Elsewhere than here: "responses:FILE" with a row for each prompt, or the address of a
        # server, "http://localhost:8000/v1". See `alignment.sources`.
        "responses": _DATA,
        "server": ("", anything),
    },
    "rescale": {
        **_MODEL,  # A reward model that rates attributes.
        **_READING,  # Responses.
        "ratings": _NEEDED_DATA,  # People's, whose mean and spread attributes get on these.
        "attributes": ((), anything),  # Of which outputs; (): of all.
    },
    "annotate": {
        **_MODEL,  # A reward model that rates attributes.
        **_SCORING,
        "attributes": ((), anything),  # Which are written; (): all that the model rates.
        "every_turn": (False, anything),  # A row for each turn of the assistant, not only the last.
    },
    "weigh": {
        **_READING | {"data": ("", rules.sampled_data)},  # What `hs2jax sample` wrote.
        "reward_model": _NEEDED,  # Gives log P(a|x,y): a reward model that rates attributes.
        "prior": _NEEDED,  # Gives log P(y|x): the model fine-tuned without attributes.
        # Gives log Q'(y|a,x) of responses that were sampled elsewhere: the model that wrote them.
        # Of those sampled here it is known; a model that is named is asked all the same.
        "proposal": ("", anything),
        "dtype": _DTYPE,  # Of the computation.
        "unfinished": ("drop", one_of("drop", "keep")),  # Responses cut at max_new_tokens.
        "least": (2, _COUNT),  # Responses of a group after that; one alone teaches nothing.
    },
    "steer": {
        **_SEED,
        # "name=MODEL,name=MODEL": folders, hub ids or short names, in the order in which each is
        # compared with the one before it.
        "policies": ("", parsed(rules.parse_policies)),
        "reward_model": _NEEDED,  # Measures attributes: a reward model with an output for each.
        # Language model, asked for nothing, that log Q(y|a,x) is held against.
        "reference": ("", anything),
        "dtype": _DTYPE,  # Of the computation.
        **_READING,  # Prompts.
        # Each is asked for these values in turn,
        "attributes": (("verbosity", "complexity"), needed(rules.names, "names")),
        "requested": ((0, 1, 2, 3, 4), rules.attribute_values),
        "base": (PAPER_CONDITION, parsed(rules.parse_condition)),  # while the others stay so.
        "n": (4, _COUNT),  # Responses for each prompt and setting.
        # As the policy is: only then is the mean log-ratio to the reference the KL divergence.
        "temperature": (1.0, at_least(0)),
        "top_p": (1.0, rules.share),
        "max_new_tokens": (1024, _COUNT),
    },
}


def defaults(kind: str, where: str = "config") -> ConfigDict:
    """Make a config of a kind. It is locked, but for a recipe's and a sweep's, which get configs.

    Raises ValueError for another kind.
    """
    if kind not in SETTINGS:
        raise ValueError(f"{where}.kind is {kind!r}; expected one of {', '.join(SETTINGS)}")
    values = {key: value for key, (value, _) in SETTINGS[kind].items()}
    config = ConfigDict(unflatten_dict({"kind": kind, **values}, sep="."))
    return config if kind in ("recipe", "sweep") else config.lock()


def dtype(name: str):
    """Return the dtype that a setting names, None for ""."""
    return getattr(jnp, name) if name else None


# One check ----------------------------------------------------------------------------------------


def check(config: ConfigDict, where: str = "config") -> None:
    """Check a config of any kind, before anything is loaded.

    where: how its keys are named, as in "config.STAGE". Raises ValueError, or FileNotFoundError for
    data, naming the key, its value, and what is expected.
    """
    kind = config.get("kind")
    settings, flat = defaults(kind, where), rules.flat(config)
    given = set(config) - {"base"} if kind == "sweep" else flat.keys()
    if kind != "recipe" and (unknown := given - {"kind", *SETTINGS[kind]}):
        raise ValueError(unknown_key(kind, min(unknown), where))
    for key, (default, rule) in SETTINGS[kind].items():
        if key not in flat:
            raise ValueError(f"{where}.{key} is missing; its default is {default!r}")
        try:
            expected = rule(flat[key])
        except TypeError:
            expected = f"a value like {default!r}"
        except (ValueError, FileNotFoundError) as error:
            kind_of_error = FileNotFoundError if isinstance(error, OSError) else ValueError
            raise kind_of_error(f"{where}.{key}: {error}") from error
        if expected:
            value = "not set" if flat[key] in ("", ()) else repr(flat[key])
            raise ValueError(f"{where}.{key} is {value}; expected {expected}")
    for refusal in rules.refusals(config, settings):
        raise ValueError(f"{where}.{refusal}")
    if kind == "recipe":
        _check_stages(config, where)
    if kind == "sweep":
        base = config.get("base")
        if not isinstance(base, ConfigDict) or base.get("kind") != "train_reward_model":
            raise ValueError(f"{where}.base: expected a config of kind train_reward_model")


def _check_stages(recipe: ConfigDict, where: str) -> None:
    earlier: list[str] = []
    for name in recipe.stages:
        stage = recipe.get(name)
        if not isinstance(stage, ConfigDict) or stage.get("kind") in (None, "recipe"):
            raise ValueError(f"{where}.{name}: a stage is a config with a kind other than recipe")
        for key, value, other in rules.references(stage):
            if other not in earlier:
                raise ValueError(
                    f"{where}.{name}.{key} is {value!r}; {{{other}}} names no earlier stage of "
                    f"{', '.join(earlier) or 'which there are none'}"
                )
        check(stage, f"{where}.{name}")
        earlier.append(name)


# Keys ---------------------------------------------------------------------------------------------


def unknown_key(kind: str, key: str, where: str = "config") -> str:
    """Say that configs of a kind have no such key (dotted), and which one may be meant."""
    (near,) = difflib.get_close_matches(key, SETTINGS[kind], 1, cutoff=0)
    return f"there is no {where}.{key}; the nearest is {where}.{near}"
