"""Races: each contender is a process of its own, one after the other, on files made before.

A script gives `race` its contenders, functions (how, folder, flags) -> Timed by (work, whose), and
how the folder is prepared. What is printed is a Markdown table, and for each work a line that holds
the best of hs2jax against the best of the others.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

LONGEST = 768  # Tokens of a conversation.


class Timed(NamedTuple):
    """Seconds of each round that counts; units of work of each, where only the run knows them; what
    was computed, to be held against what others compute; and what else is to be said."""

    seconds: list[float]
    units: list[float] = []  # noqa: RUF012
    found: list[float] = []  # noqa: RUF012
    note: str = ""


def parser(doc: str, *, pairs: bool = True) -> argparse.ArgumentParser:
    """Make the flags that all races have, and those that run on pairs."""
    flags = argparse.ArgumentParser(description=doc.splitlines()[0])
    if pairs:
        flags.add_argument("--file", required=True, help="HH-RLHF pairs, as JSON lines")
        flags.add_argument("--model", default="smollm2-135m-instruct")
    flags.add_argument("--work", default="", help="of the race, joined with commas; all")
    flags.add_argument("--who", default="", help="contenders, joined with commas; all")
    flags.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    return flags


def race(flags: argparse.ArgumentParser, runs: dict, names: tuple, units: dict, prepare: Callable):
    """Run all contenders and print what they took.

    runs: by (work, whose). names: of contenders, "WHOSE HOW". units: what is counted, by work.
    prepare: (folder, flags) to how many units a round has, by work.
    """
    flags = flags.parse_args()
    if flags.one:
        work, who, folder = flags.one
        whose, how = who.split(" ", 1)
        timed = runs[work, whose](how, Path(folder), flags)
        return print(json.dumps([*timed, peak_memory()]))
    with tempfile.TemporaryDirectory() as folder:
        counts = prepare(Path(folder), flags)
        os.environ["HS2JAX_CACHE"] = f"{folder}/cache"  # Nothing that was kept before counts.
        print("| work | | seconds a round | a second | GiB | |\n|---|---|---|---|---|---|")
        for work in flags.work.split(",") if flags.work else counts:
            seen, first = {}, None
            for who in flags.who.split(",") if flags.who else names:
                command = [sys.executable, *sys.argv, "--one", work, who, folder]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                seconds, of_round, found, note, peak = json.loads(done.stdout.splitlines()[-1])
                of_round = of_round or [counts[work]] * len(seconds)
                rate = statistics.median(n / s for n, s in zip(of_round, seconds, strict=True))
                seen[who], first = (rate, peak), first or found
                if found:
                    apart = max(abs(x - y) for x, y in zip(found, first, strict=True))
                    note = f"{apart:.1e} apart"
                print(
                    f"| {work} | {who} | {statistics.median(seconds):.2f} | "
                    f"{rate:.4g} {units[work]} | {peak / 2**30:.1f} | "
                    f"{note} |",
                    flush=True,
                )
            print(against(seen), flush=True)


def against(seen: dict[str, tuple[float, int]]) -> str:
    """Hold the best of hs2jax against each other contender, by rate and peak memory."""
    ours = max((who for who in seen if who.startswith("hs2jax")), key=seen.get, default=None)
    others = [who for who in seen if ours and not who.startswith("hs2jax")]
    lines = (
        f"{ours}: {seen[ours][0] / seen[who][0]:.2f} times the speed of {who}, "
        f"{seen[ours][1] / seen[who][1]:.2f} of its memory\n"
        for who in others
    )
    return "\n" + "".join(lines) if others else ""


def peak_memory() -> int:
    """Return the most bytes that this process used: of a GPU or TPU where it has one."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    from hs2jax.training import metrics

    return metrics.peak_memory()


def timed(rounds: int, run: Callable[[int], list[float] | int]) -> Timed:
    """Time `run(round)`, which gives numbers to compare, or how much was done; the first of one
    more round does not count."""
    seconds, given = [], []
    for i in range(rounds + 1):
        begun = time.perf_counter()
        given.append(run(i))
        seconds.append(time.perf_counter() - begun)
    counted = isinstance(given[0], int)
    return Timed(seconds[1:], given[1:] if counted else [], [] if counted else given[0])


# Pairs --------------------------------------------------------------------------------------------


def write_pairs(folder: Path, flags, count: int) -> int:
    """Write the policy as transformers reads it, and pairs; return the tokens of all pairs."""
    from hs2jax import LanguageModel
    from hs2jax.data import corpora
    from hs2jax.data.record import Record

    model = LanguageModel.load(flags.model)
    model.save(folder / "policy")
    found, longest = [], min(LONGEST, model.config.max_seq_len)
    for group in corpora.read(f"hh_rlhf:{flags.file}", on_error="skip", record=Record()):
        sides = group.responses if group.strength < 0 else group.responses[::-1]
        talks = [[*group.prompt, {"role": "assistant", "content": text}] for text in sides]
        each = model.tokenizer.apply_chat_template(talks, tokenize=True, return_dict=False)
        if max(map(len, each)) <= longest and sides[0] != sides[1]:
            row = {"prompt": group.prompt, "chosen": sides[0], "rejected": sides[1]}
            found.append((sum(map(len, each)), row))
        if len(found) == count:
            break
    for name, rows in (("pairs", found), ("sorted", sorted(found, key=lambda x: x[0]))):
        text = "".join(json.dumps(row) + "\n" for _, row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return sum(tokens for tokens, _ in found)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# Training -----------------------------------------------------------------------------------------


def train(config: str, dtype: str, folder: Path, flags, **changes) -> Timed:
    """Train on the pairs with hs2jax: two epochs, of which the second counts, as one round."""
    import hs2jax

    pairs = f"preference:{folder}/pairs.jsonl"
    changes |= {"data.train": pairs, "data.validation": f"{pairs}[:1]", "data.row_length": 1024}
    changes |= {"model.name": f"{folder}/policy", "model.dtype": dtype, "model.remat": False}
    changes |= {"batch_size": flags.batch, "micro_batch_size": 1, "epochs": 2}
    work = folder / f"{config.split(':')[0]}_{dtype}"
    hs2jax.run(hs2jax.config(config, changes | {"evaluate_every": 1000}), work)
    return Timed([sum(x["seconds"] for x in trained(work)[flags.steps :])])


def trained(work: Path) -> list[dict]:
    """Read the steps of a run of hs2jax."""
    return [line for line in read_lines(work / "metrics.jsonl") if line["kind"] == "train"]


def train_trl(trainer, config, how: str, model, folder: Path, prepare, **settings) -> list[float]:
    """Train on the pairs with a trainer of TRL; returns the seconds of each step.

    how: "default", or "best": bfloat16, without gradient checkpointing. prepare: the data as this
    trainer takes them. settings: of its config.
    """
    import datasets
    import torch
    import transformers

    seconds = []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            seconds.append(-time.perf_counter())

        def on_step_end(self, *_, **__):
            seconds[-1] += time.perf_counter()

    if how == "best":
        settings |= {"gradient_checkpointing": False}
    in_order = settings.get("train_sampling_strategy") == "sequential"
    file = f"{folder}/{'sorted' if in_order else 'pairs'}.jsonl"
    quiet = {"save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "report_to": []}
    args = config(f"{folder}/trl", use_cpu=not torch.cuda.is_available(), **quiet, **settings)
    data = prepare(datasets.load_dataset("json", data_files=file, split="train"))
    trainer(*model, args=args, train_dataset=data, callbacks=[Clock()]).train()
    return seconds


def as_messages(data):
    """Pairs with a turn of the assistant's for each response, as TRL takes them."""
    sides = ("chosen", "rejected")
    return data.map(lambda row: {x: [{"role": "assistant", "content": row[x]}] for x in sides})


def train_trl_on_pairs(trainer, config, how: str, folder: Path, flags, **best) -> Timed:
    """`train_trl` for two epochs, of which the second counts, as one round. best: settings of
    "best", which goes through the pairs in order of length."""
    best |= {"bf16": True, "train_sampling_strategy": "sequential"}
    settings = {"per_device_train_batch_size": flags.batch, "num_train_epochs": 2}
    settings |= best if how == "best" else {}
    model = (f"{folder}/policy",)
    seconds = train_trl(trainer, config, how, model, folder, as_messages, **settings)
    return Timed([sum(seconds[flags.steps :])])
