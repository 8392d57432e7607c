"""The command line: one verb per job.

    hs2jax run      --config=configs/quickstart.py --workdir=runs/quickstart
    hs2jax train    --config=configs/FILE.py[:ARG] [--config.KEY=VALUE ...] --workdir=FOLDER
    hs2jax sweep    --config=configs/FILE.py --over=KEY=VALUE,VALUE --seeds=0,1 --workdir=FOLDER
    hs2jax plan     --config=configs/FILE.py:SIZE --topology=v5p:4x4x4 --workdir=FOLDER
    hs2jax evaluate --config=configs/evaluate.py:MODEL --config.data=FORMAT:FILE --workdir=FOLDER
    hs2jax expo     --config=configs/expo.py --config.initial=A --config.trained=B --workdir=FOLDER
    hs2jax judge    --config=configs/judge.py:MODEL --config.data=FORMAT:FILE --workdir=FOLDER
    hs2jax sample   --config=configs/sample.py --config.data=FORMAT:FILE --workdir=FOLDER
    hs2jax rescale  --config=configs/rescale.py --config.ratings=FORMAT:FILE --workdir=FOLDER
    hs2jax annotate --config=configs/annotate.py --config.data=FORMAT:FILE --workdir=FOLDER
    hs2jax weigh    --config=configs/weigh.py --config.data=sampled:FILE --workdir=FOLDER
    hs2jax steer    --config=configs/steering.py --config.policies=NAME=FOLDER --workdir=FOLDER
    hs2jax reinforce --config=configs/reinforce.py --config.data=FORMAT:FILE --workdir=FOLDER
    hs2jax compare  --config=configs/compare.py --config.policy=FOLDER --workdir=FOLDER
    hs2jax score    --model=NAME --data=FORMAT:FILE --output=FILE.jsonl
    hs2jax serve    --model=NAME [--port=8000] [--criterion=SET/NAME]
    hs2jax convert  --model=NAME --output=FOLDER
    hs2jax report   --workdir=FOLDER [--against=FOLDER] [--output=FOLDER]

`hs2jax help VERB` lists a verb's flags, `help VERB --config=NAME` a config's settings; configs that
come with hs2jax are named without a path. `--version` says the version. Errors are told in a
line or two; with --traceback they come with where they were raised. Exit codes: 0 done, 1 an error,
2 no such verb, 75 stopped by a signal: the same command goes on.
"""

import errno
import functools
import importlib.metadata
import logging
import os
import shlex
import sys
import traceback
from pathlib import Path

from hs2jax import faults, session
from hs2jax.flags import KINDS, VERBS, parse, usage

log = logging.getLogger("hs2jax.cli")  # Also of `python -m hs2jax.cli`.


@faults.unread()
def main(argv=None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv == ["--version"]:
        return print(f"hs2jax {importlib.metadata.version('hs2jax')}")
    if argv[:1] == ["help"] and argv[1:]:
        argv = [argv[1], "--help", *argv[2:]]
    if not argv or argv[0] not in VERBS:
        asked = bool(argv) and argv[0] in ("help", "--help", "-h")
        if argv and not asked:
            print(f"hs2jax: there is no verb {argv[0]!r}\n", file=sys.stderr)
        with faults.unread():
            print(__doc__)
        sys.exit(0 if asked else 2)
    # Before libraries are imported that set a form of their own, or miss what is not needed.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hs2jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # What orbax raises is told anyway.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    verb, *rest = argv
    faults.answer_interrupts(verb)
    faults.answer_callbacks()
    try:
        faults.check_xla_flags()
        from hs2jax import stopping  # Imports JAX, which refuses what its variables may not be.
    except Exception as error:
        print(f"hs2jax {verb}: {faults.told(error)}", file=sys.stderr)
        sys.exit(1)
    try:
        options = parse(verb, rest)
        if options.help:
            print(*(line for line in __doc__.splitlines() if f" hs2jax {verb} " in line), sep="\n")
            return print(usage(verb, options.config if "config" in options else None))
        if options.traceback:
            os.environ["HS2JAX_TRACEBACK"] = "1"  # For child processes too.
        if verb != "serve":  # It has its own answer to signals.
            stopping.install()
        if "distributed" in options:
            join(options)
        if verb not in ("report", "convert", "plan"):
            session.keep_programs()
            session.warn_of_temporaries()
        # A sweep leaves the devices to its runs.
        if verb not in ("report", "convert", "sweep", "plan"):
            say_with_what(options)
        verbs = {"score": score, "serve": serve, "convert": convert, "report": report}
        done = functools.partial(run, command=shlex.join(["hs2jax", *argv]))
        verbs.get(verb, done)(verb, options)
        stopping.leave()
    except stopping.Stopped as error:
        why = f"stopped by {error.why}"
        print(f"hs2jax {verb}: {why}; the same command goes on", file=sys.stderr)
        stopping.leave(stopping.STOPPED, why)
        raise
    except BrokenPipeError:  # Nobody reads what is printed.
        raise
    except Exception as error:
        stopping.lost(error)
        if os.environ.get("HS2JAX_TRACEBACK") or "--traceback" in rest:
            traceback.print_exc()
        print(f"hs2jax {verb}: {faults.told(error, verb)}", file=sys.stderr)
        stopping.leave(stopping.FAILED, faults.told(error, verb))
        sys.exit(stopping.FAILED)


def join(options) -> None:
    """Join the other processes, where there are to be any."""
    from hs2jax import stopping

    given = (options.coordinator, options.processes, options.process)
    if options.distributed:
        stopping.join(*given)
    elif given != ("", 0, -1):
        raise ValueError("--coordinator, --processes and --process are of --distributed: give it")


def say_with_what(options) -> None:
    """Log what a run is computed with. Raises RuntimeError where JAX has no device."""
    import jax

    from hs2jax import accelerators, config_rules, workdir
    from hs2jax.models import attention

    found = workdir.environment()
    flat = config_rules.flat(options.config) if "config" in options else {}
    dtype = flat.get("model.dtype") or flat.get("dtype")
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    version = f"hs2jax {importlib.metadata.version('hs2jax')}, jax {found['jax']}"
    by = attention.chosen(jax.default_backend())
    if unused := accelerators.unused():
        log.warning(unused)
    log.info("%s, %s, %s, attention by %s", version, found["device"], dtype, by)


# Verbs --------------------------------------------------------------------------------------------


def function(kind: str):
    """Import what runs a kind of config, verb(config, workdir) -> rows."""
    _, module, name = KINDS[kind]
    return getattr(importlib.import_module(f"hs2jax.{module}"), name)


def kind_of(config) -> str:
    """Say of which kind a config is. Raises ValueError where it is of none."""
    kind = config.get("kind")
    if kind not in tuple(KINDS):
        raise ValueError(f"config.kind is {kind!r}; expected one of {', '.join(KINDS)}")
    return kind


def work(config, workdir: Path) -> list[dict]:
    """Do what a config of any kind says; returns the rows."""
    kind = kind_of(config)
    return function(kind)(config, workdir, *[function] * (kind == "recipe"))


def made(config, workdir: Path) -> dict[str, Path]:
    """Find what a run has made for others to use, by name; of a recipe, what the last stage has."""
    from hs2jax.disk import MADE

    places = [workdir, *(workdir / name for name in config.get("stages", ()))]
    every = ((name, place / name) for place in places for name in MADE)
    return {name: path for name, path in every if path.exists()}


def run(verb: str, options, command: str) -> None:
    """Do what a config says, print the chief rows, and write the page, which shows the command."""
    config, workdir = options.config, Path(options.workdir)
    kind = kind_of(config)
    if verb == "sweep" and kind in ("sweep", "train_reward_model", "train_policy"):
        config, kind = sweep_of(config, options.over, options.seeds), "sweep"
    if "profile" in options and options.profile:
        config.profile = config.profile or 3
    if verb == "plan" and kind != "plan":
        from hs2jax import configs

        planned, kind = configs.defaults("plan"), "plan"
        planned.update({name: getattr(options, name) for name in configs.SETTINGS["plan"]})
        planned.base, config = config, planned
    if KINDS[kind][0] != verb:
        raise ValueError(
            f"this config is of kind {kind!r}: it is one for `hs2jax {KINDS[kind][0]}`"
        )
    try:
        rows = work(config, workdir)
    except ValueError as error:
        if getattr(error, "written", False):  # Of a sweep's runs that went well.
            show(config, [], workdir, command)
        raise
    show(config, rows, workdir, command)


def show(config, rows: list[dict], workdir: Path, command: str) -> None:
    """Print a finished run's chief rows, where its page is and what it made."""
    import jax

    from hs2jax import report
    from hs2jax.report import format
    from hs2jax.workdir import write_text

    if jax.process_index() != 0:
        return
    try:
        write_text(workdir / "command.txt", command)
        page = report.write(workdir)  # Before anything is printed, which may not be read.
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        page, why = workdir / "report.html", f"{error.filename}: {error.strerror}"
        again = shlex.join(["hs2jax", "report", f"--workdir={workdir}", "--output="])
        page = f"{page} (as it was)" if page.exists() else f"{why}; {again}FOLDER writes it"
    for row in rows:
        if row.get("headline"):
            print(format.line(row))
    print(f"report: {page}")
    for name, path in made(config, workdir).items():
        print(f"{'model' if name == 'model' else 'rows'}: {path}")


def sweep_of(config, over: list[str], seeds: str):
    """Make a sweep of a training's config over a grid, or set the seeds of one."""
    from hs2jax.training import sweep_arms

    if config.kind != "sweep":
        config = sweep_arms.of_grid(config, over)
    elif over:
        raise ValueError("this config has arms of its own; --over is for a config without")
    if seeds:
        try:
            config.seeds = tuple(map(int, seeds.split(",")))
        except ValueError:
            raise ValueError(f"--seeds={seeds}: it looks like --seeds=0,1,2") from None
    return config


def score(verb: str, options) -> None:
    """Score groups, write a line for each, and pick the best of their responses where asked."""
    import jax

    from hs2jax import report, survey, workdir
    from hs2jax.config_rules import parse_weights
    from hs2jax.data import corpora
    from hs2jax.evaluation import score
    from hs2jax.models import sharding
    from hs2jax.reward_model import RewardModel

    if options.reference and not options.best:
        raise ValueError("--reference is what --best=FOLDER is compared with: give both")
    skip = options.on_error == "skip"
    for name, spec in (("data", options.data), ("reference", options.reference)):
        files = (corpora.local_files(spec) if spec else None) or ()
        if Path(options.output).resolve() in [each.resolve() for each in files]:
            raise ValueError(f"--output={options.output} is a file of --{name}: give another")
        found = survey.survey(spec, skip=skip).record if spec else None
        if found and not found.groups:
            raise ValueError(f"--{name}: nothing is left of {spec}: {found}")
    weights = parse_weights(options.weights)
    mesh = sharding.make_mesh() if jax.device_count() > 1 else None
    model = RewardModel.load(options.model, mesh=mesh, weights=weights)
    output = Path(options.output)
    record = score.score(
        model,
        options.data,
        output,
        truncate=options.truncate,
        skip=skip,
        best=Path(options.best) if options.best else None,
        reference=options.reference,
    )
    if not workdir.is_first():
        return
    left = {"truncated": record.truncated, "changed by the chat template": record.unwritten}
    left |= record.left_out()
    counted = "".join(f", {count} {name}" for name, count in left.items() if count)
    there = sys.stderr if options.output == "-" else sys.stdout  # Scores alone are on the other.
    print(f"{output}: {record.rows} rows, {record.groups} groups{counted}", file=there)
    if options.best:
        print(f"report: {report.write(options.best)}", file=there)


def serve(verb: str, options) -> None:
    """Answer requests for scores until a signal."""
    from hs2jax.serve import app

    app.serve(options)


def convert(verb: str, options) -> None:
    """Convert anything that can be loaded, or a run's best step, to a folder for `transformers`."""
    from hs2jax import stopping, workdir
    from hs2jax.config_rules import parse_weights
    from hs2jax.models import sharding
    from hs2jax.training import convert

    if options.public and not options.push:
        raise ValueError("--public is of what --push=OWNER/NAME puts on the hub: give both")
    weights = parse_weights(options.weights)
    how = {"dtype": options.dtype, "scalar": options.scalar, "weights": weights}
    how["mesh"] = sharding.make_mesh() if stopping.joined() else None
    convert.convert(options.model, options.output, **how)
    if stopping.joined() and not workdir.is_first():
        return
    print(options.output)
    if options.push:
        print(convert.push(options.output, options.push, options.public))


def report(verb: str, options) -> None:
    """Write the page of a run, also of one that goes on, or compare it with others."""
    from hs2jax import report

    if options.against:
        print(report.compare(options.workdir, options.against, options.output or None))
    else:
        print(report.write(options.workdir, options.output or None))


def command() -> None:
    """Do what `main` does, as a process, which a fault ends at once: some threads of libraries wait
    for minutes for what will not come, as one of a checkpoint that a full disk has stopped."""
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.stderr.flush()
            os._exit(end.code)
        raise


if __name__ == "__main__":
    command()
