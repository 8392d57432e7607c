"""One score per conversation over 24 real ones (200 with LONG=1 in the environment), with
SmolLM2-135M-Instruct: to 1e-5 in float32.

However the conversations are laid into rows, padded and spread over devices.
"""

import os

import jax
import numpy as np
import pytest
import tiny
from test_reward_model import pad_left

from hs2jax.data import corpora, loader, packing
from hs2jax.data.record import Record
from hs2jax.inference import plan_evaluation, predict, run_batches
from hs2jax.models import sharding
from hs2jax.reward_model import RewardModel

PAIRS = 100 if os.environ.get("LONG") else 12
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model():
    return tiny.smollm2(RewardModel.load, outputs=("reward",))


@pytest.fixture(scope="module")
def prepared(real_data, model):
    """The pairs whose conversations are shortest, so that the test is quick."""
    spec = f"hh_rlhf:{real_data / 'hh_rlhf' / 'helpful_test_1850.jsonl'}"
    groups = list(corpora.read(spec, on_error="skip", record=Record()))
    groups = sorted(groups, key=lambda group: len(str(group)))[: 2 * PAIRS]
    every = loader.prepare(
        groups, model.tokenizer, attributes=(), row_length=100_000, max_tokens=100_000
    )
    lengths = [packing.cost(example.encoded, "padded") for example in every.examples]
    shortest = np.argsort(lengths, kind="stable")[:PAIRS]
    return loader.Prepared(
        [every.groups[i] for i in shortest], [every.examples[i] for i in shortest]
    )


def scores(model, prepared, layout="shared", rows=4, mesh=None, change=None):
    """Scores [PAIRS, 2]; `change` is made to each micro-batch before it is run."""
    params = model.params
    if mesh is not None:
        params = jax.device_put(params, sharding.shardings(params, mesh))

    def run(micro):
        micro = micro if change is None else change({k: np.array(x) for k, x in micro.items()})
        return predict(params, micro, config=model.config, layout=layout, dtype=model.dtype)

    row_length = 2 * max(packing.cost(example.encoded, "padded") for example in prepared.examples)
    batches = plan_evaluation(
        prepared.examples, row_length=row_length, layout=layout, rows=rows, mesh=mesh
    )
    return np.stack(run_batches(run, batches, 1, mesh))[..., 0]


@pytest.fixture(scope="module")
def reference(model, prepared):
    found = scores(model, prepared)
    assert found.shape == (PAIRS, 2)
    assert np.std(found) > 0.01  # Far more than what is tolerated below.
    return found


WAYS = {
    "separate": {"layout": "separate"},
    "padded": {"layout": "padded", "rows": 8},
    "one row at a time": {"rows": 1},
    "left padding": {"change": pad_left},
    "8 devices": {"rows": 16, "mesh": {"fsdp": 8}},
}


@pytest.mark.parametrize(
    "way",
    [pytest.param(x, marks=pytest.mark.long) if x == "one row at a time" else x for x in WAYS],
)
def test_real_conversations_have_one_score(way, model, prepared, reference, record_property):
    options = dict(WAYS[way])
    if "mesh" in options:
        options["mesh"] = sharding.make_mesh(**options["mesh"])
    difference = np.abs(scores(model, prepared, **options) - reference).max()
    record_property("largest difference", float(difference))
    assert difference <= TOLERANCE
