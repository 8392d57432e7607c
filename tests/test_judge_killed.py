"""A judge's run killed with SIGKILL, each time started again, ends as one that was not."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from judge_runs import CRITERIA, flags, items_of, judged, rated_rows, write
from test_resume import environment, finish

SETTINGS = {"weights": "cross-validate", "folds": 4}
# Few requests in a chunk; what it reads is noted, and after each chunk it waits.
PACE = """
import time
from pathlib import Path
from hs2jax import cli
from hs2jax.judging import readings
from hs2jax.judging.judge import Judge
readings.CHUNK = 4
read, save = Judge.read, readings._save

def noting(self, requests, **options):
    with Path({noted!r}).open("a") as file:
        file.write("\\n".join(request.item.replace("\\n", " ") for request in requests) + "\\n")
    return read(self, requests, **options)

def slowly(path, found):
    save(path, found)
    time.sleep({pause})

Judge.read, readings._save = noting, slowly
cli.main({arguments!r})
"""


@pytest.fixture
def here(tmp_path) -> Path:
    tiny.language_model(tmp_path / "model", max_seq_len=2048)
    (tmp_path / "criteria.json").write_text(json.dumps(CRITERIA))
    write(tmp_path / "rated.jsonl", rated_rows(10))
    return tmp_path


def start(here: Path, workdir: Path, pause: float = 0.0, **settings) -> subprocess.Popen:
    """The command in a process of its own, which notes what it reads beside its folder."""
    arguments = ["judge", *flags(here, workdir, **SETTINGS, **settings)]
    noted = str(workdir.with_suffix(".noted"))
    return subprocess.Popen(
        [sys.executable, "-c", PACE.format(noted=noted, pause=pause, arguments=arguments)],
        env=environment(here / "cache"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def noted(workdir: Path) -> list[str]:
    return workdir.with_suffix(".noted").read_text().splitlines()


def chunks(workdir: Path) -> int:
    return len([p for p in (workdir / "readings").glob("*.npz") if ".tmp" not in p.name])


def results(workdir: Path):
    result = judged(workdir)
    del result["seconds"]
    return result, items_of(workdir), json.loads((workdir / "weights.json").read_text())


def test_killed_in_the_middle_it_ends_with_the_same_numbers(here):
    whole, killed = here / "whole", here / "killed"
    finish(start(here, whole))
    assert chunks(whole) == 5
    for done in (1, 3):
        process = start(here, killed, pause=60.0 if done == 1 else 2.0)
        end = time.time() + 240
        while chunks(killed) < done and process.poll() is None and time.time() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
        process.stderr.close()
        assert done <= chunks(killed) < 5
        assert not (killed / "judge.json").exists()
    finish(start(here, killed))
    assert results(killed) == results(whole)
    # What was kept is not read again: only a chunk that was being read may be there twice.
    assert set(noted(killed)) == set(noted(whole))
    assert len(noted(killed)) <= len(noted(whole)) + 4
    assert len(noted(whole)) == 20

    refused = start(here, killed, seed=1)
    assert "different: seed" in refused.communicate(timeout=240)[1]
    assert refused.returncode == 1
    assert len(noted(killed)) <= len(noted(whole)) + 4
