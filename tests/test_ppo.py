"""PPO: the value model, the advantages of tokens, and a run."""

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest
import stages
import tiny
from test_reinforce import assert_same_run, config_of, here, same  # noqa: F401
from test_rollouts import rollout, settings

from hs2jax import cli, config_rules
from hs2jax.alignment import ppo, rollouts
from hs2jax.alignment.reinforce import reinforce
from hs2jax.alignment.rollouts import Scale
from hs2jax.language_model import LanguageModel
from hs2jax.reward_model import RewardModel
from hs2jax.training import recipe
from hs2jax.training.checkpoint import Checkpoints

TALKS = [tiny.talk("Is the sea far?", text) for text in ("No.", "It is 42 miles away.")]


def test_values_start_at_the_standardised_reward_with_its_bias():
    rater = tiny.reward_model(("a", "b"), bias=True, weights={"a": 2.0, "b": -1.0})
    rater.params["head"]["bias"] = np.array([5.0, 1.0], np.float32)
    scores = [score.reward for score in rater.score(TALKS)]
    for scale in (Scale(1.0, 4.0, 2.0), Scale(), Scale(0.5, 4.0, 2.0)):
        params = {"decoder": rater.params["decoder"], "head": ppo.value_head(rater, scale)}
        values = dataclasses.replace(rater, params=params, outputs=("value",), weights=None)
        expected = [scale.weight * (score - scale.mean) / scale.spread for score in scores]
        found = [score.reward for score in values.score(TALKS)]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def critic(here):  # noqa: F811
    policy = LanguageModel.load(here / "policy")
    mesh = ppo.sharding.make_mesh()
    policy, rater = (kind.load(here / name, mesh=mesh) for kind, name in
                     ((LanguageModel, "policy"), (RewardModel, "ratings")))  # fmt: skip
    config = settings(**{"algorithm": "ppo", "max_new_tokens": 16, "ppo.decay": 1.0})
    return ppo.Critic(config, policy, rater, Scale())


def test_each_token_s_return_is_the_reward_to_come_less_the_kl_to_come(critic):
    tokens = [[7, 8, 9, 10], [7, 8]]
    rows = [rollout([1.0, 3.0], kl=[4.0, 0.0], tokens=tokens), rollout([0.0, None], tokens=tokens)]
    worth = rollouts.weigh(rows, {"main": Scale()}, critic.config)
    every = rollouts.examples(critic.policy, rows)
    found = {}
    for length in (32, 64):  # Padding, and neighbours in a row, change nothing.
        laid = lambda *x, T=length: rollouts.lay(*x, row_length=T, rows=8)  # noqa: E731
        found[length] = critic.advantages(every, rows, worth, laid)
    # With lambda 1; 0.1 times a KL of 1 at each token of the first response.
    np.testing.assert_allclose(found[32]["returns"][0][0], [0.6, 0.7, 0.8, 0.9], atol=1e-5)
    np.testing.assert_allclose(found[32]["returns"][0][1], [3.0, 3.0], atol=1e-5)
    counted = np.concatenate([*found[32]["advantage"][0], found[32]["advantage"][1][0]])
    assert counted.mean() == pytest.approx(0, abs=1e-5)
    assert counted.std() == pytest.approx(1, abs=1e-5)
    assert not found[32]["advantage"][1][1].any()  # Which has no reward.
    for name, groups in found[32].items():
        for some, others in zip(groups, found[64][name], strict=True):
            for one, other in zip(some, others, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-4)


def test_where_no_response_counts_no_token_has_an_advantage(critic):
    rows = [rollout([None, None], tokens=[[7, 8, 9, 10], [7, 8]])] * 2
    worth = rollouts.weigh(rows, {"main": Scale()}, critic.config)
    laid = lambda *x: rollouts.lay(*x, row_length=32, rows=8)  # noqa: E731
    found = critic.advantages(rollouts.examples(critic.policy, rows), rows, worth, laid)
    assert not np.concatenate([x for some in found["advantage"] for x in some]).any()


def test_another_tokenizer_is_refused(here, critic, tmp_path):  # noqa: F811
    words = tiny.bos_tokenizer()
    tiny.language_model(tmp_path, words=words)
    with pytest.warns(UserWarning, match="random numbers"):
        rater = RewardModel.load(tmp_path, outputs=("reward",))
    with pytest.raises(ValueError, match="has another tokenizer than the policy"):
        ppo.Critic(critic.config, critic.policy, rater, Scale())


def test_a_run_updates_by_slices_and_goes_on_with_the_same_bits(here, tmp_path):  # noqa: F811
    config = config_of(here, algorithm="ppo", updates=2, clip=0.2, checkpoint_every=1, n=1)
    config.update(evaluate_every=9, steps=2)
    reinforce(config, tmp_path / "whole")
    assert stages.result(tmp_path / "whole")["step"] == 2  # As nothing between was evaluated.
    steps = [x for x in stages.read(tmp_path / "whole" / "metrics.jsonl") if x["kind"] == "train"]
    assert all(x["value_loss"] > 0 and x["idle"] == 0 for x in steps)
    assert steps[0]["ratio_off"] > 1e-3  # Of the second slice, whose policy is one update later.
    with stages.stopped(Checkpoints, "save", 1):
        reinforce(config, tmp_path / "run")
    reinforce(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.long
def test_a_second_round_starts_where_the_first_one_ended(here, tmp_path):  # noqa: F811
    """The published recipe: its policy and its start are the first one's, its values the reward."""
    path = Path(__file__).parent.parent / "configs" / "ppo.py"
    made, small = runpy.run_path(str(path))["get_config"](), config_rules.flat(config_of(here))
    made.reward_models = f"main={here / 'ratings'}"
    own = ("kind", "algorithm", "n", "baseline", "reward_models", "mean", "clip")
    small = {key: x for key, x in small.items() if key not in own and not key.startswith("kl.")}
    for name in made.stages:
        start = made[name].model.name if name == "round_2" else small["model.name"]
        made[name].update_from_flattened_dict({**small, "steps": 1, "model.name": start})
    recipe.run(made, tmp_path, cli.function)
    courses = [stages.read(tmp_path / name / "metrics.jsonl") for name in made.stages]
    first, second = ([x for x in of if x["kind"] == "train"] for of in courses)
    assert abs(second[0]["kl"]) < 1e-4
    assert second[0]["value_loss"] == pytest.approx(first[0]["value_loss"], rel=0.5)
    folders = here / "policy", tmp_path / "round_1" / "model", tmp_path / "round_2" / "model"
    start, one, two = (LanguageModel.load(x).params for x in folders)
    assert not same(start, one)
    assert not same(one, two)
