"""Many clients at once, of `hs2jax serve` and of `plain.py`: speed, memory, right answers.

    python experiments/serve/load.py --model=FOLDER [--clients=200] [--seconds=120] [--servers=ours]

Each client asks for the score of one conversation after the other, drawn from --data; every answer
is compared with `RewardModel.score`. Prints a row of a Markdown table for each server; an answer
that is no score is counted as failed. --help says the rest.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np

PORT = 8765


def conversations(data: str) -> list:
    from hs2jax.data import corpora

    groups = [x for x in corpora.read(data) if x is not None]
    said = [(g, {"role": "assistant", "content": r}) for g in groups for r in g.responses]
    return [[*group.prompt, answer] for group, answer in said]


async def client(requests, expected, until: float, rng, taken: list, wrong: list) -> None:
    """Ask until the time is over, over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    while time.monotonic() < until:
        i, begun = rng.randrange(len(requests)), time.monotonic()
        writer.write(requests[i])
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.split("content-length: ")[1].split("\r\n")[0])
        answer = json.loads(await reader.readexactly(size))
        taken.append(time.monotonic() - begun)
        scored = " 200 " in head.partition("\r\n")[0] and "reward" in answer["scores"][0]
        wrong.append(abs(answer["scores"][0]["reward"] - expected[i]) if scored else np.inf)
    writer.close()


async def load(requests, expected, clients: int, seconds: float, memory) -> tuple[list, list, list]:
    taken, wrong, sizes, until = [], [], [], time.monotonic() + seconds

    async def watch():
        while time.monotonic() < until:
            sizes.append(memory())
            await asyncio.sleep(seconds / 20)

    rngs = [random.Random(i) for i in range(clients)]
    asking = [client(requests, expected, until, rng, taken, wrong) for rng in rngs]
    await asyncio.gather(watch(), *asking)
    return taken, wrong, sizes


def measure(command, requests, expected, clients: int, seconds: float) -> str:
    process = subprocess.Popen(command)
    try:
        for _ in range(1200):
            time.sleep(0.25)
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health")
                break
            except OSError:
                if process.poll() is not None:
                    raise

        def memory() -> float:
            return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096 / 2**20

        begun = time.monotonic()
        found = asyncio.run(load(requests, expected, clients, seconds, memory))
        taken, wrong, sizes = found
        rate = len(taken) / (time.monotonic() - begun)
        times = " | ".join(f"{x:.2f}" for x in np.quantile(taken, [0.5, 0.95, 0.99, 1.0]))
        grown = ", ".join(f"{sizes[len(sizes) * i // 4 - 1]:.0f}" for i in (1, 2, 3, 4))
        failed = sum(np.isinf(wrong))
        worst = max((x for x in wrong if np.isfinite(x)), default=np.nan)
        return f"{len(taken)} | {failed} | {rate:.1f} | {times} | {worst:.1e} | {grown}"
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a reward model of one output")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--data", default="helpsteer2:mini/train.jsonl[:20]")
    parser.add_argument("--servers", nargs="*", default=["ours", "plain"])
    args = parser.parse_args()
    from hs2jax.reward_model import RewardModel

    talks = conversations(args.data)
    expected = [score.reward for score in RewardModel.load(args.model).score(talks)]
    bodies = [json.dumps({"conversations": [talk]}).encode() for talk in talks]
    head = "POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    requests = [f"{head}Content-Length: {len(x)}\r\n\r\n".encode() + x for x in bodies]
    plain = [sys.executable, str(Path(__file__).with_name("plain.py")), args.model, str(PORT)]
    ours = [sys.executable, "-m", "hs2jax.cli", "serve", f"--model={args.model}", f"--port={PORT}"]
    columns = "server | answers | failed | a second | p50 s | p95 | p99 | max | largest error"
    print(f"| {columns} | MB by quarters |")
    for name, command in {"ours": ours, "plain": plain}.items():
        if name in args.servers:
            row = measure(command, requests, expected, args.clients, args.seconds)
            print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
