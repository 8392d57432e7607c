"""An evaluation's outputs are what `transformers` gives for the exported folder, one at a time."""

from pathlib import Path

import pytest
import tiny
from command import succeed

pytest.importorskip("torch")
from transformers_scores import largest_difference

from hs2jax.workdir import read_rows

pytestmark = pytest.mark.parity

CONFIG = Path(__file__).parent.parent / "configs" / "evaluate.py"


def evaluated(tmp_path, data: str) -> list[dict]:
    """Items of `data` whose prompts are one turn, scored by a tiny model in `tmp_path`/model."""
    outputs = {"outputs": ("helpfulness", "verbosity"), "weights": {"helpfulness": 1.0}}
    tiny.save(tmp_path / "model", **outputs, max_seq_len=16384)
    flags = [f"--config={CONFIG}:{tmp_path / 'model'}", f"--workdir={tmp_path / 'run'}"]
    succeed("evaluate", *flags, f"--config.data={data}")
    (file,) = (tmp_path / "run" / "items").iterdir()
    return read_rows(file)


def test_bundled_ratings(tmp_path):
    items = evaluated(tmp_path, "helpsteer2:mini/train.jsonl[1:6]")
    assert largest_difference(tmp_path / "model", items) < 1e-4


def test_real_items(tmp_path, real_data):
    items = evaluated(tmp_path, f"llmbar:{real_data}/llmbar/LLMBar__Natural.json[:40]")
    assert len(items) == 40
    assert largest_difference(tmp_path / "model", items) < 1e-4


def test_the_difference_of_another_score_is_seen(tmp_path):
    items = evaluated(tmp_path, "helpsteer2:mini/train.jsonl[1:3]")
    items[1]["outputs"][1][0] += 0.01
    assert largest_difference(tmp_path / "model", items) > 5e-3
