"""SteerLM 2.0: a policy that gives the attributes it is asked for (HelpSteer2, section 4.5).

    hs2jax train --config=configs/helpsteer2_regression.py:llama3_70b --workdir=runs/regression \\
        --config.model.outputs="('helpfulness','correctness','coherence','complexity','verbosity')"
    hs2jax run --config=configs/steerlm2.py:llama3_70b --workdir=runs/steerlm2 \\
        --config.reward_model=runs/regression/model

Argument: llama3_70b (the paper's), or runlocal: SmolLM2 on the bundled mini set, with a reward
model of its own and one round, minutes on a laptop, which shows that it works and no more;
configs/steerlm2_small.py is longer, on people's instructions.

Stages: supervised fine-tuning (sft), which gives P(y|x); annotation of the same conversations by
the reward model; SteerLM; then rounds of sampling, weighing and training, each from the policy of
the one before; and the steering report. A killed run goes on where it was.

Published, Llama-3-70B on Daring-Anteater (MT-Bench, length in characters): SFT 7.96, 1514;
SteerLM 8.17, 1444; round 1 8.24, 1523; round 2 8.28, 1472. 1184 node-hours of 8 H100.
SteerLM's learning rate and batch are HelpSteer's, which the paper follows without stating them.
Ours: Adam's settings are NeMo-Aligner's; held-out groups are 2 % of the prompts.
Hardware: 20 bytes for each parameter in training, 1.4 TB at 70B; sampling 4 and its cache.
"""

from ml_collections import ConfigDict, FieldReference

from hs2jax import configs

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
ANTEATER = "conversations:hf://datasets/nvidia/Daring-Anteater/train.jsonl"
MINI = "helpsteer2:mini/train.jsonl"


def get_config(arg=None):
    if arg not in (None, "llama3_70b", "runlocal"):
        raise ValueError(f"this config's argument is {arg!r}; it must be llama3_70b or runlocal")
    local = arg == "runlocal"
    recipe = configs.defaults("recipe")
    recipe.stages = ("reward",) if local else ()
    # One setting for all stages that ask it.
    recipe.reward_model = FieldReference("{reward}/model" if local else "runs/regression/model")
    rounds = 1 if local else 2

    def add(name, config):
        recipe[name] = config
        if name not in recipe.stages:
            recipe.stages += (name,)

    if local:
        add("reward", _reward_model())

    # SFT and SteerLM ------------------------------------------------------------------------------
    sft = configs.defaults("train_policy")
    sft.model.name = "smollm2-135m-instruct" if local else "meta-llama/Meta-Llama-3-70B"
    sft.model.template = "" if local else "steerlm"
    sft.optimizer.learning_rate = 5e-5 if local else 2e-6
    sft.batch_size = 384
    if local:
        _small(sft)
    steerlm = sft.copy_and_resolve_references()
    data = MINI if local else ANTEATER
    trained, held_out = ("[:16]", "[16:18]") if local else ("[:98%]", "[98%:]")
    sft.data.train, sft.data.validation = f"{data}{trained}", f"{data}{held_out}"
    add("sft", sft)

    annotation = configs.defaults("annotate")
    annotation.model.name = recipe.get_ref("reward_model")
    annotation.data = f"{data}[:18]" if local else data
    annotation.every_turn = not local
    annotation.on_error = "skip"
    add("annotation", annotation)

    steerlm.data.train = f"ratings:{{annotation}}/annotated.jsonl{trained}"
    steerlm.data.validation = f"ratings:{{annotation}}/annotated.jsonl{held_out}"
    steerlm.data.condition = "ratings"
    if not local:
        steerlm.optimizer.learning_rate, steerlm.batch_size = 5e-6, 128
    add("steerlm", steerlm)

    # Rounds of SteerLM 2.0 ------------------------------------------------------------------------
    policy = "{steerlm}/model"
    for i in range(1, rounds + 1):
        samples = configs.defaults("sample")
        samples.seed = i
        samples.model.name = policy
        samples.data = f"{data}[:6]" if local else f"{data}[:20000]"
        samples.on_error = "skip"
        if local:
            samples.n, samples.max_new_tokens = 8, 64
        add(f"samples_{i}", samples)

        groups = configs.defaults("weigh")
        groups.data = f"sampled:{{samples_{i}}}/samples.jsonl"
        groups.reward_model = recipe.get_ref("reward_model")
        groups.prior = "{sft}/model"
        groups.unfinished = "keep" if local else "drop"  # Few of 64 tokens come to their end.
        groups.on_error = "skip"
        add(f"groups_{i}", groups)

        learned = configs.defaults("train_policy")
        learned.model.name = policy
        learned.objective.kind = "steerlm2"
        found = f"sampled:{{groups_{i}}}/groups.jsonl"
        learned.data.train, learned.data.validation = f"{found}[:98%]", f"{found}[98%:]"
        learned.optimizer.learning_rate = 1e-7
        if local:
            _small(learned)
            learned.data.train, learned.data.validation = f"{found}[:-2]", f"{found}[-2:]"
            learned.optimizer.learning_rate = 5e-6
        add(f"round_{i}", learned)
        policy = f"{{round_{i}}}/model"

    # Report ---------------------------------------------------------------------------------------
    report = configs.defaults("steer")
    names = ["sft", "steerlm", *(f"round_{i}" for i in range(1, rounds + 1))]
    report.policies = ",".join(f"{name}={{{name}}}/model" for name in names)
    report.reward_model = recipe.get_ref("reward_model")
    report.reference = "{sft}/model"
    report.data = "helpsteer2:mini/validation.jsonl"
    if local:
        report.data += "[:3]"
        report.attributes, report.requested = ("verbosity",), (0, 2, 4)
        report.n, report.max_new_tokens = 2, 64
    add("steering", report)
    return recipe


def _reward_model() -> ConfigDict:
    """A regression model of the mini set's ratings."""
    config = configs.defaults("train_reward_model")
    config.model.outputs = ATTRIBUTES
    config.model.weights = "helpfulness=1"
    config.data.train = f"{MINI}[:24]"
    config.data.validation = "helpsteer2:mini/validation.jsonl[:6]"
    config.objective.kind = "regression"
    config.optimizer.learning_rate = 5e-5
    _small(config)
    return config


def _small(config: ConfigDict) -> None:
    """For a laptop."""
    config.model.remat = False
    config.data.row_length = 512
    config.data.on_error = "skip"
    config.batch_size = 6
    config.micro_batch_size = 1
    config.epochs = 1
    config.evaluate_every = 12
    config.checkpoint_every = 12
    config.optimizer.warmup = 3
