"""What may stand behind a verb: the flags, and the config with its overrides."""

import difflib
import inspect
import itertools
import os
import re
import textwrap
import traceback
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

# The configs that come with this package: of an installation, or of a checkout.
_HERE = Path(__file__).parent
_PLACES = (_HERE / "presets", _HERE.parent / "configs")
PRESETS = next((x for x in _PLACES if x.is_dir()), _PLACES[0])
# The verb of each kind of config, and its function in a module below hs2jax.
KINDS = {
    "recipe": ("run", "training.recipe", "run"),
    "train_reward_model": ("train", "training.loop", "train"),
    "train_policy": ("train", "training.loop", "train"),
    "sweep": ("sweep", "training.sweep", "sweep"),
    "plan": ("plan", "plan", "plan"),
    "evaluate": ("evaluate", "evaluation.evaluate", "evaluate"),
    "expo": ("expo", "training.expo", "expo"),
    "judge": ("judge", "judging.evaluate", "judge"),
    "sample": ("sample", "alignment.sample", "sample"),
    "rescale": ("rescale", "alignment.rescale", "rescale"),
    "annotate": ("annotate", "alignment.annotate", "annotate"),
    "weigh": ("weigh", "alignment.weigh", "weigh"),
    "steer": ("steer", "alignment.steering", "steer"),
    "reinforce": ("reinforce", "alignment.reinforce", "reinforce"),
    "compare": ("compare", "alignment.compare", "compare"),
}
CONFIGURED = tuple(dict.fromkeys(verb for verb, _, _ in KINDS.values()))
VERBS = (*CONFIGURED, "score", "serve", "convert", "report")

# Each flag: its name, the verbs that have it, its default, and its help. None must be given, False
# is a switch, a list takes several, and of choices the first is the default.
_SCORE, _SERVE, _REPORT, _SWEEP = ("score",), ("serve",), ("report",), ("sweep",)
_CONVERT = ("convert",)
_JOINED = {*CONFIGURED, "score", "convert"} - {"plan"}
FLAGS = (
    ("config", CONFIGURED, None, "Config's file or name, and :ARGUMENT where it takes one."),
    ("traceback", VERBS, False, "Show where an error was raised."),
    ("workdir", (*CONFIGURED, "report"), None, "Folder of the run."),
    ("distributed", _JOINED, False, "Join the other hosts of a pod first."),
    ("coordinator", _JOINED, "", "HOST:PORT of process 0, or :PORT, where the cloud's is not it."),
    ("processes", _JOINED, 0, "How many there are, where the cloud does not tell."),
    ("process", _JOINED, -1, "Number of this one, from 0, where the cloud does not tell."),
    ("profile", ("train", "reinforce"), False, "Trace three steps into WORKDIR/profile."),
    ("over", _SWEEP, [], "KEY=VALUE,VALUE: values to try for a key; several give a grid."),
    ("seeds", _SWEEP, "", "As in 0,1,2; default: the config's."),
    ("topology", ("plan",), "v5p:4x4x4", "TPU slice: v4, v5e, v5p or v6e, and how many chips."),
    ("group_tokens", ("plan",), 770, "Tokens of a prompt with its responses, on average."),
    ("prompt_tokens", ("plan",), 0, "Tokens of the prompt alone; 0: half of them."),
    ("responses", ("plan",), 2, "To a prompt."),
    ("groups", ("plan",), 10_000, "Prompts of the data, for the hours that they take."),
    ("search", ("plan",), False, "Find mesh, micro-batch, remat and keeps of the least time."),
    ("against", _REPORT, [], "Folder of a run of the same kind to compare with; may be repeated."),
    ("output", _REPORT, "", "Folder of the page; default: the run's, or one within it."),
    ("model", ("score", "serve", "convert"), None, "Folder, GGUF file, hub id or short name."),
    ("data", _SCORE, None, 'To be scored, as "format:path[slice]".'),
    ("data", ("train",), "", "The config's argument: a file of your own for own_data."),
    ("output", _SCORE, None, 'JSON lines file to write; "-": the standard output.'),
    ("output", _CONVERT, None, "Model's folder to write."),
    ("best", _SCORE, "", "Folder for the best response of each prompt."),
    ("reference", _SCORE, "", "Data that the best are compared with."),
    (
        "weights",
        ("score", "serve", "convert"),
        "",
        "As in helpfulness=0.65,verbosity=-0.4; default: the model's.",
    ),
    ("truncate", _SCORE, False, "Cut too long prompts from the left."),
    ("on_error", _SCORE, ("raise", "skip"), "Of malformed rows and groups that are too long."),
    ("scalar", _CONVERT, False, "Make one output of several, by their weights."),
    ("push", _CONVERT, "", "OWNER/NAME on the Hugging Face hub to put the model in, private."),
    ("public", _CONVERT, False, "Let all see what is pushed."),
    ("dtype", _CONVERT, ("float32", "bfloat16"), "Of the written numbers."),
    ("host", _SERVE, "127.0.0.1", "Address to listen at; 0.0.0.0 is all of this machine's."),
    ("port", _SERVE, 8000, "0 is any that is free."),
    ("api_key", _SERVE, "", "That clients must show; better in HS2JAX_API_KEY, unseen by others."),
    ("max_queue", _SERVE, 4096, "Conversations that may wait."),
    ("max_tokens", _SERVE, 0, "Of a conversation; 0 is as many as the model's positions."),
    ("criterion", _SERVE, "", "As in helpsteer/helpfulness: the model is a judge of it."),
    ("preset", _SERVE, ("recommended", "paper", "repository"), "Of a judge's layers."),
    ("layer_weights", _SERVE, "", "File of a judge's weights that `hs2jax judge` has left."),
)


def parse(verb: str, arguments: list[str]) -> flags.FlagValues:
    """Parse the options of a verb. Raises what says what is wrong: ValueError, flags.Error, and
    FileNotFoundError where there is no config file."""
    options, config, asked = flags.FlagValues(), None, {"-h", "--help"} & {*arguments}
    file, arguments = config_named(arguments) if verb in CONFIGURED else ("", arguments)
    if verb in CONFIGURED and not file and not asked:
        raise ValueError(f"hs2jax {verb} needs --config")
    if file:
        words = [part for x in arguments if verb == "train" for part in x.split("=", 1)]
        data = next((y for x, y in itertools.pairwise(words) if x in ("--data", "-data")), "")
        config = load(f"{file}:{data}" if data else file)
    argv = [f"hs2jax {verb}", *arguments]
    flags.DEFINE_bool("help", False, "Show this.", flag_values=options, short_name="h")
    for name, verbs, default, text in FLAGS:
        if verb not in verbs or (name == "config" and config is not None):
            continue
        if isinstance(default, tuple):
            flags.DEFINE_enum(name, default[0], default, text, options)
        else:
            define = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer}
            define |= {list: flags.DEFINE_multi_string}
            define = define.get(type(default), flags.DEFINE_string)
            define(name, default, text, flag_values=options)
    try:
        if config is not None:
            config_flags.DEFINE_config_dict("config", config, "", options, sys_argv=argv)
        extra = options(argv)[1:]
    except flags.IllegalFlagValueError as error:
        raise ValueError(unfit_value(config, str(error))) from error
    except (AttributeError, KeyError, TypeError) as error:
        # What ml_collections raises for a key that is not there, or a value of another type.
        raise ValueError(unfit(config, arguments, error)) from error
    if options.help:
        return options
    if extra:
        raise ValueError(f"what is {' '.join(extra)}? Flags look like --name=value")
    for name, verbs, default, _ in FLAGS:
        if verb in verbs and default is None and getattr(options, name) in (None, ""):
            raise ValueError(f"hs2jax {verb} needs --{name}")
    for name in ("workdir", "output", "best", "against", "model"):
        given = (getattr(options, name) if name in options else None) or []
        places = [os.path.expanduser(x) for x in ([given] if isinstance(given, str) else given)]
        for place in places:
            if name != "model" and (wrong := misplaced(place, verb, name)):
                raise ValueError(f"--{name}={place} {wrong}")
        if given:
            setattr(options, name, places[0] if isinstance(given, str) else places)
    return options


def misplaced(place: str, verb: str, name: str) -> str:
    """Say why a place cannot be what a flag names, "" where it can."""
    path, file = Path(place), (verb, name) == ("score", "output")
    if re.match(r"\w+://", place):
        return "is an address; expected a place on this machine's disks, or mounted (gcsfuse)"
    if place != place.encode(errors="replace").decode():
        return "is not UTF-8"
    if place.startswith("~"):
        return "is in a home folder that is not known; give the whole path"
    if path.is_symlink() and not path.exists():
        return "is a link that leads nowhere"
    if file and path.exists() and not (path.is_file() or path.is_dir()):
        return 'is a pipe or device; "-" is the standard output'
    if not path.exists() or path.is_dir() != file:
        return ""
    return f"is a {'folder; expected a file' if file else 'file; expected a folder'}"


def config_named(arguments: list[str]) -> tuple[str, list[str]]:
    """Find the config file in a verb's arguments, and the arguments without it."""
    file, rest, words = "", [], iter(arguments)
    for word in words:
        if match := re.fullmatch(r"--?config(?:=(.*))?", word):
            file = next(words, "") if match[1] is None else match[1]
        else:
            rest.append(word)
    return file, rest


def load(file: str):
    """Make the config of "FILE.py", or of "NAME" of one in PRESETS, or of either with ":ARGUMENT"
    behind it, by its function get_config.

    Raises FileNotFoundError, and ValueError that names the line where it fails.
    """
    path, *argument = file.split(":", 1)
    path, presets = os.path.expanduser(path), sorted(x.stem for x in PRESETS.glob("*.py"))
    if path in presets:
        path = str(PRESETS / f"{path}.py")
    if not os.path.isfile(path):
        near = difflib.get_close_matches(Path(path).stem, presets, 1) or [", ".join(presets)]
        found = f"--config={file}: there is no file {path}; those that come with hs2jax"
        raise FileNotFoundError(f"{found} are named without a path: {near[0]}")
    scope = {"__name__": "config", "__file__": path}
    try:
        exec(compile(Path(path).read_bytes(), path, "exec"), scope)
        config = scope["get_config"](*argument)
    except (Exception, SystemExit) as error:
        lines = [x.lineno for x in traceback.extract_tb(error.__traceback__) if x.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 0
        what = getattr(error, "msg", error)
        if missing := re.match(r"[\"']?Key [\"'](\w+)[\"']", str(error)):
            from hs2jax import config_rules, configs

            every = dict.fromkeys(key for kind in configs.SETTINGS.values() for key in kind)
            what = config_rules.unknown_key(every, missing[1])
        elif type(error) not in (ValueError, FileNotFoundError):
            what = f"{type(error).__name__}: {what}"
        raise ValueError(f"{path}, line {line}: {what}" if line else f"{path}: {what}") from error
    if not isinstance(config, ConfigDict):
        what = f"{type(config).__name__}; expected a ConfigDict, as configs.defaults(KIND) makes"
        raise ValueError(f"{path}: get_config gives {what}")
    return config


def unfit_value(config, said: str) -> str:
    """Say what a key of a config expects, from what absl says of another value."""
    if not (match := re.match(r"flag --config\.([\w.]+)=(.*?): ", said)):
        return said
    from hs2jax import config_rules

    key, value = match.groups()
    expected = config_rules.like(config_rules.flat(config).get(key)).replace("KEY", key)
    return f"config.{key} is {value!r}; expected {expected}"


def unfit(config, arguments: list[str], error: Exception) -> str:
    """Say which key a config does not have, or what else does not fit it."""
    from hs2jax import config_rules

    keys = config_rules.flat(config)
    for key in re.findall(r"^--?config\.([\w.]+)", "\n".join(arguments), re.MULTILINE):
        if not any(f"{each}.".startswith(f"{key}.") for each in keys):
            return config_rules.unknown_key(keys, key)
    cause = error.args[0]
    said = cause.args[0] if isinstance(cause, KeyError) else cause
    return f"an override of the config does not fit it: {said}"


def usage(verb: str, config=None) -> str:
    """List the flags of a verb, and where its config is named its settings: the value of each, what
    `configs` says of it, and what is expected."""
    lines = []
    for name, verbs, default, text in FLAGS:
        if verb in verbs:
            choice = f" One of {', '.join(default)}." if isinstance(default, tuple) else ""
            lines.append(f"  --{name:<12} {text}{choice}{' Needed.' * (default is None)}")
    if verb in CONFIGURED and config is None:
        lines.append(f"\nhs2jax help {verb} --config=NAME lists the settings of a config.")
    if config is None:
        return "\n".join(lines)
    from hs2jax import config_rules, configs

    parts = {"": config}
    for name in {"recipe": config.get("stages"), "sweep": ("base",)}.get(config.get("kind"), ()):
        parts |= {f"{name}.": config[name]} if name in config else {}
    for place, part in parts.items():
        said, known = comments(part.kind), configs.SETTINGS[part.kind]
        for key, value in config_rules.flat(part).items():
            if key not in known:
                continue
            what = getattr(known[key].rule, "what", "")
            about = " ".join(filter(None, [said.get(key), what and f"({what})"]))
            lines.append(f"  --config.{place}{key}={value!r}")
            lines += textwrap.wrap(about, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def comments(kind: str) -> dict[str, str]:
    """Collect what stands in `settings` beside or above each setting of a kind, by its key."""
    from hs2jax import settings

    blocks: dict[str, dict[str, str]] = {}
    everywhere: dict[str, str] = {}  # For a kind that takes a setting from another.
    found, above = {}, []
    for line in inspect.getsource(settings).splitlines():
        code, _, comment = line.partition("# ")
        if not code.strip():
            above += [comment] * bool(comment)
            continue
        if head := re.match(r"(_\w+) = \{|    \"(\w+)\": \{", code):
            found = blocks[head[1] or head[2]] = {}
        for name in re.findall(r"\*\*(?:\{.*? in )?(_\w+)", code):
            found |= blocks.get(name, {})
        for key in re.findall(r'"([\w.]+)": \w', code):
            if said := " ".join(filter(None, [*above, comment])):
                found[key] = said
                everywhere.setdefault(key, said)
        above = []
    return everywhere | blocks[kind]
