"""Settings of every kind of run: each key's default, its rule, and whether it changes results.

A config's `kind` is a key of SETTINGS. Papers' values are used where they are stated: HelpSteer2
(arXiv 2406.08673, section 3 and appendix), the NeMo-Aligner recipe of HelpSteer2-Preference
(arXiv 2410.01257), HelpSteer (arXiv 2311.09528, section 4.4) and SteerLM (arXiv 2310.05344).
"""

from collections.abc import Callable
from typing import NamedTuple

from hs2jax import config_rules as rules
from hs2jax.config_rules import above, anything, at_least, needed, one_of, parsed
from hs2jax.data import justifications, loader, packing, templates
from hs2jax.losses import policy_gradient, preference, reward
from hs2jax.models.config import KEPT

# What the first paper asks a policy for: the best answers, of middling complexity and length.
PAPER_CONDITION = "helpfulness=4,correctness=4,coherence=4,complexity=2,verbosity=2"

# Settings of several kinds ------------------------------------------------------------------------
# Each key's default, rule and share in what a run is (see `identity`): `sets` changes results,
# `sums` the order in which sums are taken, so at most last bits, `free` not a bit; the others name
# what is read, which counts by its content.


class Setting(NamedTuple):
    default: object
    rule: rules.Rule
    identity: str


def _of(identity: str) -> Callable[[object, rules.Rule], Setting]:
    return lambda default, rule: Setting(default, rule, identity)


sets, sums, free, data, model, models, file = map(
    _of, ("value", "sums", "free", "data", "model", "models", "file")
)

_DTYPE = sets("", one_of("", "float32", "bfloat16"))  # "": float32 on CPU, bfloat16 elsewhere.
_TEMPLATE = sets("", one_of("", *templates.TEMPLATES))
_ON_ERROR = sets("raise", one_of(*loader.ON_ERROR))  # "skip" counts what is left out.
_WEIGHTS = sets("", parsed(rules.parse_weights))
_NEEDED = model("", needed())
_NEEDED_DATA = data("", rules.needed_data)
_DATA = data("", rules.data)
_COUNT = at_least(1)

MESH = {"data": 1, "fsdp": -1, "tensor": 1}
_SEED = {"seed": sets(0, rules.seed)}  # Of all that is drawn.
_MESH = {
    "mesh.data": sums(MESH["data"], anything),  # Devices that hold copies of the model.
    "mesh.fsdp": sums(MESH["fsdp"], anything),  # That share a copy; -1: all that are left.
    "mesh.tensor": sums(MESH["tensor"], anything),  # That share heads and widths of layers.
}

_TRAINING = {
    **_SEED,
    "model.name": model("smollm2-135m-instruct", needed()),  # Folder, .gguf, hub id or short name.
    # How messages become text, such as NeMo's "extra_id" and "steerlm"; "": as recorded, else the
    # tokenizer's own.
    "model.template": _TEMPLATE,
    "model.dtype": _DTYPE,  # Of the computation.
    "model.remat": sums(True, anything),  # Compute each layer again in the backward pass,
    "model.keeps": sums(
        "", rules.some_of(*KEPT)
    ),  # but for these of its results, such as "attention,up".
    "data.train": _NEEDED_DATA,  # "format:path[slice]", several joined with "+".
    "data.validation": _NEEDED_DATA,  # The same; it chooses the best step.
    "data.layout": sets("shared", one_of(*packing.LAYOUTS)),  # See data.packing.
    "data.row_length": sets(4096, _COUNT),  # Tokens. A group that does not fit is too long.
    # "truncate" cuts prompts from the left.
    "data.too_long": sets("skip", one_of(*loader.TOO_LONG)),
    "data.on_error": _ON_ERROR,  # Of malformed rows: "skip" counts them.
    # What is trained. A reward model's head always is.
    "trainable.paths": sets("", rules.regex),  # Of paths; "": all, or with LoRA none.
    # Only these, what is above them, and no embedding; -1: all.
    "trainable.last_layers": sets(-1, at_least(-1)),
    # Compute the layers below once, and keep that on disk.
    "trainable.cache": sets(False, anything),
    # Above 0: LoRA on projections, whose own weights are frozen.
    "lora.rank": sets(0, at_least(0)),
    "lora.alpha": sets(16.0, above(0)),  # The addition is scaled by alpha / rank.
    "lora.targets": sets(".", rules.regex),  # Of projections, such as "attention/(q|v)$".
    "optimizer.learning_rate": sets(2e-6, above(0)),  # At its peak.
    "optimizer.schedule": sets("constant", one_of("constant", "cosine")),  # After the warmup.
    "optimizer.warmup": sets(10, at_least(0)),  # Steps.
    "optimizer.final": sets(0.1, at_least(0)),  # Of the peak, where "cosine" ends.
    "optimizer.b1": sets(0.9, rules.decay),
    "optimizer.b2": sets(0.98, rules.decay),
    "optimizer.weight_decay": sets(0.1, at_least(0)),
    "optimizer.max_grad_norm": sets(1.0, above(0)),  # Of the gradient's global norm.
    "optimizer.mu_dtype": sets("float32", one_of("float32", "bfloat16")),  # bfloat16 saves memory.
    "batch_size": sets(64, _COUNT),  # Groups. With two responses each, the papers' 128 rows.
    "micro_batch_size": sums(8, _COUNT),  # Rows computed at a time, over all devices; for memory.
    "epochs": sets(2, _COUNT),  # Passes over the training data.
    "evaluate_every": sets(10, _COUNT),  # Steps.
    "checkpoint_every": free(50, _COUNT),  # Steps.
    "keep_checkpoints": free(False, anything),  # After the end, when model/ is all one needs.
    # Steps in a row without a finite gradient that stop the run.
    "not_finite_limit": free(5, _COUNT),
    # Of Weights & Biases, which gets the numbers; "": none.
    "wandb_project": free("", rules.wandb),
    # Steps to be traced into profile/, after the first of each process; `--profile` takes three.
    "profile": free(0, at_least(0)),
    **_MESH,
}

# Settings of trainings on data that are there before.
_OF_EPOCHS = [key for key in _TRAINING if key.startswith("data.")] + ["epochs", "trainable.cache"]

# Of data that is read.
_READING = {
    "data": _NEEDED_DATA,  # "format:path[slice]", several joined with "+".
    "on_error": _ON_ERROR,  # Of malformed rows: "skip" counts them.
    **_MESH,
}
_PROMPTS = data("", rules.prompts)  # Of data whose responses mean nothing, where it has any.
_ASKING = _READING | {"data": _PROMPTS}
# Of conversations that are scored.
_SCORING = {**_READING, "max_tokens": sets(0, at_least(0))}  # Prompts are cut. 0: what fits.
# Attribute whose differences are preferences where none are.
_DERIVE = {"derive": sets("", anything)}
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
        # Of a new head; (): the checkpoint's head.
        "model.outputs": sets(("reward",), rules.names),
        "model.bias": sets(False, anything),  # transformers' heads have none.
        # As in "helpfulness=0.65,verbosity=-0.4", for one scalar; "": as recorded in the
        # checkpoint, else the output that the objective compares.
        "model.weights": _WEIGHTS,
        # Attribute whose differences are preferences if none are.
        "data.derive": sets("", anything),
        "objective.kind": sets("bradley_terry", one_of("regression", "bradley_terry", "joint")),
        # What Bradley-Terry compares; "": the first output.
        "objective.output": sets("", anything),
        "objective.preference": sets("regular", one_of(*reward.KINDS)),
        "objective.label_smoothing": sets(0.0, rules.smoothing),
        "objective.centering": sets(0.0, at_least(0)),  # 0.01 keeps rewards around zero.
        "objective.preference_weight": sets(1.0, at_least(0)),  # Of the pairs in "joint".
        # The best step, on the validation data.
        "select": sets("loss", one_of("loss", "accuracy")),
    },
    # HelpSteer's values for SteerLM, which HelpSteer2 follows.
    "train_policy": {
        **_TRAINING,
        # "ratings": every rated response is learned as the answer to a request for its ratings
        # (SteerLM); "": as the data have it, which is no request but in sampled groups.
        "data.condition": sets("", one_of("", "ratings")),
        "data.derive": sets("", anything),  # Attribute that makes pairs if there are none.
        # "extremes": of each group the responses with its highest and lowest value.
        "data.pairs": sets("all", one_of("all", "extremes")),
        # "steerlm2" is of groups that were weighed; "dpo" and "ipo" of pairs.
        "objective.kind": sets("likelihood", one_of("likelihood", "steerlm2", *rules.OF_PAIRS)),
        "objective.beta": sets(0.1, above(0)),  # DPO's paper; HelpSteer2 0.001.
        "objective.preference": sets("regular", one_of(*reward.KINDS)),  # In "dpo".
        "objective.label_smoothing": sets(0.0, rules.smoothing),  # In "dpo".
        "objective.smoothing": sets("conservative", one_of(*preference.SMOOTHINGS)),
        "objective.reduction": sets("sum", one_of(*preference.REDUCTIONS)),  # Over tokens, "ipo".
        "objective.max_drift": free(5.0, above(0)),  # Nats per token from the start; more stops.
        # NeMo's division of a group's loss by its responses' mean length, in "steerlm2". Not the
        # paper's.
        "objective.normalize_tokens": sets(False, anything),
        # SteerLM and HelpSteer; HelpSteer2's SteerLM 2.0: 1e-7.
        "optimizer.learning_rate": sets(5e-6, above(0)),
        "optimizer.warmup": sets(0, at_least(0)),  # None is stated.
        "optimizer.weight_decay": sets(0.01, at_least(0)),  # SteerLM, appendix, and NeMo's recipe.
        # Groups: conversations, or in "steerlm2" prompts with their samples. Where each is asked
        # for its ratings, up to eight neighbours that answer one prompt are a group (not in
        # "padded").
        "batch_size": sets(128, _COUNT),
        # HelpSteer's 800 steps are about two; each SteerLM 2.0 round's two.
        "epochs": sets(2, _COUNT),
        "evaluate_every": sets(50, _COUNT),
        "select": sets("loss", one_of("loss", "accuracy")),  # Accuracy of "dpo" and "ipo".
    },
    # And a config by name for each of the stages, in whose texts "{NAME}" is an earlier stage's
    # folder.
    "recipe": {"stages": sets((), needed(what="names of stages"))},
    # And `base`, a config that the arms change: (("NAME", {"KEY": value, ...}), ...). Without a
    # reference the first arm is it.
    "sweep": {
        "seeds": sets((0,), rules.seeds),
        "arms": sets((), rules.arms),
        "reference": sets("", anything),  # The arm that others are compared with.
    },
    # And `base`, the config of what is planned.
    "plan": {
        "topology": sets("v5p:4x4x4", rules.topology),  # A TPU slice: its chip, and how many.
        # Tokens of a group, with which it is known how many rows a batch fills. HelpSteer2's two
        # responses and their prompt have some 770.
        "group_tokens": sets(770, _COUNT),
        "prompt_tokens": sets(0, at_least(0)),  # Of them; 0: half. Prompts are sampled from so.
        "responses": sets(2, _COUNT),  # Of a group; a judge's are its questions.
        "groups": sets(10_000, _COUNT),  # Of the data, for the hours; HelpSteer2 has about so many.
        "search": sets(False, anything),  # For mesh, micro-batch, remat and keeps, of a training.
    },
    "evaluate": {
        **_SEED,  # Of the search for weights.
        **_MODEL,
        **_SCORING,
        **_DERIVE,
        # How the outputs make one reward, as in "helpfulness=0.65,verbosity=-0.4"; "llama3_70b" or
        # "nemotron4_340b": the published ones; "search": those that do best on the validation
        # pairs; "": as recorded with the model.
        "model.weights": sets("", rules.reward_weights),
        # How a language model that was trained to say which of two responses is better is asked, in
        # both orders: see `evaluation.justifier`; "": a reward model's scores.
        "model.justifier": sets("", one_of("", *justifications.WAYS)),
        # Pairs that are not evaluated, to fit the temperature on, and the weights where asked.
        "validation": _DATA,
    },
    "expo": {
        # Two reward models: folders of exports or of runs, or names on the hub.
        "initial": _NEEDED,
        "trained": _NEEDED,  # Goes beyond the initial one.
        # How the outputs make one reward; "": as recorded with the trained model.
        "weights": _WEIGHTS,
        "dtype": _DTYPE,  # Of the computation.
        # `data`: validation pairs that choose the factor; `test`: others on which the initial,
        # trained and chosen models are scored once; "" for none.
        **_SCORING,
        **_DERIVE,
        "test": _DATA,  # Pairs that have no say in the factor.
        # Factors of trained - initial; 0 (initial) and 1 (trained) are always there too. Then a
        # finer grid around the best of them.
        "factors": sets((1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0), rules.factors),
        "fine_step": sets(0.02, at_least(0)),  # 0: no finer grid.
        "fine_reach": sets(0.08, at_least(0)),
    },
    "judge": {
        **_SEED,  # Of folds and of fitting.
        "model.name": _NEEDED,  # Folder, hub id or short name of a language model.
        "model.dtype": _DTYPE,  # Of the computation.
        # `data` is a file's path for emotions, knowledge; `max_tokens` is of a row that a selection
        # may take.
        **_SCORING | {"data": data("", needed())},
        # scores: responses by criteria, against human ratings where there are some. pairs: which
        # of two responses is better, against human preferences. selection: choose training data.
        # emotions: EQ-Bench's. knowledge: SelfAware's.
        "task": sets("scores", one_of("scores", "pairs", "selection", "emotions", "knowledge")),
        # A set that `judging.criteria.load` knows ("helpsteer", "flask", "summeval") or a .json
        # file; for pairs one criterion, "helpfulness" or "SET/NAME".
        "criteria": file("helpsteer", needed()),
        # How the score is made known: "forced", its token predicted right after the question;
        # "direct", the judge writes it; "reasoning", it writes feedback first.
        "condition": sets("forced", one_of("forced", "direct", "reasoning")),
        # What is aggregated, and how: `judging.lager.PRESETS`.
        "preset": sets("recommended", one_of("paper", "repository", "recommended")),
        # Of the layers: "" for even ones, the weights.json of another run, or "cross-validate":
        # fitted to the human ratings of the other folds, and saved as fitted to all. Emotions and
        # knowledge are always cross-validated where no file is given.
        "weights": file("", rules.layer_weights),
        "validation": _DATA,  # Rated data that weights are fitted on and that is not judged.
        "recipe": sets("converged", one_of("converged", "published")),  # How weights are fitted.
        "folds": sets(5, at_least(2)),  # Of scores; emotions and knowledge have five.
        # Beside the judge's: gpt_score, ridge_probe, reward_model, joined with ",".
        "baselines": sets("", anything),
        "reward_model": model("", anything),  # Folder or name, for the baseline of that name.
        "fraction": sets(0.1, rules.share),  # Of an instruction file, that a selection takes.
    },
    # HelpSteer2, section 4.5.
    "sample": {
        **_SEED,
        **_MODEL | {"model.name": model("", anything)},  # A language model.
        **_ASKING,
        # Every prompt is answered with each of these attribute settings; "" asks for nothing.
        "conditions": sets(
            (PAPER_CONDITION,),
            needed(parsed(rules.parse_condition), "texts (\"('',)\" asks for nothing)"),
        ),
        # Stands below the last turn of each prompt while it is answered, and is not kept: what it
        # asks for seems to come by itself, so that answers differ in what one cannot yet ask for.
        # For SteerLM; `hs2jax weigh` does not take such answers.
        "instruction": sets("", anything),
        "n": sets(10, _COUNT),  # Responses for each prompt and setting.
        "temperature": sets(0.7, at_least(0)),
        "top_p": sets(0.9, rules.share),
        "top_k": sets(0, at_least(0)),  # Only the likeliest so many tokens; 0: all.
        "max_new_tokens": sets(1024, _COUNT),
        # Elsewhere than here: "responses:FILE" with a row for each prompt, or the address of a
        # server, "http://localhost:8000/v1". See `alignment.sources`.
        "responses": _DATA,
        "server": sets("", anything),  # Of an OpenAI-compatible server.
    },
    "rescale": {
        **_MODEL,  # A reward model that rates attributes.
        **_READING,  # Responses.
        "ratings": _NEEDED_DATA,  # People's, whose mean and spread attributes get on these.
        "attributes": sets((), rules.names),  # Of which outputs; (): of all.
    },
    "annotate": {
        **_MODEL,  # A reward model that rates attributes.
        **_SCORING,
        "attributes": sets((), rules.names),  # Which are written; (): all that the model rates.
        "reward": sets(False, anything),  # One number instead, as it is, to make pairs by.
        # A row for each turn of the assistant, not only the last.
        "every_turn": sets(False, anything),
    },
    "weigh": {
        **_READING | {"data": data("", rules.sampled_data)},  # What `hs2jax sample` wrote.
        "reward_model": _NEEDED,  # Gives log P(a|x,y): a reward model that rates attributes.
        "prior": _NEEDED,  # Gives log P(y|x): the model fine-tuned without attributes.
        # Gives log Q'(y|a,x) of responses that were sampled elsewhere: the model that wrote them.
        # Of those sampled here it is known; a model that is named is asked all the same.
        "proposal": model("", anything),
        "dtype": _DTYPE,  # Of the computation.
        "unfinished": sets("drop", one_of("drop", "keep")),  # Responses cut at max_new_tokens.
        "least": sets(2, _COUNT),  # Responses of a group after that; one alone teaches nothing.
    },
    "steer": {
        **_SEED,
        # "name=MODEL,name=MODEL": folders, hub ids or short names, in the order in which each is
        # compared with the one before it.
        "policies": models("", parsed(rules.parse_policies)),
        "reward_model": _NEEDED,  # Measures attributes: a reward model with an output for each.
        # Language model, asked for nothing, that log Q(y|a,x) is held against.
        "reference": model("", anything),
        "dtype": _DTYPE,  # Of the computation.
        **_ASKING,
        # Each is asked for these values in turn,
        "attributes": sets(("verbosity", "complexity"), needed(rules.names, "names")),
        "requested": sets((0, 1, 2, 3, 4), rules.attribute_values),
        "base": sets(PAPER_CONDITION, parsed(rules.parse_condition)),  # while the others stay so.
        "n": sets(4, _COUNT),  # Responses for each prompt and setting.
        # As the policy is: only then is the mean log-ratio to the reference the KL divergence.
        "temperature": sets(1.0, at_least(0)),
        "top_p": sets(1.0, rules.share),
        "max_new_tokens": sets(1024, _COUNT),
    },
    "compare": {
        **_SEED,
        "policy": _NEEDED,  # A language model,
        "start": _NEEDED,  # and the one that it was trained from.
        # "name=MODEL,name=MODEL": what judges their answers.
        "reward_models": models("", needed(parsed(rules.parse_policies), "name=MODEL")),
        "dtype": _DTYPE,  # Of the computation.
        **_ASKING,
        "temperature": sets(1.0, above(0)),
        "max_new_tokens": sets(1024, _COUNT),
        "row_length": sets(4096, _COUNT),  # Tokens that a prompt and a response have to fit into.
    },
    # NeMo-Aligner's values where it states them; HelpSteer2-Preference's own are not published.
    "reinforce": {
        **{key: each for key, each in _TRAINING.items() if key not in _OF_EPOCHS},
        **_ASKING,
        "validation": _PROMPTS,  # That are not trained on, answered before and after.
        # "name=MODEL,name=MODEL": what scores responses.
        "reward_models": models("", needed(parsed(rules.parse_policies), "name=MODEL")),
        # As in "main=1,watch=0": one of weight 0 only watches; "": 1 of each.
        "reward_weights": _WEIGHTS,
        # Data whose responses' rewards get mean 0 and spread 1; "": rewards as they are.
        "standardize": _DATA,
        # "ppo" has a value model beside, and advantages of each token from it.
        "algorithm": sets("reinforce", one_of("reinforce", "ppo")),
        "n": sets(4, _COUNT),  # Responses to each prompt.
        "batch_size": sets(32, _COUNT),  # Prompts of a step.
        "steps": sets(313, _COUNT),  # Each answers prompts, and learns from that.
        "updates": sets(1, _COUNT),  # Of the optimizer in a step, each on its part of the prompts.
        "baseline": sets("leave_one_out", one_of(*policy_gradient.BASELINES)),
        # What the loss is a mean of: responses, each the sum over its tokens, or tokens.
        "mean": sets("responses", one_of("responses", "tokens")),
        "clip": sets(0.0, at_least(0)),  # Of the importance ratio, around 1; 0: none.
        "truncated": sets("keep", one_of("keep", "drop")),  # Responses cut at max_new_tokens.
        "kl.coefficient": sets(0.01, at_least(0)),  # Of what comes off the reward.
        # Its estimate, see `losses.kl`: summed over a response, "absolute" averaged as by NeMo.
        "kl.form": sets("k1", one_of(*policy_gradient.KLS)),
        # Mean log-ratio to the start, nats of a response, that stops the run; 0: none.
        "kl.ceiling": free(100.0, at_least(0)),
        "missing_limit": free(0.1, rules.share),  # Share of responses without a reward that stops.
        # Of the value model, which starts as the reward.
        "ppo.learning_rate": sets(9e-6, above(0)),
        "ppo.value_clip": sets(0.2, at_least(0)),  # Around the value before; 0: none.
        "ppo.discount": sets(1.0, rules.share),  # Of what comes one token later.
        "ppo.decay": sets(0.95, rules.share),  # Lambda of generalized advantages.
        "temperature": sets(1.0, above(0)),  # Of the policy that is sampled, trained and the start.
        "top_p": sets(1.0, rules.whole_vocabulary(1)),
        "top_k": sets(0, rules.whole_vocabulary(0)),
        "max_new_tokens": sets(2048, _COUNT),
        "row_length": sets(4096, _COUNT),  # Tokens that a prompt and a response have to fit into.
    },
}


BASED = ("sweep", "plan")  # Kinds whose configs hold another, `base`.
