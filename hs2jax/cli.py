"""The command line: one verb per job.

    hs2jax run      --config=configs/quickstart.py --workdir=runs/quickstart
    hs2jax train    --config=configs/FILE.py[:ARG] [--config.KEY=VALUE ...] --workdir=FOLDER
    hs2jax score    --model=NAME --data=FORMAT:FILE --output=FILE.jsonl
    hs2jax convert  --model=NAME --output=FOLDER
    hs2jax report   --workdir=FOLDER

`hs2jax VERB --help` lists a verb's flags.
"""

import json
import logging
import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags


def define(verb: str) -> flags.FlagValues:
    """The flags of a verb."""
    values = flags.FlagValues()
    text = {"default": None, "flag_values": values}
    if verb in ("run", "train"):
        config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
        flags.DEFINE_bool(
            "distributed", False, "Join the other hosts of a pod first.", flag_values=values
        )
    if verb in ("run", "train", "report"):
        flags.DEFINE_string("workdir", help="Folder of the run.", **text)
    if verb in ("score", "convert"):
        flags.DEFINE_string("model", help="Folder, GGUF file, hub id or short name.", **text)
    if verb == "score":
        flags.DEFINE_string("data", help='What to score, as "format:path[slice]".', **text)
        flags.DEFINE_string("output", help="JSON lines file to write.", **text)
        flags.DEFINE_string(
            "weights", help="As in helpfulness=0.65,verbosity=-0.4; default: recorded.", **text
        )
        flags.DEFINE_bool(
            "truncate", False, "Cut too long prompts from the left.", flag_values=values
        )
        flags.DEFINE_enum(
            "on_error",
            "raise",
            ["raise", "skip"],
            "What to do with malformed rows.",
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
    """A recipe's stages in order, and its report."""
    from hs2jax.training import recipe, run_report

    stages = recipe.run(options.config, options.workdir)
    print(f"report: {run_report.write(options.workdir, stages)}\nmodel: {stages[-1] / 'model'}")


def train(options) -> None:
    """One training run, and its report."""
    from hs2jax.training import loop, run_report

    loop.train(options.config, options.workdir)
    workdir = Path(options.workdir)
    print(f"report: {run_report.write(workdir, [workdir])}\nmodel: {workdir / 'model'}")


def score(options) -> None:
    """Scores groups as they are read, and writes a line for each."""
    from hs2jax import reward_model
    from hs2jax.data import corpora
    from hs2jax.data.record import Record

    weights = None
    if options.weights is not None:
        weights = parse_weights(options.weights)
    record = Record()
    groups = corpora.read(options.data, on_error=options.on_error, record=record)
    model = reward_model.RewardModel.load(options.model)
    with open(options.output, "w", encoding="utf-8") as file:
        for row in reward_model.score_stream(
            model, groups, weights=weights, truncate=options.truncate
        ):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{record.rows} rows read, {record.groups} groups scored, skipped: {record.skipped or 0}")


def convert(options) -> None:
    """Anything that can be loaded, or a run's best step, to a folder for `transformers`."""
    from hs2jax.training import convert

    convert.convert(options.model, options.output, dtype=options.dtype)
    print(options.output)


def report(options) -> None:
    """Writes the page of a finished run again."""
    from hs2jax.training import run_report

    print(run_report.write(options.workdir))


VERBS = {f.__name__: f for f in (run, train, score, convert, report)}
OPTIONAL = {"weights"}


def parse_weights(text: str) -> dict[str, float]:
    """ "a=1,b=-0.4" as a dict."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise ValueError(f"--weights={text}: expected name=number,name=number") from None


def main(argv=None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in VERBS:
        print(__doc__)
        sys.exit(0 if argv and argv[0] in ("help", "--help", "-h") else 2)
    verb, *rest = argv
    options = define(verb)
    flags.DEFINE_bool("help", False, "Show this.", flag_values=options, short_name="h")
    try:
        extra = options([f"hs2jax {verb}", *rest])[1:]
        if options.help:
            print(f"{VERBS[verb].__doc__}\n\n{options.main_module_help() or options}")
            return
        if extra:
            raise ValueError(f"what is {' '.join(extra)}? Flags look like --name=value")
        for name in ("config", "workdir", "model", "data", "output"):
            if name in options and getattr(options, name) is None:
                raise ValueError(f"hs2jax {verb} needs --{name}")
        prepare_process(options)
        VERBS[verb](options)
    except (flags.Error, ValueError, OSError, RuntimeError) as error:
        if os.environ.get("HS2JAX_TRACEBACK"):
            raise
        print(f"hs2jax {verb}: {error}", file=sys.stderr)
        sys.exit(1)


def prepare_process(options) -> None:
    """Logging, and the other hosts where there are any."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hs2jax").setLevel(logging.INFO)
    if "distributed" in options and options.distributed:
        import jax

        jax.distributed.initialize()


if __name__ == "__main__":
    main()
