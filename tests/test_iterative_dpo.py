"""configs/iterative_dpo.py on tiny models: two rounds, killed between and inside stages."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import stages
import tiny

from hs2jax import cli, workdir
from hs2jax.language_model import LanguageModel
from hs2jax.reward_model import RewardModel
from hs2jax.store import Store
from hs2jax.training import metrics, recipe
from hs2jax.training.checkpoint import Checkpoints

CONFIG = Path(__file__).parent.parent / "configs" / "iterative_dpo.py"
COSTS = ("seconds", "seconds_per_step", "tokens_per_second", "peak_memory_bytes")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("iterative")
    sizes = {"num_layers": 1, "max_seq_len": 256}
    # Of its tokens a fourth are ends, so that a policy without any training comes to one.
    tiny.language_model(folder / "policy", seed=1, eos_ids=(2, *range(4, 300, 4)), **sizes)
    tiny.save(folder / "reward", **sizes)
    stages.prompts(folder, [f"Is {i} odd, and why?" for i in range(30)])
    return folder


def config_of(here):
    made = runpy.run_path(str(CONFIG))["get_config"](f"responses:{here / 'prompts.jsonl'}")
    made.policy, made.reward_model = str(here / "policy"), str(here / "reward")
    own = {"sample": {"n": 3, "max_new_tokens": 8}}
    own["train_policy"] = {"data.row_length": 192, "batch_size": 8, "optimizer.warmup": 0}
    own["train_policy"] |= {"evaluate_every": 2, "checkpoint_every": 1, "micro_batch_size": 4}
    own["train_policy"] |= {"optimizer.learning_rate": 1e-3}
    for name in made.stages:
        made[name].update_from_flattened_dict(own.get(made[name].kind, {}))
    return made


def run(here, place):
    """With kept scores and references of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HS2JAX_CACHE", str(place.parent / f"{place.name} cache"))
        scores = place.parent / f"{place.name} scores"
        patch.setattr("hs2jax.evaluation.scores.default_folder", lambda: scores)
        return recipe.run(config_of(here), place, cli.function)


@pytest.fixture(scope="module")
def whole(here):
    return here / "whole", run(here, here / "whole")


def without_costs(rows):
    return [row for row in rows if row["metric"] not in COSTS]


def best_and_worst(folder):
    """Conversations of each group with the highest and with the lowest reward."""
    found = []
    for row in stages.read(folder / "annotated.jsonl"):
        order = np.argsort([x["reward"] for x in row["ratings"]], kind="stable")
        texts = [row["responses"][i] for i in (order[-1], order[0])]
        if len(set(texts)) == 2:
            found.append([[*row["prompt"], {"role": "assistant", "content": x}] for x in texts])
    return found


def test_each_round_is_held_against_the_one_before(here, whole):
    folder, rows = whole
    assert list(dict.fromkeys(row["stage"] for row in rows)) == list(config_of(here).stages)
    starts = {1: here / "policy", 2: folder / "dpo_1" / "model"}
    for number, start in starts.items():
        for stage in (f"samples_{number}", f"samples_{number}_held_out", f"dpo_{number}"):
            assert stages.result(folder / stage)["config"]["model"]["name"] == str(start)
        course = folder / f"dpo_{number}" / "metrics.jsonl"
        first = metrics.read(course, "validation")[0]
        assert (first["step"], first["margin"]) == (0, pytest.approx(0, abs=1e-5))
        learned = metrics.read(course, "train")
        assert learned[0]["loss"] == pytest.approx(math.log(2), abs=1e-5) != learned[-1]["loss"]
        # What is the best and the worst by the reward, and the reference, is computed here again.
        pairs = best_and_worst(folder / f"scores_{number}_held_out")
        for side, name in enumerate(("log_chosen", "log_rejected")):
            talks = [pair[side] for pair in pairs]
            logs = {
                at: np.mean([x.total for x in LanguageModel.load(at).log_probability(talks)])
                for at in starts.values()
            }
            assert first[name] == pytest.approx(logs.pop(start), rel=1e-4)
            assert first[name] != pytest.approx(*logs.values(), rel=1e-3)


def test_a_finished_one_is_left_alone(here, whole, monkeypatch):
    folder, rows = whole
    for kind in (RewardModel, LanguageModel):
        monkeypatch.setattr(kind, "load", lambda *_, **__: pytest.fail("loaded again"))
    assert run(here, folder) == rows


@pytest.mark.long
def test_killed_between_and_inside_its_stages_it_ends_with_the_same_bits(here, whole):
    folder, rows = whole
    place = here / "killed"
    for owner, name, after in (
        (Store, "add", 1),  # In the first samples,
        (workdir, "finish", 2),  # after the first scores,
        (Checkpoints, "save", 3),  # in the first training, and behind its export,
        (LanguageModel, "save", 1),
        (Store, "add", 2),  # among the second round's,
        (Checkpoints, "save", 2),  # and in its training.
    ):
        with stages.stopped(owner, name, after):
            run(here, place)
    assert without_costs(run(here, place)) == without_costs(rows)
    made = ("*/samples.jsonl", "*/annotated.jsonl", "*/items/*.jsonl", "*/model/*.safetensors")
    for path in (each for pattern in made for each in folder.glob(pattern)):
        other = place / path.relative_to(folder)
        # Rows say which file they are from.
        found = other.read_bytes().replace(str(place).encode(), str(folder).encode())
        assert found == path.read_bytes(), path
