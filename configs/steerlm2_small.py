"""SteerLM 2.0 on public instructions, small: SmolLM2-135M on two CPU cores.

    hs2jax train --config=configs/helpsteer.py --workdir=runs/helpsteer ...   (see that file)
    hs2jax run --config=configs/steerlm2_small.py:DATA --config.reward_model=runs/helpsteer/model \\
        --workdir=runs/steerlm2

Argument: the folder of GPTeacher's gpteacher/roleplay.json, PandaLM's pandalm/testset-v1.json,
LLMBar's llmbar/LLMBar__*.json, of which only the prompts are used, and HelpSteer's
helpsteer/sample500.jsonl, of which only the ratings are. The reward model is one that rates
attributes, trained on people's ratings (HelpSteer). Stages as in configs/steerlm2.py, which has the
paper's recipe, and three things more, by which so small a model learns something from so little:

* The fine-tuned model answers each prompt many times (own_short, own_long), and SteerLM learns from
  these answers too: in the file alone the kind of prompt tells the ratings, and the policy has no
  use for the line that asks for them. While it answers it is told to be brief, or to make a list,
  which SteerLM is not: so a rating goes with what an answer begins like, which is learned much
  sooner than where it ends.
* The line asks for one of the two attributes in which this reward model follows people, and for no
  other: an answer is learned from behind a line of its verbosity, and behind one of its complexity.
  In one line they would say nearly the same, as long answers are rated high in both, and asking for
  one while the other stays would ask for what hardly occurs.
* Their values are spread over those answers as people's ratings are (rescaled): in whole numbers
  the reward model would rate nearly all answers to a prompt alike.

Answers have at most 96 tokens, so that there can be many. Learning rates are for SmolLM2. What came
out is in experiments/steerlm.
"""

from ml_collections import ConfigDict, FieldReference

from hs2jax import configs

TOKENS = 96  # Of an answer.
ATTRIBUTES = ("complexity", "verbosity")
VALUES = (0, 1, 2)  # Asked for in the round, and in the report.
# Stages in which the fine-tuned model answers, and what it is told while it does.
OWN = {
    "own_short": "Answer with one word.",
    "own_long": "Answer with a numbered list of three points.",
}
RATER = "{rescaled}/model"
# LLMBar's natural prompts: the first 24 are the report's; then come the round's, SteerLM 2.0's
# samples and their weights to learn from and held out; the policy answers those from 36 on by
# itself, and SteerLM leaves the answers to the first 24 of these prompts out.
ROUND = {"1": "[24:40]", "1_held_out": "[40:45]"}


def get_config(data="data"):
    roleplay = f"instructions:{data}/gpteacher/roleplay.json"
    pandalm = f"pandalm:{data}/pandalm/testset-v1.json"

    def llmbar(part: str) -> str:
        return f"llmbar:{data}/llmbar/LLMBar__{part}.json"

    recipe = configs.defaults("recipe")
    answers = {"file": f"{pandalm}[:50]"} | {
        name: f"sampled:{{{name}}}/samples.jsonl" for name in OWN
    }
    annotations = {f"{name}_{each}": (name, each) for name in answers for each in ATTRIBUTES}
    samples = [f"samples_{name}" for name in ROUND]
    groups = [f"groups_{name}" for name in ROUND]
    recipe.stages = (
        *("sft", *OWN, "rescaled", *annotations, "steerlm"),
        *(*samples, *groups, "round_1", "steering"),
    )
    recipe.reward_model = FieldReference("runs/helpsteer/model")

    sft = _policy(learning_rate=3e-5, batch_size=16, evaluate_every=10)
    sft.data.train = f"{roleplay}[:110]+{pandalm}[:110]"
    sft.data.validation = f"{roleplay}[320:335]+{pandalm}[320:335]"
    sft.data.on_error = "skip"  # PandaLM has a few empty responses.
    recipe.sft = sft

    for name, instruction in OWN.items():
        own = configs.defaults("sample")
        own.model.name = "{sft}/model"
        own.model.dtype = "bfloat16"  # Faster; what is kept of the answers is their text.
        own.data = f"{llmbar('Natural')}[36:]+{llmbar('Adversarial__Neighbor')}"
        own.conditions = ("",)
        own.instruction = instruction
        own.n = 4
        own.temperature, own.top_p = 0.8, 0.95
        own.max_new_tokens = TOKENS
        own.on_error = "skip"
        recipe[name] = own

    rescaled = configs.defaults("rescale")
    rescaled.model.name = recipe.get_ref("reward_model")
    rescaled.data = "+".join(f"sampled:{{{name}}}/samples.jsonl" for name in OWN)
    rescaled.ratings = f"helpsteer:{data}/helpsteer/sample500.jsonl"
    rescaled.attributes = ATTRIBUTES
    rescaled.on_error = "skip"
    recipe.rescaled = rescaled

    for name, (source, attribute) in annotations.items():
        annotation = configs.defaults("annotate")
        annotation.model.name = RATER
        annotation.data = answers[source]
        annotation.attributes = (attribute,)
        annotation.on_error = "skip"
        recipe[name] = annotation

    steerlm = _policy(learning_rate=2e-4, batch_size=8, evaluate_every=25)
    steerlm.model.name = "{sft}/model"
    rated = {name: f"ratings:{{{name}}}/annotated.jsonl" for name in annotations}
    of_own = [rows for name, rows in rated.items() if annotations[name][0] in OWN]
    of_file = [rows for rows in rated.values() if rows not in of_own]
    steerlm.data.train = "+".join([*of_file, *(f"{rows}[24:]" for rows in of_own)])
    # Fewer than are left out above: a prompt without a finished answer has no row. Of the first 24
    # up to four may be such.
    steerlm.data.validation = "+".join(f"{rows}[:20]" for rows in of_own)
    steerlm.data.condition = "ratings"
    recipe.steerlm = steerlm

    asked = tuple(f"{name}={value}" for name in ATTRIBUTES for value in VALUES)
    for part, prompts in ROUND.items():
        sampled = configs.defaults("sample")
        sampled.model.name = "{steerlm}/model"
        sampled.data = f"{llmbar('Natural')}{prompts}"
        sampled.conditions = asked
        sampled.n = 8
        sampled.max_new_tokens = TOKENS
        sampled.on_error = "skip"
        recipe[f"samples_{part}"] = sampled

        weights = configs.defaults("weigh")
        weights.data = f"sampled:{{samples_{part}}}/samples.jsonl"
        weights.reward_model = RATER
        weights.prior = "{sft}/model"
        weights.on_error = "skip"
        recipe[f"groups_{part}"] = weights

    learned = _policy(learning_rate=3e-5, batch_size=4, evaluate_every=5)
    learned.model.name = "{steerlm}/model"
    learned.objective.kind = "steerlm2"
    learned.data.train, learned.data.validation = (
        f"sampled:{{{name}}}/groups.jsonl" for name in groups
    )
    recipe.round_1 = learned

    report = configs.defaults("steer")
    report.policies = "sft={sft}/model,steerlm={steerlm}/model,steerlm2={round_1}/model"
    report.reward_model = RATER
    report.reference = "{sft}/model"
    report.data = f"{llmbar('Natural')}[:24]"
    report.attributes, report.requested = ATTRIBUTES, VALUES
    report.base = ""  # One is asked for at a time, as in SteerLM.
    report.dtype = "bfloat16"
    report.n = 4
    report.max_new_tokens = TOKENS
    report.on_error = "skip"
    recipe.steering = report
    return recipe


def _policy(*, learning_rate: float, batch_size: int, evaluate_every: int) -> ConfigDict:
    config = configs.defaults("train_policy")
    config.model.remat = False
    config.data.row_length = 768
    config.optimizer.learning_rate = learning_rate
    config.optimizer.warmup = 4
    config.optimizer.schedule = "cosine"
    config.batch_size = batch_size
    config.micro_batch_size = 1
    config.epochs = 1
    config.evaluate_every = config.checkpoint_every = evaluate_every
    return config
