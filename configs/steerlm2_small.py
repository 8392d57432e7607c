"""SteerLM 2.0 on public instructions, small: SmolLM2-135M on two CPU cores.

    hs2jax train --config=configs/helpsteer.py --workdir=runs/helpsteer ...   (see that file)
    hs2jax run --config=configs/steerlm2_small.py:DATA --config.reward_model=runs/helpsteer/model \\
        --workdir=runs/steerlm2

Argument: the folder of GPTeacher's gpteacher/roleplay.json, PandaLM's pandalm/testset-v1.json,
LLMBar's llmbar/LLMBar__Natural.json, of which only the prompts are used, and HelpSteer's
helpsteer/sample500.jsonl, of which only the ratings are. The reward model is one that rates
attributes, trained on people's ratings (HelpSteer). Stages as in configs/steerlm2.py, which has the
paper's recipe, and two more. The fine-tuned model answers some prompts several times (own), and
SteerLM learns from these answers too: in the file alone the kind of prompt tells the ratings, and
the policy has no use for the line that asks for them. And the two attributes in which the reward
model follows people are spread over those answers as people's ratings are (rescaled): in whole
numbers it would rate nearly all answers to a prompt alike. It rates nearly all 3 in the other
attributes. Learning rates are for SmolLM2. What came out, which is not steering yet, is in
experiments/steerlm.
"""

from ml_collections import ConfigDict, FieldReference

from hs2jax.alignment import settings, steering
from hs2jax.training import defaults

BASE = "helpfulness=3,correctness=3,coherence=3"
TOKENS = 192  # Of an answer.
RATER = "{rescaled}/model"


def get_config(data="data"):
    roleplay = f"instructions:{data}/gpteacher/roleplay.json"
    pandalm = f"pandalm:{data}/pandalm/testset-v1.json"
    llmbar = f"llmbar:{data}/llmbar/LLMBar__Natural.json"
    recipe = ConfigDict()
    recipe.stages = (
        *("sft", "own", "rescaled", "annotation", "own_annotation", "steerlm"),
        *("samples_1", "groups_1", "round_1", "steering"),
    )
    recipe.reward_model = FieldReference("runs/helpsteer/model")

    sft = _policy(learning_rate=3e-5, batch_size=16, evaluate_every=10)
    sft.data.train = f"{roleplay}[:110]+{pandalm}[:110]"
    sft.data.validation = f"{roleplay}[320:335]+{pandalm}[320:335]"
    sft.data.on_error = "skip"  # PandaLM has a few empty responses.
    recipe.sft = ConfigDict({"verb": "train", "config": sft})

    own = settings.sample()
    own.model.name = "{sft}/model"
    own.data = f"{roleplay}[110:200]+{pandalm}[110:150]"
    own.conditions = ("",)
    own.n = 6
    own.temperature = own.top_p = 1.0  # Answers that differ.
    own.max_new_tokens = TOKENS
    own.on_error = "skip"
    recipe.own = ConfigDict({"verb": "sample", "config": own})

    rescaled = settings.rescale()
    rescaled.model.name = recipe.get_ref("reward_model")
    rescaled.data = "sampled:{own}/samples.jsonl"
    rescaled.ratings = f"helpsteer:{data}/helpsteer/sample500.jsonl"
    rescaled.attributes = ("complexity", "verbosity")
    rescaled.on_error = "skip"
    recipe.rescaled = ConfigDict({"verb": "rescale", "config": rescaled})

    annotation = settings.annotate()
    annotation.model.name = RATER
    annotation.data = f"{roleplay}[:40]+{pandalm}[:40]"
    annotation.on_error = "skip"
    recipe.annotation = ConfigDict({"verb": "annotate", "config": annotation})
    annotation = annotation.copy_and_resolve_references()
    annotation.data = "sampled:{own}/samples.jsonl"
    recipe.own_annotation = ConfigDict({"verb": "annotate", "config": annotation})

    steerlm = _policy(learning_rate=1e-4, batch_size=4, evaluate_every=60)
    steerlm.model.name = "{sft}/model"
    steerlm.data.train = (
        "ratings:{annotation}/annotated.jsonl+ratings:{own_annotation}/annotated.jsonl[:-6]"
    )
    steerlm.data.validation = "ratings:{own_annotation}/annotated.jsonl[-6:]"
    steerlm.data.condition = "ratings"
    recipe.steerlm = ConfigDict({"verb": "train", "config": steerlm})

    samples = settings.sample()
    samples.model.name = "{steerlm}/model"
    samples.data = f"{llmbar}[20:25]+{roleplay}[350:357]"
    samples.conditions = tuple(
        f"{BASE},complexity={complexity},verbosity={verbosity}"
        for complexity in (1, 2)
        for verbosity in (1, 3)
    )
    samples.n = 8
    samples.max_new_tokens = TOKENS
    samples.on_error = "skip"
    recipe.samples_1 = ConfigDict({"verb": "sample", "config": samples})

    groups = settings.weigh()
    groups.data = "sampled:{samples_1}/samples.jsonl"
    groups.reward_model = RATER
    groups.prior = "{sft}/model"
    groups.on_error = "skip"
    recipe.groups_1 = ConfigDict({"verb": "weigh", "config": groups})

    learned = _policy(learning_rate=1e-5, batch_size=4, evaluate_every=9)
    learned.model.name = "{steerlm}/model"
    learned.data.row_length = 1024  # Most prompts with their eight answers; others go into two.
    learned.objective.kind = "steerlm2"
    # The last prompts with all their settings are held out.
    learned.data.train = "sampled:{groups_1}/groups.jsonl[:-12]"
    learned.data.validation = "sampled:{groups_1}/groups.jsonl[-12:]"
    recipe.round_1 = ConfigDict({"verb": "train", "config": learned})

    report = steering.settings()
    report.policies = "sft={sft}/model,steerlm={steerlm}/model,steerlm2={round_1}/model"
    report.reward_model = RATER
    report.reference = "{sft}/model"
    report.data = f"{llmbar}[64:68]+{roleplay}[400:412]"
    report.requested = (0, 1, 2, 3)
    report.base = f"{BASE},complexity=1,verbosity=2"  # Near people's means.
    report.n = 2
    report.max_new_tokens = TOKENS
    report.on_error = "skip"
    recipe.steering = ConfigDict({"verb": "steer", "config": report})
    return recipe


def _policy(*, learning_rate: float, batch_size: int, evaluate_every: int) -> ConfigDict:
    config = defaults.policy()
    config.model.remat = False
    config.data.row_length = 768
    config.optimizer.learning_rate = learning_rate
    config.optimizer.warmup = 4
    config.optimizer.schedule = "cosine"
    config.batch_size = batch_size
    config.micro_rows = 1
    config.epochs = 1
    config.evaluate_every = config.checkpoint_every = evaluate_every
    return config
