"""The Pairwise Justifier: its words, its rewards, and a tiny one that learns a planted rule."""

import random
from pathlib import Path

import numpy as np
import pytest
import stages
import tiny
from command import succeed

from hs2jax import configs
from hs2jax.data import corpora, justifications
from hs2jax.data.groups import DataError, Group
from hs2jax.data.justifications import CUT, NO_STATEMENT, exchanged, verdict
from hs2jax.data.record import Record
from hs2jax.evaluation.justifier import NO_ROOM, Justifier
from hs2jax.report.run import Run, find
from hs2jax.store import Store
from hs2jax.training import loop

CONFIG = Path(__file__).parent.parent / "configs" / "evaluate.py"
ROW = {
    "prompt": "Name a gas.\n<extra_id_1>Assistant\nHelium.\n<extra_id_1>User\nAnother.",
    "response_1": "Neon.\n@Response 2:\n Between @Response 1 and",
    "response_2": "Neon, a gas.",
    "preference_strength": 2,
    "preference_statement": "@Response 2 is better than @Response 1, as it says more.",
    "preference_elaboration": "@Response 1 is short. I like response 2.",
}

# Words --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is right.\n\n@Response 2 is slightly better than @Response 1, by 3 to 1.", 2),
        ("@Response 2 is better than @Response 1. @Response 1 is better than @Response 2.", 1),
        ("**@Response 1 is much worse than @Response 2.**\n", 2),
        ("Overall, Response 1 is better than Response2.", 1),
        ("@Response 1 is better than @Response 2.\nI hope that this helps.", NO_STATEMENT),
        ("@Response 1 is not better than @Response 2.", NO_STATEMENT),
        ("@Response 1 is no better than @Response 2.", NO_STATEMENT),
        ("@Response 1 is better than @Response 1.", NO_STATEMENT),
        ("Which? @Response 1 is better than @Response 2?", NO_STATEMENT),
        ("If you like lists @Response 1 is better than @Response 2.", NO_STATEMENT),
        ('It says "@Response 1 is better than @Response 2." 4 times.', NO_STATEMENT),
        ("> @Response 1 is better than @Response 2.", NO_STATEMENT),
        ("I give 1 a 5 and 2 a 3.", NO_STATEMENT),
        ("", NO_STATEMENT),
    ],
)
def test_a_verdict_is_the_last_statement_alone(text, expected):
    assert verdict(text) == expected
    assert verdict(text, finished=False) == CUT
    if isinstance(expected, int):
        assert verdict(exchanged(text)) == 3 - expected


def read(tmp_path, form="helpsteer2_justification", **fields) -> Group:
    path = stages.write(tmp_path / "rows.jsonl", [ROW | fields])
    return next(corpora.read(f"{form}:{path}"))


def test_a_row_is_a_question_and_its_justification_in_either_order(tmp_path):
    group = read(tmp_path)
    (turn,) = group.prompt
    assert turn["content"] == (
        "@User:\nName a gas.\n\n@Assistant:\nHelium.\n\n@User:\nAnother.\n\n"
        "@Response 1:\nNeon.\n> @Response 2:\n>  Between @Response 1 and\n\n"
        "@Response 2:\nNeon, a gas.\n\n"
        "Between @Response 1 and @Response 2, which is better?"
    )
    elaboration, statement = ROW["preference_elaboration"], ROW["preference_statement"]
    assert group.responses == (f"{elaboration}\n\n{statement}",)
    other = {f"response_{i}": ROW[f"response_{3 - i}"] for i in (1, 2)}
    other |= {"preference_elaboration": "@Response 2 is short. I like response 1."}
    other |= {"preference_statement": "@Response 1 is better than @Response 2, as it says more."}
    swapped = read(tmp_path, "helpsteer2_justification_swapped")
    assert swapped == read(tmp_path, preference_strength=-2, **other)
    for none in ("", None):
        assert read(tmp_path, preference_elaboration=none).responses == (statement,)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"preference_strength": 0}, "'preference_strength': is 0, and a tie"),
        ({"preference_strength": -1}, "it says that @Response 2 is better"),
        ({"preference_statement": "Both are good."}, "expected a last line '@Response 2 is better"),
        ({"preference_elaboration": "The latter is best."}, "names a response by its place"),
    ],
)
def test_a_row_that_justifies_nothing_is_refused_by_its_field(tmp_path, fields, words):
    with pytest.raises(DataError, match=words):
        read(tmp_path, "helpsteer2_justification_swapped", **fields)


# Rewards ------------------------------------------------------------------------------------------


class Planted(Justifier):
    """Prefers a longer response by as many characters, and the first one by 5 more."""

    asked = 0

    def _read(self, posed):
        self.asked += len(posed)
        for group in posed:
            first, second = group.prompt[0]["content"].split("\n\n")[1:3]
            broken, long = (any(word in x for x in (first, second)) for word in ("bad", "long"))
            margin = np.nan if broken else len(first) - len(second) + 5.0
            yield None if long else {"margin": float(margin)}


def planted(groups, folder, **options):
    model, record = Planted(tiny.config(), {}, tiny.tokenizer()), Record()
    options = {"leave_out": False, "record": record} | options
    found = list(model.stream(groups, Store(folder / "kept.sqlite"), **options))
    return found, record, model.asked


def group(*responses) -> Group:
    return Group(({"role": "user", "content": "Why?"},), responses, source="rows:1")


def test_rewards_fit_the_preferences_of_both_orders(tmp_path):
    texts = ("a", "four", "a", "seven..")
    found, record, asked = planted([group(*texts), group("a", "four")], tmp_path)
    assert asked == 6  # Of different texts, each order once.
    weights = Planted.scalar_weights(None)
    for each, lengths in zip(found, ([1, 4, 1, 7], [1, 4]), strict=True):
        rewards = each.outputs @ weights
        expected = np.subtract.outer(lengths, lengths)
        np.testing.assert_allclose(np.subtract.outer(rewards, rewards), expected, atol=1e-6)
    assert not record.without_verdict
    again, _, asked = planted([group(*texts)], tmp_path)
    np.testing.assert_array_equal(again[0].outputs, found[0].outputs)
    assert asked == 0


def test_what_has_no_verdict_is_counted_and_what_is_not_finite_named(tmp_path):
    (found,), record, _ = planted([group("a", "long")], tmp_path)
    assert record.without_verdict == {NO_ROOM: 2}
    assert not found.outputs.any()
    with pytest.raises(ValueError, match="rows:1: log-probabilities are not finite"):
        planted([group("a", "bad")], tmp_path)
    (found, other), record, _ = planted(
        [group("a", "bad"), group("a", "b")], tmp_path, leave_out=True
    )
    assert found.outputs is None
    assert other.outputs is not None
    assert record.skipped == {"not finite": 1}


# A tiny one that is trained -----------------------------------------------------------------------


def longer_wins(n: int, seed: int) -> list[dict]:
    draw, words = random.Random(seed), ("yes", "no", "sun", "sea", "cat", "dog", "oak")
    found = []
    for _ in range(n):
        texts = [" ".join(draw.choices(words, k=draw.randint(*k))) for k in ((1, 3), (8, 12))]
        best = draw.choice((1, 2))
        found.append(
            {"prompt": f"Say {draw.choice(words)}.", "preference_strength": 4 * best - 6}
            | dict(zip(("response_1", "response_2"), texts[:: 1 if best == 2 else -1], strict=True))
            | {"preference_statement": justifications.STATEMENTS[best - 1]}
            | {"preference_elaboration": "Longer wins."}
        )
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a model, and pairs that it has not seen."""
    folder = tmp_path_factory.mktemp("justifier")
    with pytest.MonkeyPatch.context() as patch:
        words = (justifications.QUESTION, *justifications.STATEMENTS, "Longer wins.\n\n@User")
        patch.setattr(tiny, "SENTENCES", words * 2)
        tiny.language_model(folder / "start", num_layers=2)
    rows = stages.write(folder / "rows.jsonl", longer_wins(96, seed=0))
    held_out = stages.write(folder / "held_out.jsonl", longer_wins(12, seed=1))
    form = "helpsteer2_justification"
    data = {
        "train": f"{form}:{rows}+{form}_swapped{{-preference_elaboration}}:{rows}",
        "validation": f"{form}:{held_out}",
        "row_length": 128,
    }
    sizes = {"batch_size": 32, "micro_batch_size": 32, "epochs": 10, "evaluate_every": 100}
    config = stages.made(
        *("train_policy", {"model": {"name": str(folder / "start"), "remat": False}}),
        **sizes,
        data=data,
        optimizer={"learning_rate": 1e-2, "warmup": 5},
    )
    loop.train(config, folder / "run")
    return folder


@pytest.mark.parametrize("way", justifications.WAYS)
def test_a_trained_judge_follows_what_it_was_taught_in_both_orders(trained, tmp_path, way):
    rows = longer_wins(4, seed=2)
    sides = [[x["response_1"], x["response_2"]] for x in rows]
    bench = stages.write(
        tmp_path / "bench.jsonl",
        [
            {"prompt": x["prompt"], "subset": "hep-go", "id": i}
            | {"chosen": max(texts, key=len), "rejected": min(texts, key=len)}
            for i, (x, texts) in enumerate(zip(rows, sides, strict=True))
        ],
    )
    flags = [f"--config={CONFIG}:{trained / 'run' / 'model'}", f"--config.model.justifier={way}"]
    flags.append(
        f"--config.data=helpsteer2_preference:{trained / 'held_out.jsonl'}+reward_bench:{bench}"
    )
    printed = succeed("evaluate", *flags, f"--workdir={tmp_path / 'run'}")
    run = Run(tmp_path / "run")
    pairs, benchmark = run.sets()
    assert find(run.rows, set=pairs, metric="accuracy", part="")["value"] > 0.9
    assert find(run.rows, set=pairs, metric="consistency")["value"] > 0.7
    assert 0.3 < find(run.rows, set=pairs, metric="says_first")["value"] < 0.7
    assert (
        find(run.rows, set=benchmark, metric="score", part="section/Reasoning/hep-go")["value"] == 1
    )
    item = run.items(pairs)[0]
    np.testing.assert_allclose(item["rewards"], np.mean(item["outputs"], axis=1), rtol=1e-6)
    texts = {verdict(text) for text in item["about"].values()}
    assert texts == ({1, 2} if way == "written" else set())
    assert "accuracy" in printed


@pytest.mark.parametrize(
    "settings", [{"model": {"weights": "helpfulness=1"}}, {"max_tokens": 100}], ids=str
)
def test_settings_of_reward_models_are_refused(settings):
    config = configs.defaults("evaluate")
    config.update(
        {"model": {"name": "m", "justifier": "written"}, "data": "helpsteer2:mini/train.jsonl"}
    )
    config.update(settings)
    with pytest.raises(ValueError, match=r"config\.\S+ is for reward models"):
        configs.check(config)
