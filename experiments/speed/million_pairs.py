"""Time the preparing of many pairs: written, killed, resumed, found again, fed to training.

    python experiments/speed/million_pairs.py --pairs=50000

Synthetic pairs of 1 to 3 user turns and some 300 words, with the tokenizer of
SmolLM2-135M-Instruct. Each stage is a process of its own, as a killed one is: its seconds, peak of
resident memory and bytes on disk are printed as JSON lines.
    write    the pairs, as JSON lines
    survey   read for the run's identity, as every verb does first
    kill     prepared, and killed halfway
    resume   prepared to the end
    restart  to the first batch, of what is there
    feed     batches, as fast as they come, and how long training that takes SECONDS for a step
             would wait for each
    grow     the prepared files linked until they hold a million pairs; then restart and feed again

Seen on one core: 1.9 ms, 3.0 kB of disk and no more than 630 MiB to prepare 50,000; of a million,
24 s and 829 MiB to the first batch, for which a step of 0.1 s waits 0.6 ms.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

MODEL = "smollm2-135m-instruct"
STAGES = ["write", "survey", "kill", "resume", "restart", "feed", "grow", "restart", "feed"]
BATCHES, SECONDS = 200, 0.1
SETTINGS = {"attributes": ("reward",), "derive": None, "on_error": "raise", "vocab_size": None}


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--pairs", type=int, default=50_000)
    flags.add_argument("--folder", default="runs/million_pairs")
    flags.add_argument("--stages", default=",".join(STAGES))
    flags.add_argument("--one", help=argparse.SUPPRESS)
    flags = flags.parse_args()
    folder = Path(flags.folder)
    os.environ["HS2JAX_CACHE"] = str(folder / "cache")
    if flags.one:
        return STAGE[flags.one](flags, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for stage in flags.stages.split(","):
        started = time.time()
        child = subprocess.Popen([sys.executable, *sys.argv, "--one", stage])
        if stage == "kill":
            tokens, half = folder / "cache" / "tokens", flags.pairs // 2
            while child.poll() is None and _kept(tokens) < half:
                time.sleep(0.05)
            child.send_signal(signal.SIGKILL)
        _, status, used = os.wait4(child.pid, 0)
        said = {"stage": stage, "pairs": flags.pairs, "seconds": round(time.time() - started, 2)}
        said |= {"cpu_seconds": round(used.ru_utime + used.ru_stime, 2), "status": status}
        said |= {"peak_mib": used.ru_maxrss // 1024}
        said |= {"disk_mib": sum(x.stat().st_size for x in folder.rglob("*") if x.is_file()) >> 20}
        print(json.dumps(said), flush=True)


def _kept(tokens: Path) -> int:
    return 8192 * len(list(tokens.glob("*/*.npz")))


def write(flags, folder: Path) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(5000)]

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(low, high)))

    with (folder / "pairs.jsonl").open("w") as file:
        for _ in range(flags.pairs):
            turns = [{"role": "user", "content": text(5, 80)}]
            for _ in range(rng.randint(0, 2)):
                turns.append({"role": "assistant", "content": text(5, 80)})
                turns.append({"role": "user", "content": text(5, 40)})
            row = {"prompt": turns, "chosen": text(10, 150), "rejected": text(10, 150)}
            file.write(json.dumps(row) + "\n")


def prepared(flags, folder: Path):
    """Read as `training.tasks` does."""
    from ml_collections import ConfigDict

    from hs2jax.data import corpora, loader
    from hs2jax.data.record import Record
    from hs2jax.models.hf import hub
    from hs2jax.training import tokenised

    spec, record = f"preference:{folder / 'pairs.jsonl'}", Record()
    data = ConfigDict({"on_error": "raise", "derive": "", "condition": ""})
    tokenizer = hub.open_model(MODEL)[0].tokenizer
    return loader.prepare(
        corpora.read(spec, record=record),
        tokenizer,
        row_length=1024,
        max_tokens=8192,
        record=record,
        folder=tokenised.folder(data, spec, tokenizer, SETTINGS),
        **SETTINGS,
    )


def survey(flags, folder: Path) -> None:
    from hs2jax import survey

    print(survey.survey(f"preference:{folder / 'pairs.jsonl'}").digest)


def batches(flags, folder: Path):
    from hs2jax.data import loader

    sizes = {"row_length": 1024, "layout": "shared", "batch_size": 64, "micro_batch_size": 8}
    planned = loader.plan(prepared(flags, folder).examples, **sizes, epochs=1, seed=0)
    return loader.iterate(planned)


def restart(flags, folder: Path) -> None:
    print(next(batches(flags, folder))["tokens"].shape)


def feed(flags, folder: Path) -> None:
    source = batches(flags, folder)
    next(source)
    for seconds in (0.0, SECONDS):
        waited = []
        for _ in range(min(BATCHES, flags.pairs // 64 // 2 - 1)):
            time.sleep(seconds)
            started = time.time()
            next(source)
            waited.append(time.time() - started)
        mean, most = sum(waited) / len(waited), max(waited)
        print(f"a step of {seconds} s waits {1e3 * mean:.2f} ms, at most {1e3 * most:.1f}")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


def grow(flags, folder: Path) -> None:
    from hs2jax.data.records import SHARD

    (tokens,) = (folder / "cache" / "tokens").iterdir()
    whole, count = flags.pairs // SHARD, -(-1_000_000 // SHARD)
    for number in range(whole, count):
        for kind in ("array_record", "npz"):
            link = tokens / f"{number:06d}.{kind}"
            link.unlink(missing_ok=True)
            link.hardlink_to(tokens / f"{number % whole:06d}.{kind}")
    end = tokens / "record.json"
    end.write_text(json.dumps(json.loads(end.read_text()) | {"shards": count}))


STAGE = {"grow": grow, "write": write, "survey": survey, "kill": prepared, "resume": prepared}
STAGE |= {"restart": restart, "feed": feed}


if __name__ == "__main__":
    main()
