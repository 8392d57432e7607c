"""Settings of the stages of alignment, with the papers' values where they are stated (HelpSteer2,
arXiv 2406.08673, section 4.5; SteerLM, arXiv 2310.05344)."""

from ml_collections import ConfigDict

# What the first paper asks for: the best answers, of middling complexity and length.
PAPER = "helpfulness=4,correctness=4,coherence=4,complexity=2,verbosity=2"


def sample() -> ConfigDict:
    """A config for `hs2jax sample`. What has no default here must be set: model and data."""
    config = ConfigDict()
    config.seed = 0

    config.model = ConfigDict()
    config.model.name = ""  # Folder, GGUF file, hub id or short name of a language model.
    config.model.template = ""  # How messages become text; "": as recorded, else the tokenizer's.
    config.model.dtype = ""  # Of the computation; "": float32 on CPU, bfloat16 elsewhere.

    config.data = ""  # Prompts, "format:path[slice]", several joined with "+".
    # Every prompt is answered with each of these attribute settings; "" asks for nothing.
    config.conditions = (PAPER,)
    # Stands below the last turn of each prompt while it is answered, and is not kept: what it asks
    # for seems to come by itself, so that answers differ in what one cannot yet ask for. For
    # SteerLM; `hs2jax weigh` does not take such answers.
    config.instruction = ""
    config.n = 10  # Responses for each prompt and setting.
    config.temperature = 0.7
    config.top_p = 0.9
    config.top_k = 0  # Only the likeliest so many tokens; 0: all.
    config.max_new_tokens = 1024
    # Elsewhere than here: "responses:FILE" with a row for each prompt, or the address of a server,
    # "http://localhost:8000/v1". See `alignment.sources`.
    config.responses = ""
    config.server = ""
    config.on_error = "raise"  # raise | skip (counted): malformed rows, and too long prompts.

    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})
    return config


def rescale() -> ConfigDict:
    """A config for `hs2jax rescale`. What has no default here must be set: model, data and
    ratings."""
    config = ConfigDict()
    config.model = ConfigDict()
    config.model.name = ""  # Folder, hub id or short name of a reward model that rates attributes.
    config.model.template = ""  # How messages become text; "": as recorded, else the tokenizer's.
    config.model.dtype = ""  # Of the computation; "": float32 on CPU, bfloat16 elsewhere.

    config.data = ""  # Responses, "format:path[slice]", several joined with "+".
    config.ratings = ""  # People's ratings, whose mean and spread attributes get on these.
    config.attributes = ()  # Of which outputs; (): of all.
    config.on_error = "raise"  # raise | skip (counted): malformed rows, and too long responses.

    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})
    return config


def annotate() -> ConfigDict:
    """A config for `hs2jax annotate`. What has no default here must be set: model and data."""
    config = ConfigDict()
    config.model = ConfigDict()
    config.model.name = ""  # Folder, hub id or short name of a reward model that rates attributes.
    config.model.template = ""  # How messages become text; "": as recorded, else the tokenizer's.
    config.model.dtype = ""  # Of the computation; "": float32 on CPU, bfloat16 elsewhere.

    config.data = ""  # "format:path[slice]", several joined with "+".
    config.attributes = ()  # Which are written; (): all that the model rates.
    config.every_turn = False  # A row for each turn of the assistant, not only for the last.
    config.max_tokens = 0  # Of a conversation: prompts are cut from the left. 0: what fits.
    config.on_error = "raise"  # raise | skip (counted): malformed rows, and too long responses.

    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})
    return config


def weigh() -> ConfigDict:
    """A config for `hs2jax weigh`. What has no default here must be set: data, reward model and
    prior."""
    config = ConfigDict()
    config.data = ""  # "sampled:FILE", what `hs2jax sample` wrote; several joined with "+".
    config.reward_model = ""  # Gives log P(a|x,y): a reward model that rates attributes.
    config.prior = ""  # Gives log P(y|x): the model fine-tuned without attributes.
    # Gives log Q'(y|a,x) of responses that were sampled elsewhere: the model that wrote them. Of
    # those sampled here it is known; a model that is named is asked all the same.
    config.proposal = ""
    config.dtype = ""  # Of the computation; "": float32 on CPU, bfloat16 elsewhere.

    config.unfinished = "drop"  # drop | keep: responses that were cut at max_new_tokens.
    config.least = 2  # Responses that a group has at least after that; one alone teaches nothing.
    config.on_error = "raise"  # raise | skip (counted): malformed rows, and too long ones.

    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})
    return config
