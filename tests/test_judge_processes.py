"""Two processes that share a mesh judge as one does, and go on with what only one of them can
read."""

import numpy as np
import pytest
from judge_runs import items_of, prepare
from stages import write
from test_processes import finish, start, start_two

from hs2jax import workdir

# Another order of adding may stop a fit of weights a step earlier: enough for another maximum.
WEIGHTED_MAX = ("logits_agg_weighted_max", "prob_weighted_agg_max")
# Few requests in a chunk. Scores with all baselines, and a selection, with parameters spread over
# four devices; all of it twice, where the second time goes on with what the first has kept.
RUNS = """
import shutil
from pathlib import Path
import jax
from jax.experimental.multihost_utils import sync_global_devices
from judge_runs import run
from hs2jax import workdir
from hs2jax.judging import readings
readings.CHUNK, here, out = 4, Path({here!r}), Path({out!r})
scores = dict(weights="cross-validate", folds=4, reward_model=here / "reward")
disk.remove = lambda *_: None  # What is kept stays, to be gone on with.
data = "instructions:" + str(here / "rows.jsonl")
for again in (False, True):
    run(here, out / "scores", baselines="gpt_score,ridge_probe,reward_model", **scores,
        **{{"mesh.fsdp": 4}})
    run(here, out / "selection", task="selection", data=data, fraction=0.5, **{{"mesh.fsdp": 4}})
    sync_global_devices("done")
    if not again and jax.process_index() == 0:
        shutil.copytree(out, str(out) + " at first")
        for result in out.glob("*/result.json"):
            result.unlink()
    sync_global_devices("begin")
"""


@pytest.mark.long
def test_two_processes_judge_as_one_does(tmp_path):
    here = prepare(tmp_path)
    rows = [{"instruction": f"Task {i}.", "output": "word " * (1 + i % 3)} for i in range(5)]
    write(here / "rows.jsonl", rows)
    one, two, said = here / "one", here / "two", [here / "first", here / "second"]
    alone, together = (RUNS.format(here=str(here), out=str(out)) for out in (one, two))
    finish([start(alone, 4, said[0], HS2JAX_CACHE=str(here / "cache of one"))], said[:1])
    finish(start_two(together, said, HS2JAX_CACHE=str(here / "cache of two")), said)
    kept = []
    for two in (here / "two at first", here / "two"):
        kept.append({path.parent.name: path.read_bytes() for path in two.glob("*/readings.sqlite")})
        for first, second in zip(items_of(one / "scores"), items_of(two / "scores"), strict=True):
            assert (first["response"], first["human"]) == (second["response"], second["human"])
            for name, score in first["scores"].items():
                if score is not None and name not in WEIGHTED_MAX:
                    other = second["scores"][name]
                    np.testing.assert_allclose(other, score, atol=0.01, err_msg=name)
        chosen, scored = (
            [workdir.read_rows(out / "selection" / name) for out in (one, two)]
            for name in ("selected.jsonl", "scores.jsonl")
        )
        assert chosen[0] == chosen[1]
        assert len(chosen[0]) == 2
        for first, second in zip(*scored, strict=True):
            assert first["source"] == second["source"]
            for name, score in first["scores"].items():
                np.testing.assert_allclose(second["scores"][name], score, atol=1e-3)
    assert kept[0] == kept[1]
    assert len(kept[0]) == 2
