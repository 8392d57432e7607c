"""The command line: one verb per job.

    hs2jax run      --config=configs/quickstart.py --workdir=runs/quickstart
    hs2jax train    --config=configs/FILE.py[:ARG] [--config.KEY=VALUE ...] --workdir=FOLDER
    hs2jax sweep    --config=configs/FILE.py --over=KEY=VALUE,VALUE --seeds=0,1 --workdir=FOLDER
    hs2jax score    --model=NAME --data=FORMAT:FILE --output=FILE.jsonl
    hs2jax convert  --model=NAME --output=FOLDER
    hs2jax report   --workdir=FOLDER

`hs2jax VERB --help` lists a verb's flags. Errors are told in a line or two; with
HS2JAX_TRACEBACK=1 in the environment they come with where they were raised.
"""

import json
import logging
import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags


def define(verb: str, arguments: list[str]) -> flags.FlagValues:
    """The flags of a verb; the arguments say which keys of the config are flags too."""
    values = flags.FlagValues()
    text = {"default": None, "flag_values": values}
    if verb in ("run", "train", "sweep"):
        config_flags.DEFINE_config_file(
            "config", flag_values=values, lock_config=True, sys_argv=["hs2jax", *arguments]
        )
    if verb in ("run", "train"):
        flags.DEFINE_bool(
            "distributed", False, "Join the other hosts of a pod first.", flag_values=values
        )
    if verb == "sweep":
        flags.DEFINE_multi_string(
            "over",
            [],
            "KEY=VALUE,VALUE: values to try for a key of the config; several give a grid.",
            flag_values=values,
        )
        flags.DEFINE_string("seeds", help="As in 0,1,2; default: the config's.", **text)
    if verb in ("run", "train", "sweep", "report"):
        flags.DEFINE_string("workdir", help="Folder of the run.", **text)
    if verb in ("score", "convert"):
        flags.DEFINE_string("model", help="Folder, GGUF file, hub id or short name.", **text)
    if verb == "score":
        flags.DEFINE_string("data", help='What to score, as "format:path[slice]".', **text)
        flags.DEFINE_string("output", help="JSON lines file to write.", **text)
        flags.DEFINE_string(
            "weights",
            default="",
            help="As in helpfulness=0.65,verbosity=-0.4; default: as recorded with the model.",
            flag_values=values,
        )
        flags.DEFINE_bool(
            "truncate", False, "Cut too long prompts from the left.", flag_values=values
        )
        flags.DEFINE_enum(
            "on_error",
            "raise",
            ["raise", "skip"],
            "What to do with malformed rows and with groups that are too long.",
            flag_values=values,
        )
    if verb == "convert":
        flags.DEFINE_string("output", help="Folder to write.", **text)
        flags.DEFINE_enum(
            "dtype",
            "float32",
            ["float32", "bfloat16"],
            "Of the written numbers.",
            flag_values=values,
        )
    return values


def run(options) -> None:
    """Works through a recipe's stages in order, and writes its report."""
    from hs2jax.training import recipe, run_report

    check_verb(options.config, "run")
    stages = recipe.run(options.config, options.workdir)
    if is_first():
        print(f"report: {run_report.write(options.workdir, stages)}")
        print(f"model: {stages[-1] / 'model'}")


def train(options) -> None:
    """Trains one model, and writes its report."""
    from hs2jax.training import loop, run_report

    check_verb(options.config, "train")
    workdir = Path(options.workdir)
    loop.train(options.config, workdir)
    if is_first():
        print(f"report: {run_report.write(workdir, [workdir])}\nmodel: {workdir / 'model'}")


def sweep(options) -> None:
    """Trains every arm with every seed, and writes one table of them."""
    from hs2jax.training import sweep, sweep_plan

    check_verb(options.config, "sweep", "train")
    try:
        seeds = tuple(map(int, options.seeds.split(","))) if options.seeds is not None else ()
    except ValueError:
        raise ValueError(f"--seeds={options.seeds}: it looks like --seeds=0,1,2") from None
    plan = sweep_plan.make(options.config, options.workdir, over=options.over, seeds=seeds)
    table, failed = sweep.run(plan, options.workdir, prepare_logging)
    print(f"{table}\ntable: {Path(options.workdir) / 'sweep.md'}")
    if failed:
        runs = len(plan.arms) * len(plan.seeds)
        raise ValueError(f"{failed} of {runs} runs failed; the same command tries them again")


def score(options) -> None:
    """Scores groups as they are read, and writes a line for each."""
    import jax

    from hs2jax import reward_model
    from hs2jax.data import corpora
    from hs2jax.data.record import Record
    from hs2jax.models import sharding

    weights = reward_model.parse_weights(options.weights)
    record = Record()
    groups = corpora.read(options.data, on_error=options.on_error, record=record)
    mesh = sharding.make_mesh() if jax.device_count() > 1 else None
    model = reward_model.RewardModel.load(options.model, mesh=mesh)
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Another name until it is whole, so that a half file is never taken for the result.
    scratch = output.with_name(output.name + ".unfinished")
    with scratch.open("w", encoding="utf-8") as file:
        for row in reward_model.score_stream(
            model,
            groups,
            weights=weights,
            truncate=options.truncate,
            skip=options.on_error == "skip",
            record=record,
        ):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
    scratch.replace(output)
    left = {
        "too long": record.too_long,
        "truncated": record.truncated,
        "refused by the chat template": record.refused,
        **record.skipped,
    }
    counted = "".join(f", {count} {name}" for name, count in left.items() if count)
    print(f"{output}: {record.rows} rows, {record.groups} groups{counted}")


def convert(options) -> None:
    """Anything that can be loaded, or a run's best step, to a folder for `transformers`."""
    from hs2jax.training import convert

    convert.convert(options.model, options.output, dtype=options.dtype)
    print(options.output)


def report(options) -> None:
    """Writes the page of a finished run again."""
    from hs2jax.training import run_report

    print(run_report.write(options.workdir))


VERBS = {f.__name__: f for f in (run, train, sweep, score, convert, report)}
NEEDED = ("config", "workdir", "model", "data", "output")


def main(argv=None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] not in VERBS:
        asked = bool(argv) and argv[0] in ("help", "--help", "-h")
        if argv and not asked:
            print(f"hs2jax: there is no verb {argv[0]!r}\n", file=sys.stderr)
        print(__doc__)
        sys.exit(0 if asked else 2)
    verb, *rest = argv
    try:
        options = parse(verb, rest)
        if options.help:
            print(f"{VERBS[verb].__doc__}\n\n{options}")
            return
        prepare_process(options)
        VERBS[verb](options)
    except (flags.Error, ValueError, OSError) as error:
        if os.environ.get("HS2JAX_TRACEBACK"):
            raise
        print(f"hs2jax {verb}: {error}", file=sys.stderr)
        sys.exit(1)


def parse(verb: str, arguments: list[str]) -> flags.FlagValues:
    """The options of a verb. Raises ValueError or flags.Error that says what is wrong."""
    options = define(verb, arguments)
    flags.DEFINE_bool("help", False, "Show this.", flag_values=options, short_name="h")
    try:
        extra = options([f"hs2jax {verb}", *arguments])[1:]
    except (AttributeError, KeyError, TypeError) as error:
        # What ml_collections raises for a key that is not there, or a value of another type.
        raise ValueError(f"an override of the config does not fit it: {error}") from error
    if options.help:
        return options
    if extra:
        raise ValueError(f"what is {' '.join(extra)}? Flags look like --name=value")
    for name in NEEDED:
        if name in options and getattr(options, name) is None:
            raise ValueError(f"hs2jax {verb} needs --{name}")
    return options


def check_verb(config, *verbs: str) -> None:
    """Raises ValueError where a config is one for another verb."""
    if "stages" in config:
        what, verb = "stages", "run"
    elif "arms" in config:
        what, verb = "arms", "sweep"
    else:
        what, verb = "no stages", "train"
    if verb not in verbs:
        raise ValueError(f"this config has {what}: it is one for `hs2jax {verb}`")


def prepare_process(options) -> None:
    """Logging, and the other hosts where there are any."""
    prepare_logging()
    if "distributed" in options and options.distributed:
        import jax

        jax.distributed.initialize()


def prepare_logging() -> None:
    """What every process of a command says, and how."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hs2jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of its own waiting.
    # It would tell everybody that there is no torch, which is not needed.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def is_first() -> bool:
    """Whether this process is the one that writes for all."""
    import jax

    return jax.process_index() == 0


if __name__ == "__main__":
    main()
