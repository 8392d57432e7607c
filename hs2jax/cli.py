"""The command line: one verb per job.

    hs2jax run      --config=configs/quickstart.py --workdir=runs/quickstart
    hs2jax train    --config=configs/FILE.py[:ARG] [--config.KEY=VALUE ...] --workdir=FOLDER
    hs2jax sweep    --config=configs/FILE.py --over=KEY=VALUE,VALUE --seeds=0,1 --workdir=FOLDER
    hs2jax evaluate --config=configs/evaluate.py:MODEL --config.data=FORMAT:FILE --workdir=FOLDER
    hs2jax expo     --config=configs/expo.py --config.initial=A --config.trained=B --workdir=FOLDER
    hs2jax judge    --config=configs/judge.py:MODEL --config.data=FORMAT:FILE --workdir=FOLDER
    hs2jax sample   --config=configs/sample.py --config.data=FORMAT:FILE --workdir=FOLDER
    hs2jax rescale  --config=configs/rescale.py --config.ratings=FORMAT:FILE --workdir=FOLDER
    hs2jax annotate --config=configs/annotate.py --config.data=FORMAT:FILE --workdir=FOLDER
    hs2jax weigh    --config=configs/weigh.py --config.data=sampled:FILE --workdir=FOLDER
    hs2jax steer    --config=configs/steering.py --config.policies=NAME=FOLDER --workdir=FOLDER
    hs2jax score    --model=NAME --data=FORMAT:FILE --output=FILE.jsonl
    hs2jax convert  --model=NAME --output=FOLDER
    hs2jax report   --workdir=FOLDER [--against=FOLDER]

`hs2jax VERB --help` lists a verb's flags. Errors are told in a line or two; with
HS2JAX_TRACEBACK=1 in the environment they come with where they were raised.
"""

import logging
import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

# What is done as a config file says: by several hosts together, or by one.
DISTRIBUTED = (
    *("run", "train", "evaluate", "expo", "judge"),
    *("sample", "rescale", "annotate", "weigh", "steer"),
)
CONFIGURED = (*DISTRIBUTED, "sweep")


def define(verb: str, arguments: list[str]) -> flags.FlagValues:
    """The flags of a verb; the arguments say which keys of the config are flags too."""
    values = flags.FlagValues()
    text = {"default": None, "flag_values": values}
    if verb in CONFIGURED:
        config_flags.DEFINE_config_file(
            "config", flag_values=values, lock_config=True, sys_argv=["hs2jax", *arguments]
        )
    if verb in DISTRIBUTED:
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
    if verb in (*CONFIGURED, "report"):
        flags.DEFINE_string("workdir", help="Folder of the run.", **text)
    if verb == "report":
        flags.DEFINE_string("against", help="Folder of an evaluation to compare with.", **text)
        flags.DEFINE_string(
            "output", help="Folder of the comparison's page.", default="", flag_values=values
        )
    if verb in ("score", "convert"):
        flags.DEFINE_string("model", help="Folder, GGUF file, hub id or short name.", **text)
    if verb == "score":
        flags.DEFINE_string("data", help='What to score, as "format:path[slice]".', **text)
        flags.DEFINE_string("output", help="JSON lines file to write.", **text)
        flags.DEFINE_string("best", help="Folder for the best response of each prompt.", **text)
        flags.DEFINE_string("reference", help="Data that the best are compared with.", **text)
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
    from hs2jax.alignment import annotate, rescale, sample, steering, weigh
    from hs2jax.training import recipe, run_report

    check_verb(options.config, "run")
    verbs = {
        **recipe.VERBS,
        "sample": sample.sample,
        "rescale": rescale.rescale,
        "annotate": annotate.annotate,
        "weigh": weigh.weigh,
        "steer": steering.steer,
    }
    stages = recipe.run(options.config, options.workdir, verbs)
    if is_first():
        print(f"report: {run_report.write(options.workdir, stages)}")
        for stage in stages:
            if options.config[stage.name].verb == "steer":
                print(f"report: {stage / 'report.html'}")
        models = [stage / "model" for stage in stages if (stage / "model").is_dir()]
        print(*(f"model: {model}" for model in models[-1:]))


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


def evaluate(options) -> None:
    """Scores benchmarks and other data with a reward model, and says how good it is."""
    from hs2jax.evaluation import evaluate

    check_verb(options.config, "evaluate")
    result = evaluate.evaluate(options.config, options.workdir)
    if is_first():
        print(f"{evaluate.describe(result)}\nreport: {Path(options.workdir) / 'report.html'}")


def expo(options) -> None:
    """Finds how far to go beyond a trained model, and saves the model there."""
    from hs2jax.training import expo

    check_verb(options.config, "expo")
    workdir = Path(options.workdir)
    result = expo.expo(options.config, workdir)
    if is_first():
        print(f"factor: {result['factor']:g}\nreport: {workdir / 'report.html'}")
        print(f"model: {workdir / 'model'}")


def judge(options) -> None:
    """Judges responses with a language model, and says how well that follows people's ratings."""
    from hs2jax.judging import run

    check_verb(options.config, "judge")
    result = run.judge(options.config, options.workdir)
    if is_first():
        print(f"{run.describe(result)}\nreport: {Path(options.workdir) / 'report.html'}")


def sample(options) -> None:
    """Samples responses to prompts, with or without attributes that they should have."""
    from hs2jax.alignment import sample

    check_verb(options.config, "sample")
    result = sample.sample(options.config, options.workdir)
    if is_first():
        print(f"{sample.describe(result)}\nrows: {Path(options.workdir) / 'samples.jsonl'}")


def rescale(options) -> None:
    """Spreads a reward model's attribute values over responses as people's ratings are spread."""
    from hs2jax.alignment import rescale

    check_verb(options.config, "rescale")
    result = rescale.rescale(options.config, options.workdir)
    if is_first():
        print(f"{rescale.describe(result)}\nmodel: {Path(options.workdir) / 'model'}")


def annotate(options) -> None:
    """Rates the responses of conversations with a reward model, in whole numbers, for SteerLM."""
    from hs2jax.alignment import annotate

    check_verb(options.config, "annotate")
    result = annotate.annotate(options.config, options.workdir)
    if is_first():
        print(f"{annotate.describe(result)}\nrows: {Path(options.workdir) / 'annotated.jsonl'}")


def weigh(options) -> None:
    """Finds the log-probabilities of sampled responses that SteerLM 2.0 weighs them by."""
    from hs2jax.alignment import weigh

    check_verb(options.config, "weigh")
    result = weigh.weigh(options.config, options.workdir)
    if is_first():
        print(f"{weigh.describe(result)}\nrows: {Path(options.workdir) / 'groups.jsonl'}")


def steer(options) -> None:
    """Measures how closely policies follow the attributes that they are asked for."""
    from hs2jax.alignment import steering

    check_verb(options.config, "steer")
    result = steering.steer(options.config, options.workdir)
    if is_first():
        print(f"{steering.describe(result)}\nreport: {Path(options.workdir) / 'report.html'}")


def score(options) -> None:
    """Scores groups, writes a line for each, and picks the best of their responses where asked."""
    import jax

    from hs2jax.data import corpora
    from hs2jax.evaluation import items, score
    from hs2jax.models import sharding
    from hs2jax.reward_model import RewardModel, parse_weights

    if options.reference and not options.best:
        raise ValueError("--reference is what --best=FOLDER is compared with: give both")
    for spec in filter(None, (options.data, options.reference)):
        corpora.read(spec)  # Raises where it cannot be, before the model is loaded.
    weights = parse_weights(options.weights)
    mesh = sharding.make_mesh() if jax.device_count() > 1 else None
    model = RewardModel.load(options.model, mesh=mesh, weights=weights)
    output = Path(options.output)
    record = score.score(
        model,
        options.data,
        output,
        truncate=options.truncate,
        skip=options.on_error == "skip",
        best=Path(options.best) if options.best else None,
        reference=options.reference or "",
    )
    left = {"truncated": record.truncated, **items.left_out(record.to_dict())}
    counted = "".join(f", {count} {name}" for name, count in left.items() if count)
    print(f"{output}: {record.rows} rows, {record.groups} groups{counted}")
    if options.best:
        print(f"report: {Path(options.best) / 'report.html'}")


def convert(options) -> None:
    """Anything that can be loaded, or a run's best step, to a folder for `transformers`."""
    from hs2jax.training import convert

    convert.convert(options.model, options.output, dtype=options.dtype)
    print(options.output)


def report(options) -> None:
    """Writes the page of a finished run or evaluation again, or compares two evaluations."""
    from hs2jax.alignment import steering_report
    from hs2jax.evaluation import comparison_report
    from hs2jax.judging import judge_report
    from hs2jax.judging import run as judge_run
    from hs2jax.training import run_report

    if options.output and not options.against:
        raise ValueError("--output is where the page of --against=FOLDER goes: give both")
    if options.against:
        name = f"against-{Path(options.against).resolve().name}"
        place = options.output or Path(options.workdir) / name
        print(comparison_report.write(options.against, options.workdir, place))
    elif (Path(options.workdir) / judge_report.FILE).exists():
        print(judge_run.write_report(options.workdir))
    elif (Path(options.workdir) / steering_report.FILE).exists():
        print(steering_report.write(options.workdir))
    else:
        print(run_report.write(options.workdir))


VERBS = {
    f.__name__: f
    for f in (
        *(run, train, sweep, evaluate, expo, judge),
        *(sample, rescale, annotate, weigh, steer, score, convert, report),
    )
}
# What only the config of a verb has, the first one that is found.
KINDS = {
    "stages": "run",
    "arms": "sweep",
    "objective": "train",
    "initial": "expo",
    "criteria": "judge",
    "conditions": "sample",
    "every_turn": "annotate",
    "ratings": "rescale",
    "prior": "weigh",
    "policies": "steer",
    "data": "evaluate",
}
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
    if "workdir" in options and Path(options.workdir).is_file():
        raise ValueError(
            f"--workdir={options.workdir} is a file; expected a folder, new or a run's"
        )
    return options


def check_verb(config, *verbs: str) -> None:
    """Raises ValueError where a config is one for another verb."""
    key, verb = next(((key, verb) for key, verb in KINDS.items() if key in config), (None, None))
    if key is None:
        raise ValueError(f"this config has none of {', '.join(map(repr, KINDS))}: it is no config")
    if verb not in verbs:
        wanted = " or ".join(repr(key) for key, verb in KINDS.items() if verb in verbs)
        raise ValueError(f"this config has {key!r} and not {wanted}: it is one for `hs2jax {verb}`")


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
