"""Two or four processes of one mesh evaluate, sweep, score and convert as one process does, kept
scores included."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import stages
from command import succeed
from test_expo import save_pair
from test_processes import finish, start_two

from hs2jax.evaluation import scores
from hs2jax.reward_model import RewardModel
from hs2jax.workdir import read_rows

CONFIGS = Path(__file__).parent.parent / "configs"


def verbs(folder: Path, out: Path) -> list[list[str]]:
    """An evaluation, and a sweep, with parameters spread over four devices; and scores."""
    spread = "--config.mesh.fsdp=4"
    data = f"preference:{folder / 'pairs.jsonl'}"
    sweep = {"initial": folder / "initial", "trained": folder / "trained", "data": data}
    sweep |= {"factors": "(1.5,)", "fine_step": 0}
    evaluate = [f"--config={CONFIGS}/evaluate.py:{folder / 'trained'}", f"--config.data={data}"]
    expo = [f"--config={CONFIGS}/expo.py", *(f"--config.{k}={v}" for k, v in sweep.items())]
    return [
        ["evaluate", *evaluate, f"--workdir={out / 'evaluation'}", spread],
        ["expo", *expo, f"--workdir={out / 'expo'}", spread],
        [
            *("score", f"--model={folder / 'initial'}", f"--data={data}[:7]"),
            *(f"--output={out / 'scores.jsonl'}", f"--best={out / 'best'}"),
        ],
        [
            "convert",
            f"--model={folder / 'trained'}",
            f"--output={out / 'model'}",
            "--dtype=bfloat16",
        ],
    ]


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.long)])
def test_several_processes_evaluate_and_sweep_as_one_does(count, tmp_path):
    save_pair(tmp_path)
    stages.pairs(tmp_path / "pairs.jsonl", 20)
    for verb in verbs(tmp_path, tmp_path / "one"):
        succeed(*[argument.replace("fsdp=4", "fsdp=8") for argument in verb])
    # Half of the scores are known before, in the file that only the first process reads.
    path = scores.store_of(RewardModel.load(tmp_path / "trained")).path
    kept = tmp_path / "cache" / "scores" / path.name
    kept.parent.mkdir(parents=True)
    shutil.copy(path, kept)
    rows = "SELECT rowid, key FROM kept"  # What is kept anew has another rowid.
    with contextlib.closing(sqlite3.connect(kept)) as table, table:
        table.execute("DELETE FROM kept WHERE rowid > 20")
        before = set(table.execute(rows))

    said = [tmp_path / f"{name}.log" for name in range(count)]
    program = "from hs2jax.cli import main\nfor verb in {!r}:\n    main(verb)"
    program = program.format(verbs(tmp_path, tmp_path / "two"))
    finish(start_two(program, said, count, HS2JAX_CACHE=str(tmp_path / "cache")), said)

    with contextlib.closing(sqlite3.connect(kept)) as table:
        after = set(table.execute(rows))
    assert (len(before), len(after)) == (20, 40)
    assert len(before & after) > 10, "what was kept is computed again"
    assert (tmp_path / "two" / "best" / "report.html").exists()
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert len({(tmp_path / run / "model" / file).read_bytes() for run in ("one", "two")}) == 1
    parts = ("evaluation/items/preference-pairs.jsonl", "expo/items/chosen.jsonl", "scores.jsonl")
    for part in parts:
        one, two = (read_rows(tmp_path / run / part) for run in ("one", "two"))
        for first, second in zip(one, two, strict=True):
            assert first["responses"] == second["responses"]
            np.testing.assert_allclose(first["rewards"], second["rewards"], atol=1e-5)
    first, second = (stages.result(tmp_path / run / "expo") for run in ("one", "two"))
    assert first["factor"] == second["factor"]
