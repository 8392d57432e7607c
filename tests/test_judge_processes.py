"""Two processes that share a mesh judge as one does, whatever each can read of what is kept."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from judge_runs import flags, items_of, judged, prepare, write
from test_processes import finish

# Another order of adding may stop a fit of weights a step earlier: enough for another maximum.
WEIGHTED_MAX = ("logits_agg_weighted_max", "prob_weighted_agg_max")
ALONE = """
from hs2jax import cli
for verb in {verbs!r}:
    cli.main(verb)
"""
# Few requests in a chunk; one chunk is broken to this process only.
TOGETHER = """
import jax
jax.distributed.initialize({address!r}, 2, {number})
from pathlib import Path
from hs2jax.judging import readings
readings.CHUNK = 4
read, folder = readings._read, Path({folder!r})

def broken(path):
    one = path.parent == folder and sorted(folder.glob("*.npz")).index(path) == {number}
    return None if one else read(path)

readings._read = broken
"""


def verbs(here: Path, out: Path) -> list[list[str]]:
    """Scores with all baselines, and a selection, with parameters spread over four devices."""
    spread = {"mesh.fsdp": 4}
    scores = {"weights": "cross-validate", "folds": 4, "reward_model": here / "reward"}
    scores |= {"baselines": "gpt_score,ridge_probe,reward_model"}
    rows = {"data": f"instructions:{here / 'rows.jsonl'}", "fraction": 0.5}
    return [
        ["judge", *flags(here, out / "scores", **scores, **spread)],
        ["judge", *flags(here, out / "selection", config="data_selection", **rows, **spread)],
    ]


def start(program: str, devices: int, cache: Path, said: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "HS2JAX_CACHE": str(cache),
        },
        stdout=said.open("w"),
        stderr=subprocess.STDOUT,
    )


def test_two_processes_judge_as_one_does(tmp_path):
    here = prepare(tmp_path)
    rows = [{"instruction": f"Task {i}.", "output": "word " * (1 + i % 3)} for i in range(5)]
    write(here / "rows.jsonl", rows)
    one, two, said = here / "one", here / "two", [here / "first", here / "second"]
    alone = ALONE.format(verbs=verbs(here, one))
    finish([start(alone, 4, here / "cache of one", said[0])], said[:1])
    assert len(list((one / "scores" / "readings").glob("*.npz"))) == 1

    for _ in range(2):  # The second time they go on with what is kept.
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        folder = str(two / "scores" / "readings")
        again = ALONE.format(verbs=verbs(here, two))
        running = [
            start(
                TOGETHER.format(address=address, number=i, folder=folder) + again,
                2,
                here / "cache of two",
                said[i],
            )
            for i in range(2)
        ]
        finish(running, said)
        assert len(list((two / "scores" / "readings").glob("*.npz"))) == 4
        pages = [judged(out / "scores")["sets"][0]["criteria"][-1] for out in (one, two)]
        assert list(pages[0]["scores"]) == list(pages[1]["scores"])
        for first, second in zip(items_of(one / "scores"), items_of(two / "scores"), strict=True):
            assert (first["response"], first["human"]) == (second["response"], second["human"])
            for way, score in first["scores"].items():
                if score is not None and way not in WEIGHTED_MAX:
                    np.testing.assert_allclose(second["scores"][way], score, atol=0.01, err_msg=way)
        chosen, scored = (
            [(out / "selection" / name).read_text() for out in (one, two)]
            for name in ("selected.jsonl", "scores.jsonl")
        )
        assert chosen[0] == chosen[1]
        assert chosen[0].count("\n") == 2
        for first, second in zip(*(text.splitlines() for text in scored), strict=True):
            first, second = json.loads(first), json.loads(second)
            assert first["source"] == second["source"]
            for name, score in first["scores"].items():
                np.testing.assert_allclose(second["scores"][name], score, atol=1e-3)
