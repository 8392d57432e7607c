"""REINFORCE as a run of tiny models, from a config to a folder and a page."""

import gc

import jax
import numpy as np
import pytest
import stages
import tiny

from hs2jax import report, stopping, workdir
from hs2jax.alignment import compare as comparison
from hs2jax.alignment import reinforce as module
from hs2jax.alignment.reinforce import reinforce
from hs2jax.data import corpora
from hs2jax.language_model import LanguageModel
from hs2jax.reward_model import RewardModel
from hs2jax.training import convert
from hs2jax.training.checkpoint import Checkpoints

COSTS = ("share_of_time", "seconds_per_step", "peak_memory_bytes")


def config_of(here, **changes):
    settings = {"data": stages.prompts(here), "validation": f"responses:{here / 'held_out.jsonl'}"}
    settings |= {"reward_models": f"main={here / 'ratings'}", "n": 3, "steps": 3, "batch_size": 2}
    settings |= {"model": {"name": str(here / "policy")}, "max_new_tokens": 6, "row_length": 64}
    settings |= {"optimizer": {"learning_rate": 1e-3, "warmup": 0}, "checkpoint_every": 2}
    config = stages.made("reinforce", {}, **settings, temperature=0.7, evaluate_every=2)
    config.update_from_flattened_dict({key.replace("__", "."): x for key, x in changes.items()})
    return config


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reinforce")
    stages.models(folder)
    held_out = [{"prompt": text, "response": "-"} for text in ("Why not?", "So?", "Is it?")]
    stages.write(folder / "held_out.jsonl", held_out)
    return folder


@pytest.fixture(scope="module")
def whole(here):
    """A run with a reward model that watches, of another template."""
    other = RewardModel.load(here / "ratings", template="extra_id")
    other.save(here / "watch")
    models = f"watch={here / 'watch'},main={here / 'ratings'}"
    config = config_of(here, reward_models=models, reward_weights="main=1")
    return here / "whole", config, reinforce(config, here / "whole")


def without_costs(rows):
    return [row for row in rows if row["metric"] not in COSTS]


def same(one, other) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), one, other))


def assert_same_run(one, other):
    """One that was stopped, or not, and a whole one."""
    rows = (without_costs(stages.read(x / "results.jsonl")) for x in (one, other))
    assert next(rows) == next(rows)
    for path in [*other.glob("rollouts/*"), *other.glob("items/*")]:
        assert (one / path.relative_to(other)).read_bytes() == path.read_bytes()
    courses = (stages.read(of / "metrics.jsonl") for of in (one, other))
    said = [[(x["kind"], x["step"], x["objective"]) for x in course] for course in courses]
    assert said[0] == said[1]
    assert same(*(LanguageModel.load(x / "model").params for x in (one, other)))


def test_a_rollout_s_rewards_are_those_of_its_messages_in_each_model_s_own_template(here, whole):
    folder, _, _ = whole
    rows = stages.read(folder / "rollouts" / "000002.jsonl")
    assert len(rows) == 2
    for name, place in (("main", "ratings"), ("watch", "watch")):
        model = RewardModel.load(here / place)
        for row in rows:
            talks = [
                [*row["prompt"], {"role": "assistant", "content": text}]
                for text in row["responses"]
            ]
            expected = [score.reward for score in model.score(talks)]
            np.testing.assert_allclose(row["rewards"][name], expected, atol=1e-5)
    assert not np.allclose(rows[0]["rewards"]["main"], rows[0]["rewards"]["watch"], atol=0.01)
    # Readable as what `hs2jax sample` writes.
    (group, _) = corpora.read(f"sampled:{folder / 'rollouts' / '000002.jsonl'}")
    assert [list(ids) for ids in group.tokens] == rows[0]["tokens"]


def test_before_the_first_update_sampler_and_training_say_the_same(whole):
    folder, _, rows = whole
    assert 0 < stages.value(rows, "on_policy_difference") < 1e-4
    first, second, _ = (x for x in stages.read(folder / "metrics.jsonl") if x["kind"] == "train")
    for step in (first, second):  # At temperature 0.7; and each step learns from its own samples.
        assert step["ratio"] == pytest.approx(1, abs=1e-5)
        assert step["ratio_off"] < 1e-5
    assert abs(first["kl"]) < 1e-4 < abs(second["kl"])
    assert first["entropy"] > 0


def test_results_hold_the_policy_against_its_start(here, whole):
    """The best step's, here the second of three: the last one has learned too much."""
    folder, config, rows = whole
    seen = {x["step"]: x for x in stages.read(folder / "metrics.jsonl") if x["kind"] != "train"}
    best = stages.result(folder)["step"]
    assert best == stages.value(rows, "step") == 2
    assert seen[2]["objective"] == pytest.approx(seen[2]["reward"] - seen[2]["penalty"])
    assert seen[2]["objective"] > seen[3]["objective"]
    start, end = (stages.read(folder / "items" / f"{x}.jsonl") for x in ("start", "step_000002"))
    for name in ("main", "watch"):
        change = [
            e["rewards"][name][0] - s["rewards"][name][0] for s, e in zip(start, end, strict=True)
        ]
        assert stages.value(rows, "change_of_reward", set=name) == pytest.approx(np.mean(change))
        assert stages.value(rows, "win_rate", set=name) == np.mean([x > 0 for x in change])
    shares = [row["value"] for row in rows if row["metric"] == "share_of_time"]
    assert len(shares) == 4
    assert sum(shares) == pytest.approx(1)
    page = report.write(folder).read_text(encoding="utf-8")
    for said in (
        "Reward by main",
        "Reward by watch",
        "KL by step",
        "On-policy difference",
        "Start",
        "Best step: 2 of 3, by",
    ):
        assert said in page
    # What is exported gives the best step's answers.
    trained, groups = LanguageModel.load(folder / "model"), [*corpora.read(config.validation)]
    asked = {name: config[name] for name in ("seed", "temperature", "max_new_tokens")}
    found = trained.sample_groups(groups, 1, first=module.HELD_OUT, tempered=True, **asked)
    assert [[one.tokens.tolist() for one in some] for some in found] == [x["tokens"] for x in end]
    assert not any((folder / x).exists() for x in ("checkpoints", "best"))


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (workdir, "write_rows", 5),  # After the second step's rollouts,
        (Checkpoints, "save", 1),  # The best step, that no checkpoint names,
        pytest.param(Checkpoints, "save", 2, marks=pytest.mark.long),  # and that one does.
        pytest.param(workdir, "write_rows", 3, marks=pytest.mark.long),  # or items/start.
        pytest.param(LanguageModel, "save", 1, marks=pytest.mark.long),
    ],
)
def test_killed_it_goes_on_with_the_same_bits(whole, tmp_path, owner, name, after):
    folder, config, _ = whole
    with stages.stopped(owner, name, after):
        reinforce(config, tmp_path / "run")
    if owner is Checkpoints:  # The best step so far is a model already.
        convert.convert(str(tmp_path / "run"), tmp_path / "best")
        assert same(*(LanguageModel.load(x).params for x in (tmp_path / "best", folder / "model")))
    reinforce(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", folder)


def test_what_was_sampled_is_taken_by_no_other_run(whole, tmp_path):
    _, config, _ = whole
    with stages.stopped(workdir, "write_rows", 3):  # Before there is a checkpoint.
        reinforce(config, tmp_path)
    other = config.copy_and_resolve_references()
    other.temperature = 0.8
    with pytest.raises(ValueError, match=r"another run \(different: temperature: 0.7 -> 0.8"):
        reinforce(other, tmp_path)


# After a step, and among the held-out prompts.
@pytest.mark.parametrize("done", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_signal_saves_and_the_same_command_goes_on(whole, tmp_path, monkeypatch, done):
    folder, config, _ = whole
    metrics = tmp_path / "run" / "metrics.jsonl"

    def asked():
        return "SIGTERM" * (metrics.exists() and f'"train", "step": {done}' in metrics.read_text())

    monkeypatch.setattr(stopping, "asked", asked)
    with pytest.raises(stopping.Stopped):
        reinforce(config, tmp_path / "run")
    (saved,) = (tmp_path / "run" / "checkpoints").glob("[0-9]*")
    assert saved.name == str(done)
    monkeypatch.undo()
    start = tmp_path / "run" / "items" / "start.jsonl"
    whole_start = start.read_bytes()
    start.write_bytes(whole_start[:-9])
    with pytest.raises(ValueError, match=r"start.jsonl, line 3: damaged, not JSON .* whole copy"):
        reinforce(config, tmp_path / "run")  # Not after all of the steps.
    assert not (tmp_path / "run" / "rollouts" / "000003.jsonl").exists()
    start.write_bytes(whole_start)
    reinforce(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", folder)


def test_no_stage_leaves_its_arrays_behind(here, tmp_path, monkeypatch):
    held, learn = [], module._learn

    def noted(*arguments):
        gc.collect()  # What other tests have left.
        held.append(sum(x.nbytes for x in jax.live_arrays()))
        return learn(*arguments)

    monkeypatch.setattr(module, "_learn", noted)
    reinforce(config_of(here, steps=4, evaluate_every=99, lora__rank=2), tmp_path)
    assert held[1] == held[3]


def test_rewards_are_standardized_over_data_of_which_malformed_rows_are_counted(here, tmp_path):
    rows = [{"prompt": "Why?", "response": text} for text in ("So.", "I forgot.", "Yes, it is.")]
    stages.write(tmp_path / "some.jsonl", [*rows, {"prompt": "Why?", "response": 3}])
    changes = {"standardize": f"responses:{tmp_path / 'some.jsonl'}", "on_error": "skip"}
    reinforce(config_of(here, steps=1, n=2, batch_size=1, **changes), tmp_path / "run")
    assert stages.result(tmp_path / "run")["records"]["standardize"]["skipped"]
    model = RewardModel.load(here / "ratings")
    talks = [tiny.talk(row["prompt"], row["response"]) for row in rows]
    known = np.array([score.reward for score in model.score(talks)])
    (sampled,) = stages.read(tmp_path / "run" / "rollouts" / "000001.jsonl")
    first, *_ = (x for x in stages.read(tmp_path / "run" / "metrics.jsonl") if x["kind"] == "train")
    expected = (np.mean(sampled["rewards"]["main"]) - known.mean()) / known.std()
    assert first["reward"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"optimizer__learning_rate": 1.0, "kl__ceiling": 5.0},
            r"rollouts/00000\d: .*kl.ceiling 5.*diverges",
        ),
        ({"reward_models": "main={short}"}, "items/start: 3 of 3 responses have no finite reward"),
    ],
)
def test_a_run_that_should_not_go_on_says_why(here, tmp_path, changes, said):
    tiny.save(tmp_path / "short", max_seq_len=4)
    changes = {
        key: x.format(short=tmp_path / "short") if isinstance(x, str) else x
        for key, x in changes.items()
    }
    with pytest.raises(ValueError, match=said):
        reinforce(config_of(here, **changes), tmp_path / "run")


def test_responses_that_grow_repeat_or_narrow_are_warned_of():
    def rows(length, repetition, entropy, part=""):
        found = {"length": length, "repetition": repetition, "entropy": entropy}
        return [workdir.row("held out", part, name, x) for name, x in found.items()]

    start = rows(10.0, 0.1, 2.0, "start")
    assert comparison.warnings(start + rows(14.0, 0.15, 1.5)) == []
    assert len(comparison.warnings(start + rows(16.0, 0.3, 0.9))) == 3


def test_a_policy_of_elsewhere_is_held_against_its_start_as_a_run_of_reinforce_holds_its_own(
    here, whole, tmp_path
):
    folder, config, rows = whole
    settings = {"start": str(here / "policy"), "policy": str(folder / "model"), "row_length": 64}
    settings |= {"reward_models": config.reward_models, "data": config.validation}
    config = stages.made("compare", {}, **settings, temperature=0.7, max_new_tokens=6)
    found = comparison.compare(config, tmp_path / "run")
    metrics = {(row["set"], row["part"], row["metric"]) for row in found}
    rows = [row for row in rows if row["set"] and row["metric"] != "change_in_deviations"]
    assert metrics == {(row["set"], row["part"], row["metric"]) for row in rows}
    assert stages.value(found, "kl", set="held out") != 0
    page = report.write(tmp_path / "run").read_text(encoding="utf-8")
    assert "A policy against its start" in page
    tiny.language_model(tmp_path / "other", seed=1, num_layers=1)
    config.policy = str(tmp_path / "other")
    with pytest.raises(ValueError, match=r"config.policy: .* another shape or vocabulary"):
        comparison.compare(config, tmp_path / "refused")
