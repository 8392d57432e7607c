"""The settings of training, evaluation and ExPO, with the papers' values where they are stated
(HelpSteer2, section 3 and appendix; the NeMo-Aligner recipe of HelpSteer2-Preference)."""

from ml_collections import ConfigDict


def reward_model() -> ConfigDict:
    """A config for `hs2jax train`. What has no default here must be set: the data."""
    config = ConfigDict()
    config.seed = 0

    config.model = ConfigDict()
    config.model.name = "smollm2-135m-instruct"  # Folder, GGUF file, hub id or short name.
    config.model.outputs = ("reward",)  # Of a new head; () goes on with the checkpoint's head.
    config.model.bias = False  # transformers' heads have none.
    # As in "helpfulness=0.65,verbosity=-0.4", for one scalar; "": as recorded in the checkpoint,
    # else the output that the objective compares.
    config.model.weights = ""
    # How messages become text: "extra_id" (NeMo's); "": as recorded, else the tokenizer's own.
    config.model.template = ""
    config.model.dtype = ""  # Of the computation; "": float32 on CPU, bfloat16 elsewhere.
    config.model.remat = True  # Recompute each layer in the backward pass, to save memory.

    config.data = ConfigDict()
    config.data.train = ""  # "format:path[slice]", several joined with "+".
    config.data.validation = ""
    config.data.derive = ""  # Attribute whose differences are preferences where none are given.
    config.data.layout = "shared"  # shared | separate | padded: see data.packing.
    config.data.row_length = 4096  # Tokens of a row. A group that does not fit is too long.
    config.data.too_long = "skip"  # skip | truncate (a prompt is cut from the left).
    config.data.on_error = "raise"  # raise | skip (counted in the run's record).

    config.objective = ConfigDict()
    config.objective.kind = "bradley_terry"  # regression | bradley_terry | joint
    config.objective.output = ""  # What Bradley-Terry compares; "": the first output.
    config.objective.preference = "regular"  # regular | margin | scaled
    config.objective.label_smoothing = 0.0
    config.objective.centering = 0.0  # 0.01 keeps rewards around zero.
    config.objective.preference_weight = 1.0  # Of the pairs in "joint".

    _add_trained_parts(config)
    _add_optimizer(config)

    _add_course(config)
    return config


def policy() -> ConfigDict:
    """A config for `hs2jax train` of a policy, with HelpSteer's values for SteerLM (arXiv
    2311.09528, section 4.4), which HelpSteer2 follows. What has no default here must be set: the
    data."""
    config = ConfigDict()
    config.seed = 0

    config.model = ConfigDict()
    config.model.name = "smollm2-135m-instruct"  # Folder, GGUF file, hub id or short name.
    # How messages become text: "steerlm" (NeMo's); "": as recorded, else the tokenizer's own.
    config.model.template = ""
    config.model.dtype = ""  # Of the computation; "": float32 on CPU, bfloat16 elsewhere.
    config.model.remat = True  # Recompute each layer in the backward pass, to save memory.

    config.data = ConfigDict()
    config.data.train = ""  # "format:path[slice]", several joined with "+".
    config.data.validation = ""
    # "ratings": every rated response is learned as the answer to a request for its ratings
    # (SteerLM); "": as the data have it, which is no request but in sampled groups.
    config.data.condition = ""
    config.data.layout = "shared"  # shared | separate | padded: see data.packing.
    config.data.row_length = 4096  # Tokens of a row, NeMo's. What does not fit is too long.
    config.data.too_long = "skip"  # skip | truncate (a prompt is cut from the left).
    config.data.on_error = "raise"  # raise | skip (counted in the run's record).

    config.objective = ConfigDict()
    config.objective.kind = "likelihood"  # likelihood | steerlm2 (of groups that were weighed)
    # NeMo's division of a group's loss by its responses' mean length, in "steerlm2". Not the
    # paper's.
    config.objective.normalize_tokens = False

    _add_trained_parts(config)
    _add_optimizer(config)
    config.optimizer.learning_rate = 5e-6  # SteerLM and HelpSteer; HelpSteer2's SteerLM 2.0: 1e-7.
    config.optimizer.warmup = 0  # None is stated.
    config.optimizer.weight_decay = 0.01  # SteerLM, appendix, and NeMo's recipe.

    _add_course(config)
    # Groups: conversations, or in "steerlm2" prompts with their samples. Where each is asked for
    # its ratings, up to eight neighbours that answer one prompt are a group (not in "padded").
    config.batch_size = 128
    config.epochs = 2  # HelpSteer's 800 steps are about two; SteerLM 2.0 has two in each round.
    config.evaluate_every = 50
    return config


def _add_trained_parts(config: ConfigDict) -> None:
    # What is trained. A reward model's head always is.
    config.trainable = ConfigDict()
    config.trainable.paths = ""  # Regex of paths; "": all, or with LoRA none. See README.
    config.trainable.last_layers = -1  # Only these, what is above them, and no embedding; -1: all.
    config.trainable.cache = False  # Compute the layers below them once, and keep that on disk.

    config.lora = ConfigDict()
    config.lora.rank = 0  # Above 0: the projections get LoRA and their own weights are frozen.
    config.lora.alpha = 16.0  # The addition is scaled by alpha / rank.
    config.lora.targets = "."  # Regex of projections, such as "attention/(q|v)$".


def _add_optimizer(config: ConfigDict) -> None:
    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 2e-6
    config.optimizer.schedule = "constant"  # constant | cosine
    config.optimizer.warmup = 10  # Steps.
    config.optimizer.final = 0.1  # Of the peak, where "cosine" ends.
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.98
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip = 1.0
    config.optimizer.first_moment = "float32"  # float32 | bfloat16, which saves memory.


def _add_course(config: ConfigDict) -> None:
    config.batch_size = 64  # Groups. With two responses each, the papers' 128 rows.
    config.micro_rows = 8  # Rows computed at a time, over all devices; memory, not results.
    config.epochs = 2
    config.evaluate_every = 10  # Steps.
    config.checkpoint_every = 50  # Steps.
    config.select = "loss"  # On the validation data: loss | accuracy (of reward models).
    config.not_finite_limit = 5  # Steps in a row without a finite gradient that stop the run.

    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})


def evaluation() -> ConfigDict:
    """A config for `hs2jax evaluate`. What has no default here must be set: model and data."""
    config = ConfigDict()
    config.seed = 0  # Of the search for weights.

    config.model = ConfigDict()
    config.model.name = ""  # Folder, hub id or short name of a reward model.
    # How the outputs make one reward, as in "helpfulness=0.65,verbosity=-0.4"; "llama3_70b" or
    # "nemotron4_340b": the published ones; "search": those that do best on the validation pairs;
    # "": as recorded with the model.
    config.model.weights = ""
    config.model.template = ""  # How messages become text; "": as recorded, else the tokenizer's.
    config.model.dtype = ""  # Of the computation; "": float32 on CPU, bfloat16 elsewhere.

    config.data = ""  # "format:path[slice]", several joined with "+".
    # Pairs that are not evaluated, to fit the temperature on, and the weights where asked.
    config.validation = ""
    config.derive = ""  # Attribute whose differences are preferences where none are given.
    config.max_tokens = 0  # Of a conversation: prompts are cut from the left. 0: what fits.
    config.on_error = "raise"  # raise | skip (counted in the record).

    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})
    return config


def expo() -> ConfigDict:
    """A config for `hs2jax expo`. What has no default here must be set: two models and data."""
    config = ConfigDict()
    # Two reward models: folders of exports or of runs, or names on the hub.
    config.initial = ""
    config.trained = ""
    # How the outputs make one reward, as in "helpfulness=0.65,verbosity=-0.4"; "": as recorded with
    # the trained model.
    config.weights = ""
    config.dtype = ""  # Of the computation; "": float32 on CPU, bfloat16 elsewhere.

    # Validation pairs that choose the factor, "format:path[slice]", several joined with "+", and
    # others on which the initial, trained and chosen models are scored once; "" for none.
    config.data = ""
    config.test = ""
    config.derive = ""  # Attribute whose differences are preferences where none are given.
    config.max_tokens = 0  # Of a conversation: prompts are cut from the left. 0: what fits.
    config.on_error = "raise"  # raise | skip (counted in the record).

    # Factors of trained - initial; 0 (initial) and 1 (trained) are always there too. Then a finer
    # grid around the best of them.
    config.factors = (1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0)
    config.fine_step = 0.02  # 0: no finer grid.
    config.fine_reach = 0.08

    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})
    return config


def judging() -> ConfigDict:
    """A config for `hs2jax judge`. What has no default here must be set: model and data."""
    config = ConfigDict()
    config.seed = 0  # Of folds and of fitting.

    config.model = ConfigDict()
    config.model.name = ""  # Folder, hub id or short name of a language model.
    config.model.dtype = ""  # Of the computation; "": float32 on CPU, bfloat16 elsewhere.

    # scores: responses by criteria, against human ratings where there are some. pairs: which of two
    # responses is better, against human preferences. selection: choose training data. emotions:
    # EQ-Bench's. knowledge: SelfAware's.
    config.task = "scores"
    # "format:path[slice]", several joined with "+"; the path of the file for emotions, knowledge.
    config.data = ""
    # A set that `judging.criteria.load` knows ("helpsteer", "flask", "summeval") or a .json file;
    # for pairs one criterion, "helpfulness" or "SET/NAME".
    config.criteria = "helpsteer"
    # How the score is made known: "forced", its token predicted right after the question; "direct",
    # the judge writes it; "reasoning", it writes feedback first.
    config.condition = "forced"
    config.preset = "recommended"  # One of `judging.lager.PRESETS`: what is aggregated, and how.
    # Of the layers: "" for even ones, the weights.json of another run, or "cross-validate": fitted
    # to the human ratings of the other folds, and saved as fitted to all. Emotions and knowledge
    # are always cross-validated where no file is given.
    config.weights = ""
    config.validation = ""  # Rated data that weights are fitted on and that is not judged.
    config.recipe = "converged"  # converged | published: how weights are fitted.
    config.folds = 5  # Of scores; emotions and knowledge have five.
    # Beside the judge's: gpt_score, ridge_probe, reward_model, joined with ",".
    config.baselines = ""
    config.reward_model = ""  # Folder or name, for the baseline of that name.
    config.fraction = 0.1  # Of an instruction file, that a selection takes.
    config.max_tokens = 0  # Of a row that a selection may take, as it is asked. 0: what fits.
    config.on_error = "raise"  # raise | skip (counted in the record).

    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})
    return config
