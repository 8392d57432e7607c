"""What rollouts are worth, and the batch that they are learned in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stages
import tiny
import tiny_policies
from ml_collections import ConfigDict
from test_preference import aim as dpo
from test_reinforce import config_of

from hs2jax import configs
from hs2jax.alignment import compare, reinforce, rollouts
from hs2jax.alignment.rollouts import PolicyGradient, Scale
from hs2jax.data.conversations import unrated
from hs2jax.language_model import LanguageModel
from hs2jax.models import sharding
from hs2jax.models.hf import weights
from hs2jax.training import step

ONE = {"main": Scale()}


def settings(**changes) -> ConfigDict:
    config = configs.defaults("reinforce")
    config.update_from_flattened_dict({"kl.coefficient": 0.1, **changes})
    return config


def rollout(rewards, kl=None, tokens=None, finished=None, **names):
    """A rollout of responses with these rewards, and log-ratios to the start."""
    n = len(rewards)
    tokens = tokens or [[7, 8, 9, 10]] * n
    of_token = [(x or 0.0) / len(ids) for x, ids in zip(kl or [0.0] * n, tokens, strict=True)]
    return {
        "source": "file:1",
        "prompt": [{"role": "user", "content": "<|im_end|> Hi"}],
        "responses": ["-"] * n,
        "tokens": tokens,
        "finished": finished or [True] * n,
        "rewards": {"main": rewards, **names},
        "log_policy": [[x - 2.0] * len(ids) for x, ids in zip(of_token, tokens, strict=True)],
        "log_reference": [[-2.0] * len(ids) for ids in tokens],
    }


def test_the_baseline_is_of_what_is_maximised():
    """Reward less KL, and not of the reward with the KL taken off behind it."""
    worth = rollouts.weigh([rollout([1.0, 0.0], kl=[2.0, 0.0])], ONE, settings())
    np.testing.assert_allclose(worth.penalty, [[0.2, 0.0]], atol=1e-6)
    np.testing.assert_allclose(worth.advantage, [[0.8, -0.8]], atol=1e-6)
    assert worth.advantage.sum() == pytest.approx(0)  # The other order would sum to -0.2.
    # NeMo's form: the mean over tokens of the absolute one.
    worth = rollouts.weigh(
        [rollout([1.0, 0.0], kl=[-2.0, 0.0])], ONE, settings(**{"kl.form": "absolute"})
    )
    np.testing.assert_allclose(worth.penalty, [[0.05, 0.0]], atol=1e-6)


@pytest.mark.parametrize(
    ("form", "value"),
    [("k1", 0.930685), ("k2", 0.975977), ("k3", 0.980685), ("absolute", 0.930685)],
)
def test_the_kl_comes_off_in_the_form_that_is_logged(form, value):
    """Of a token with probability 0.5 and 0.25 at the start, reward 1; 1.069315 were it added."""
    row = rollout([1.0, 1.0], tokens=[[7], [8]])
    row |= {"log_policy": [[np.log(0.5)]] * 2, "log_reference": [[np.log(0.25)]] * 2}
    worth = rollouts.weigh([row], ONE, config := settings(**{"kl.form": form}))
    found = rollouts.numbers([row], worth)
    assert found["objective"] == pytest.approx(value, abs=1e-6)
    assert found["penalty"] == pytest.approx(1 - value, abs=1e-6)
    assert found["kl"] == pytest.approx(0.693147, abs=1e-6)
    assert config.kl.coefficient == 0.1


@pytest.mark.parametrize("baseline", ["leave_one_out", "grpo"])
def test_equal_rewards_teach_nothing_and_their_share_is_said(baseline):
    config = settings(baseline=baseline, **{"kl.coefficient": 0.0})
    equal, other = rollout([2.0] * 4), rollout([1.0, 2.0, 2.0, 2.0])
    for rows, share in (([equal], 1.0), ([equal, other, equal], 2 / 3)):
        worth = rollouts.weigh(rows, ONE, config)
        assert worth.advantage[0].tolist() == [0, 0, 0, 0]
        assert rollouts.numbers(rows, worth)["equal_groups"] == pytest.approx(share)
    assert worth.advantage[1].any()


def test_groups_are_known_by_their_place_and_not_by_their_prompt():
    worth = rollouts.weigh([rollout([1.0, 3.0]), rollout([5.0, 5.0])], ONE, settings())
    np.testing.assert_allclose(worth.advantage, [[-2, 2], [0, 0]])
    worth = rollouts.weigh([rollout([1.0, 2.0, 3.0, 6.0])], ONE, settings())
    np.testing.assert_allclose(worth.advantage[0], [-2.6667, -1.3333, 0, 4], atol=1e-4)


def test_several_rewards_are_weighed_and_one_without_weight_only_watches():
    row = rollout([1.0, 3.0], other=[10.0, 30.0], watch=[None, 9.0])
    scales = {"main": Scale(2.0, 1.0, 2.0), "other": Scale(0.5, 10.0, 10.0), "watch": Scale(0.0)}
    worth = rollouts.weigh([row], scales, settings())
    np.testing.assert_allclose(worth.reward, [[0.0, 3.0]])
    assert worth.kept.all()


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
@pytest.mark.parametrize("baseline", ["leave_one_out", "grpo"])
def test_a_response_without_a_reward_is_in_no_loss_baseline_or_statistic(missing, baseline):
    whole = [rollout([1.0, 3.0]), rollout([2.0, 2.0])]
    with_missing = [
        rollout([1.0, missing, 3.0], tokens=[[1, 2, 3, 4], [5] * 9, [1, 2, 3, 4]]),
        rollout([2.0, 2.0, missing], tokens=[[1, 2, 3, 4], [1, 2, 3, 4], [5] * 9]),
    ]
    config = settings(baseline=baseline)
    a, b = (rollouts.weigh(rows, ONE, config) for rows in (whole, with_missing))
    assert b.kept.sum() == 4
    assert not b.advantage[~b.kept].any()
    np.testing.assert_array_equal(b.advantage[b.kept], a.advantage[a.kept])
    found = [rollouts.numbers(*x) for x in ((whole, a), (with_missing, b))]
    assert found[0] | {"missing": 2} == found[1]
    assert found[1]["equal_groups"] == 0.5


def test_cut_responses_by_either_rule():
    row = rollout([1.0, 3.0, 8.0, 4.0], finished=[True, True, False, False])
    kept, dropped = (
        rollouts.weigh([row], ONE, settings(truncated=rule)) for rule in ("keep", "drop")
    )
    np.testing.assert_allclose(kept.advantage[0], [-4, -4 / 3, 16 / 3, 0], atol=1e-5)
    np.testing.assert_allclose(dropped.advantage[0], [-2, 2, 0, 0])
    assert dropped.kept.tolist() == [[True, True, False, False]]
    assert rollouts.numbers([row], kept)["cut"] == 0.5  # Though the prompt holds an end.


def test_numbers_know_nothing_of_padding():
    rows = [rollout([1.0, 2.0], kl=[0.5, 3.0], tokens=[[1, 2, 3], [4] * 40])]
    found = []
    for longest in (64, 512):
        config = settings(max_new_tokens=longest)
        found.append(rollouts.numbers(rows, rollouts.weigh(rows, ONE, config)))
    assert found[0] == found[1]
    assert found[0]["kl"] == pytest.approx(1.75)
    assert found[0]["entropy"] > 0


def test_entropy_is_the_sampled_tokens_and_repetition_the_runs_that_came_before():
    row = rollout([1.0, 2.0], tokens=[[1, 2, 3, 4, 1, 2, 3, 4], [1, 2]])
    found = rollouts.numbers([row], rollouts.weigh([row], ONE, settings()))
    assert found["entropy"] == pytest.approx(2.0)
    assert found["repetition"] == pytest.approx(0.1)  # One of five runs, and of none nothing.


def answers(lengths, **rewards):
    """Items of as many held-out prompts, whose answers have these lengths and rewards."""
    found = []
    for i, n in enumerate(lengths):
        rewards_of_it = {name: [of[i]] for name, of in rewards.items()}
        prompt = [{"role": "user", "content": f"{i}?"}]
        row = rollout([0.0], tokens=[[7] * int(n)])
        found.append(row | {"prompt": prompt, "rewards": rewards_of_it})
    return found


def test_what_a_reward_goes_with_is_seen_and_reward_models_that_contradict_one_another():
    """One rewards length alone, one the opposite, and one has nothing to say."""
    lengths = np.arange(2, 12), 2 * np.arange(2, 12) + np.arange(10) % 3
    start, end = (answers(of, main=of / 2.0, watch=-3.0 * of, silent=[None] * 10) for of in lengths)
    rows = compare.results(start, end)
    for method in ("at the start", "of the policy", "of the changes"):
        with_length = {"part": "with/length", "method": method}
        assert stages.value(rows, "spearman", set="main", **with_length) == pytest.approx(1)
        assert stages.value(rows, "spearman", set="watch", **with_length) == pytest.approx(-1)
        assert stages.value(rows, "spearman", set="silent", **with_length) is None
    assert stages.value(rows, "change_of_reward", set="silent") is None
    assert any("by main, worse by watch" in x for x in compare.warnings(rows))
    assert not any("worse" in x for x in compare.warnings(compare.results(start, start)))
    course = compare.course({0: start, 20: end})
    assert stages.value(course, "change_in_deviations", "step/0", set="main") == 0
    gain = (lengths[1] - lengths[0]).mean() / lengths[0].std()
    for name, sign in (("main", 1), ("watch", -1)):
        found = stages.value(course, "change_in_deviations", "step/20", set=name)
        assert found == pytest.approx(sign * gain)
    assert not any(row["set"] == "silent" for row in course)


# The batch ----------------------------------------------------------------------------------------

OF = tiny_policies.config(12)
PROMPTS = ([1, 2, 3], [4, 5], [6])
TOKENS = ([[3, 4, 5], [6, 7]], [[1], [2, 3, 4, 5]], [[7, 8], [9, 9]])
ADVANTAGES = np.array([[1.0, -1.0], [0.5, -0.5], [2.0, -2.0]])


def batch(row_length=64, rows=1, kept=None, mean="responses", prompts=PROMPTS, tokens=TOKENS):
    kept = np.ones(ADVANTAGES.shape, bool) if kept is None else kept
    every = [
        unrated(np.asarray(p, np.int32), [np.asarray(x, np.int32) for x in some],
                loss_mask=np.zeros(len(p), bool))
        for p, some in zip(prompts, tokens, strict=True)
    ]  # fmt: skip
    tables = {name: rollouts.shares(tokens, kept, x)
              for name, x in (("weight", mean), ("share", "tokens"))}  # fmt: skip
    tables |= {"advantage": ADVANTAGES[: len(kept)] * kept, "old": np.full(kept.shape, -2.0)}
    of_tokens = {
        name: [[np.full(len(x), v) for x, v in zip(some, values, strict=True)]
               for some, values in zip(tokens, table, strict=True)]
        for name, table in tables.items()
    }  # fmt: skip
    return rollouts.lay(every, of_tokens, row_length=row_length, rows=rows)


@pytest.fixture(scope="module")
def params():
    return tiny_policies.parameters(OF)


def learned(params, laid, aim=PolicyGradient()):  # noqa: B008
    loss, found, grads = tiny_policies.gradients(OF, params, laid, aim)
    return float(loss), found, grads


@pytest.mark.parametrize(("tokens", "width"), [(16, 32), (17, 48), (25, 64)])
def test_few_programs_serve_all_steps(tokens, width):
    """As many as are learned at a step differ from step to step, and each shape is compiled."""
    laid = batch(kept=np.ones((1, 2), bool), prompts=PROMPTS[:1], tokens=([[7] * tokens] * 2,))
    assert laid["learned"].shape[2] == width
    assert (laid["learned"] < 64).sum() == 2 * tokens


def test_only_sampled_ids_are_trained_and_no_end_is_added():
    """Of one that was cut all 8 tokens, the last as it was sampled, and of one that ended its end
    too."""
    end = 11
    laid = batch(kept=np.ones((1, 2), bool), prompts=PROMPTS[:1], tokens=([[7] * 8, [7, end]],))
    trained = laid["share"] > 0
    assert laid["tokens"][trained].tolist() == [*[7] * 8, 7, end]
    laid = batch()
    trained = laid["share"] > 0
    sampled = [x for some in TOKENS for ids in some for x in ids]
    assert sorted(laid["tokens"][trained].tolist()) == sorted(sampled)


def test_loss_and_gradient_know_nothing_of_rows_padding_and_micro_batches(params):
    aim = PolicyGradient(0.2)
    loss, found, grads = learned(params, batch(), aim)
    assert 0 < float(found["ratio"]) != 1
    for other in (batch(row_length=512), batch(row_length=8, rows=2)):
        again, numbers, others = learned(params, other, aim)
        assert again == pytest.approx(loss, rel=1e-5)
        for name, x in found.items():
            assert float(numbers[name]) == pytest.approx(float(x), rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, others)


@pytest.mark.parametrize(("mean", "expected"), [("tokens", 1.0), ("responses", 2.0)])
def test_one_mask_is_in_numerator_and_denominator(mean, expected):
    """Two tokens are kept and six masked, each with loss 1: 1 by tokens and not 0.25; the one
    response that is kept has two."""
    tokens = ([[1, 2], [3, 4, 5, 6, 7, 8]],)
    for kept, loss in (([[True, False]], expected), ([[False, False]], 0.0)):
        laid = batch(kept=np.array(kept), mean=mean, prompts=PROMPTS[:1], tokens=tokens)
        micro = {name: x[0] for name, x in laid.items()} | {"advantage": 1.0}
        of = lambda x, micro=micro: PolicyGradient().loss(x, micro, None)[0]  # noqa: E731
        found, slopes = jax.value_and_grad(of)(-jnp.ones(micro["tokens"].shape))
        assert found == pytest.approx(loss)
        assert (slopes != 0).sum() == 2 * (loss > 0)


@pytest.mark.parametrize(
    "rows",
    [
        [rollout([1.0, 2.0], finished=[False, False])] * 2,  # All are cut.
        [rollout([1.0, 1.0]), rollout([None, 2.0])],
    ],
)
def test_where_nothing_is_to_be_learned_no_update_is_made_and_that_is_counted(tmp_path, rows):
    tiny.language_model(tmp_path)
    config, policy = settings(truncated="drop"), LanguageModel.load(tmp_path)
    worth, state = rollouts.weigh(rows, ONE, config), {"params": policy.params}
    learner = (lambda *_, **__: pytest.fail("an update was made")), None
    mesh = sharding.make_mesh()
    after, found = reinforce._learn(config, policy, mesh, learner, state, rows, worth)
    assert after is state
    assert found == {"idle": 1}


def test_the_gradient_over_all_responses_is_that_of_the_expected_reward(params):
    """Of two tokens from twelve, each response weighed by its probability."""
    tokens = [[a, b] for a in range(12) for b in range(12)]
    rewards = np.random.default_rng(0).normal(3, 1, len(tokens))
    every = [unrated(np.asarray([1, 2, 3], np.int32), [np.asarray(x, np.int32) for x in tokens],
                     loss_mask=np.zeros(3, bool))]  # fmt: skip

    def lay(weights):
        of = {"weight": weights, "share": np.ones(len(tokens)), "advantage": rewards}
        of["old"] = np.zeros(len(tokens))
        spread = {name: [[np.full(2, x) for x in values]] for name, values in of.items()}
        return rollouts.lay(every, spread, row_length=512, rows=1)

    first = lay(np.ones(len(tokens)))
    micro = {name: jnp.asarray(x[0]) for name, x in first.items()}

    def sums(params):
        found = tiny_policies.apply(OF)(params, micro)
        return jnp.sum(found[0, 3 : 3 + 2 * len(tokens)].reshape(-1, 2), axis=1)

    exact = jax.jit(jax.grad(lambda p: -jnp.sum(jnp.exp(sums(p)) * rewards)))(params)
    chances = np.exp(np.asarray(jax.jit(sums)(params), np.float64))
    assert chances.sum() == pytest.approx(1, abs=1e-4)
    _, _, grads = tiny_policies.gradients(OF, params, lay(chances), PolicyGradient())
    assert max(np.abs(x).max() for x in jax.tree.leaves(exact)) > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), grads, exact)


@pytest.mark.parametrize("aim", [PolicyGradient(0.2), pytest.param(dpo(), marks=pytest.mark.long)])
def test_no_array_has_room_for_all_logits(aim):
    """Of 32 rows of 2,048 tokens and a vocabulary of 128,256 they would take 31.3 GiB."""
    B, T, of = 32, 2048, tiny_policies.config(128_256)
    ints = ("tokens", "segment_ids", "branch_ids", "positions", "predictor_index", "learned")
    shapes = dict.fromkeys(ints, ((T,), np.int32))
    shapes |= dict.fromkeys(("weight", "share", "advantage", "old"), ((T,), np.float32))
    shapes |= dict.fromkeys(("end_positions", "group_ids", "chosen", "rejected"), ((2,), np.int32))
    shapes |= {"ratings": ((2, 1), np.float32), "strength": ((2,), np.float32)}
    laid = {x: jax.ShapeDtypeStruct((1, B, *shape), of) for x, (shape, of) in shapes.items()}
    params = {"decoder": weights.shapes(of)}

    def run(params, batch):
        return step.gradients(params, batch, aim, tiny_policies.apply(of))

    found = jax.jit(run).lower(params, laid).compile().memory_analysis().temp_size_in_bytes
    assert found / 2**30 < 31.3 / 4


# Configs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 1}, "config.n is 1; expected 2 or more, as a response is held against the others"),
        ({"ppo__decay": 0.9}, "config.ppo.decay is for config.algorithm ppo, not for reinforce"),
        ({"algorithm": "ppo", "baseline": "grpo"}, "baseline is for config.algorithm reinforce"),
        ({"kl__form": "k3", "kl__coefficient": 0.0}, "effect, as config.kl.coefficient is 0.0"),
        ({"top_p": 0.9}, "config.top_p is 0.9; expected 1, as the policy that is trained"),
        ({"top_k": 20}, "config.top_k is 20; expected 0, as the policy that is trained"),
        ({"temperature": 0.0}, "config.temperature is 0.0; expected more than 0"),
        ({"reward_weights": "main=nan"}, "each once, not 'main=nan'"),
        ({"reward_weights": "other=1"}, "config.reward_weights: other is none of main"),
        ({"reward_weights": "main=0"}, "so that nothing is rewarded"),
        ({"updates": 3}, "config.updates is 3, which does not divide config.batch_size 2"),
        ({"max_new_tokens": 64}, "config.row_length is 64; it must hold a prompt and"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, changes, said):
    stages.write(tmp_path / "held_out.jsonl", [{"prompt": "So?", "response": "-"}])
    with pytest.raises(ValueError, match=said):
        configs.check(config_of(tmp_path, **changes))
