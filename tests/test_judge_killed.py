"""A judge's run that is killed, and started again, ends as one that was not."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from judge_runs import column, items_of, prepare, result_of, run

from hs2jax import workdir
from hs2jax.judging import readings
from hs2jax.judging.judge import Judge

SETTINGS = {"weights": "cross-validate", "folds": 4, "baselines": "gpt_score"}
# Few requests in a chunk, and a kill before or after the second one is kept.
KILLED = """
import os, signal
from pathlib import Path
from judge_runs import run
from hs2jax import store
from hs2jax.judging import readings
readings.CHUNK, added, add = 4, [], store.Store.add

def until_killed(self, entries):
    added.append(len(entries))
    if len(added) == 2 and {before}:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, entries)
    if len(added) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

store.Store.add = until_killed
run(Path({here!r}), Path({folder!r}), **{settings!r})
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, list[dict]]:
    """A folder with what runs need and a run that was not killed; and its rows."""
    here = prepare(tmp_path_factory.mktemp("here"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readings, "CHUNK", 4)
        return here, run(here, here / "whole", **SETTINGS)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_in_the_middle_it_ends_with_the_same_numbers(whole, monkeypatch, before):
    (here, expected), asked, ask = whole, [], Judge.ask
    folder = here / f"killed {before}"
    program = KILLED.format(before=before, here=str(here), folder=str(folder), settings=SETTINGS)
    killed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "result.json").exists()

    def counting(self, requests, **options):
        asked.extend(requests)
        return ask(self, requests, **options)

    monkeypatch.setattr(Judge, "ask", counting)
    monkeypatch.setattr(readings, "CHUNK", 4)
    assert run(here, folder, **SETTINGS) == expected
    assert len(asked) == (12 if before else 8)  # Of 16: what is kept is not read again.
    items = items_of(folder)
    assert items == items_of(here / "whole")
    assert np.isfinite(column(items, "gpt_score")).all()
    weights = [workdir.read_json(each / "weights.json") for each in (folder, here / "whole")]
    assert weights[0] == weights[1]
    assert result_of(folder)["model"] == result_of(here / "whole")["model"]
