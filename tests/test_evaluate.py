"""`hs2jax evaluate` from end to end on a tiny model: sets, benchmarks, settings, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from command import fail, succeed

from hs2jax.data import corpora
from hs2jax.data.groups import Group
from hs2jax.evaluation import attribute_weights, calibration, length, statistics
from hs2jax.evaluation import items as item_files
from hs2jax.evaluation.scores import Scored
from hs2jax.reward_model import RewardModel

CONFIG = Path(__file__).parent.parent / "configs" / "evaluate.py"
OUTPUTS = ("helpfulness", "verbosity")
PAIRS = "helpsteer2_preference:mini/preference.jsonl[val]"
RATINGS = "helpsteer2:mini/train.jsonl[:6]"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.save(
        folder, outputs=OUTPUTS, weights={"helpfulness": 1.0, "verbosity": -0.5}, max_seq_len=2048
    )
    return folder


def flags(model, workdir, **settings) -> list[str]:
    given = [f"--config.{key}={value}" for key, value in settings.items()]
    return [f"--config={CONFIG}:{model}", f"--workdir={workdir}", *given]


def result_of(workdir: Path) -> dict:
    return json.loads((workdir / "evaluation.json").read_text(encoding="utf-8"))


def reward_bench(path: Path, subsets: dict[str, int]) -> str:
    """A file in RewardBench's form, of questions with a right and a wrong sum."""
    rows = [
        {
            "prompt": f"How much is {i} and {i}? ({subset})",
            "chosen": f"It is {2 * i}.",
            "rejected": f"{2 * i + 1}",
            "subset": subset,
            "id": i,
        }
        for subset, count in subsets.items()
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"reward_bench:{path}"


def test_sets_are_scored_and_told(model, tmp_path):
    printed = succeed("evaluate", *flags(model, tmp_path, data=f"{PAIRS}+{RATINGS}"))
    result = result_of(tmp_path)
    names = [each["name"] for each in result["sets"]]
    assert names == ["helpsteer2_preference-preference-val", "helpsteer2-train-6"]
    loaded = RewardModel.load(model)
    for each in result["sets"]:
        items = item_files.read(tmp_path / "items" / f"{each['name']}.jsonl")
        groups = list(corpora.read(each["data"]))
        assert [item["source"] for item in items] == [group.source for group in groups]
        for item, group in list(zip(items, groups, strict=True))[:3]:
            talks = [[*group.prompt, {"role": "assistant", "content": r}] for r in group.responses]
            found = [score.reward for score in loaded.score(talks)]
            np.testing.assert_allclose(item["rewards"], found, atol=1e-5)
        assert each["summary"] == statistics.summarize(items, OUTPUTS)
        assert each["length"] == length.analysis(items)
        assert each["calibration"] == calibration.measure(items)
        assert each["benchmark"] is None
        assert f"{each['name']}: " in printed
    assert result["sets"][0]["summary"]["preferences"]["pairs"] > 10
    assert set(result["sets"][1]["agreement"]) == set(OUTPUTS)
    assert result["model"]["weights"] == {"helpfulness": 1.0, "verbosity": -0.5}
    for page in ("report.html", "report.md"):
        assert "helpsteer2" in (tmp_path / page).read_text(encoding="utf-8")
    assert f"report: {tmp_path / 'report.html'}" in printed


def test_the_files_of_a_benchmark_are_one_set_and_incomplete_ones_are_said(model, tmp_path):
    first = reward_bench(tmp_path / "a.jsonl", {"alpacaeval-easy": 3, "hep-python": 2})
    second = reward_bench(tmp_path / "b.jsonl", {"alpacaeval-easy": 2, "mt-bench-med": 40})
    printed = succeed("evaluate", *flags(model, tmp_path / "run", data=f"{first}+{second}"))
    (each,) = result_of(tmp_path / "run")["sets"]
    assert each["name"] == "reward_bench"
    assert each["benchmark"]["overall"] is None
    chat = each["benchmark"]["sections"][0]
    assert (chat["name"], chat["items"], chat["complete"]) == ("Chat", 45, False)
    assert any("hep-python" in text for text in each["benchmark"]["missing"])
    assert "of 45 of 358 items" in printed


def test_what_is_left_out_of_a_benchmark_is_told_and_missing(model, tmp_path):
    data = reward_bench(tmp_path / "a.jsonl", {"alpacaeval-easy": 3})
    path = tmp_path / "a.jsonl"
    first, *rest = map(json.loads, path.read_text().splitlines())
    first["chosen"] = "So. " * 3000
    path.write_text("".join(json.dumps(row) + "\n" for row in [first, *rest]))
    said = fail("evaluate", *flags(model, tmp_path / "run", data=data))
    assert f"{path}:1: a conversation is" in said
    assert "on_error=skip" in said
    settings = {"data": data, "on_error": "skip"}
    printed = succeed("evaluate", *flags(model, tmp_path / "run", **settings))
    assert "of 2 of 358 items" in printed
    assert "left out: 1 too long" in printed
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "Left out: too long 1." in page
    assert "alpacaeval-easy: 98 of 100 rows are absent" in page


def test_a_model_changed_in_its_place_is_scored_anew(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / "model"
        tiny.save(folder, outputs=("reward",), seed=seed)
        succeed("evaluate", *flags(folder, tmp_path / f"run{seed}", data=f"{RATINGS}"))
    first, second = (
        item_files.read(tmp_path / f"run{seed}" / "items" / "helpsteer2-train-6.jsonl")
        for seed in (0, 1)
    )
    for one, other in zip(first, second, strict=True):
        assert one["responses"] == other["responses"]
        assert not np.allclose(one["rewards"], other["rewards"], atol=1e-3)


def test_killed_half_way_it_computes_only_the_rest(model, tmp_path, monkeypatch):
    """The first set is scored, then it stops; again, only the second set is computed."""
    monkeypatch.setattr("hs2jax.evaluation.scores.default_folder", lambda: tmp_path / "scores")
    sizes, predict = [], RewardModel.predict

    def counting(self, examples, **options):
        sizes.append(len(examples))
        return predict(self, examples, **options)

    def stopping(*_):
        raise OSError("the machine is taken away")

    monkeypatch.setattr(RewardModel, "predict", counting)
    arguments = flags(model, tmp_path / "run", data=f"{PAIRS}+{RATINGS}")
    with monkeypatch.context() as patch:
        patch.setattr(statistics, "summarize", stopping)
        assert "taken away" in fail("evaluate", *arguments)
    assert sum(sizes) == 24
    assert not (tmp_path / "run" / "evaluation.json").exists()
    sizes.clear()
    succeed("evaluate", *arguments)
    assert sum(sizes) == 6


def test_weights_are_searched_on_validation_pairs_and_overlap_is_warned_of(model, tmp_path):
    settings = {"data": RATINGS, "model.weights": "search", "validation": PAIRS, "seed": 3}
    succeed("evaluate", *flags(model, tmp_path / "apart", **settings))
    result = result_of(tmp_path / "apart")
    assert result["weights_search"]["warning"] is None
    assert result["model"]["weights"] == result["weights_search"]["weights"]
    items = item_files.read(tmp_path / "apart" / "items" / "helpsteer2-train-6.jsonl")
    scalar = [result["model"]["weights"][name] for name in OUTPUTS]
    for item in items:
        np.testing.assert_allclose(item["rewards"], np.array(item["outputs"]) @ scalar, atol=1e-5)
    assert result["temperature"]["value"] > 0
    assert result["temperature"]["pairs"] == result["weights_search"]["pairs"]

    settings["data"] = f"{PAIRS}+{RATINGS}"
    succeed("evaluate", *flags(model, tmp_path / "same", **settings))
    result = result_of(tmp_path / "same")
    assert "fitted on are evaluated here too" in result["weights_search"]["warning"]
    assert "evaluated here too" in (tmp_path / "same" / "report.md").read_text(encoding="utf-8")


def test_published_weights_are_known_by_name(tmp_path):
    names = tuple(attribute_weights.PUBLISHED["llama3_70b"])
    tiny.save(tmp_path / "model", outputs=names)
    settings = {"data": RATINGS, "model.weights": "llama3_70b"}
    succeed("evaluate", *flags(tmp_path / "model", tmp_path / "run", **settings))
    assert (
        result_of(tmp_path / "run")["model"]["weights"] == attribute_weights.PUBLISHED["llama3_70b"]
    )


def test_two_evaluations_are_compared(model, tmp_path):
    tiny.save(tmp_path / "other", outputs=("reward",), seed=5)
    for name, folder in (("first", model), ("second", tmp_path / "other")):
        succeed("evaluate", *flags(folder, tmp_path / name, data=PAIRS))
    printed = succeed(
        "report", f"--workdir={tmp_path / 'second'}", f"--against={tmp_path / 'first'}"
    )
    page = tmp_path / "second" / "against-first" / "report.html"
    assert str(page) in printed
    assert "McNemar" in page.read_text(encoding="utf-8")
    succeed("report", f"--workdir={tmp_path / 'second'}")


BAD = {
    "no data": ({"data": ""}, "config.data is not set"),
    "no such file": ({"data": "ratings:nowhere.jsonl"}, "nowhere.jsonl"),
    "no such format": ({"data": "guesses:mini/train.jsonl"}, "guesses"),
    "search without validation": ({"model.weights": "search"}, "config.validation"),
    "weights that are none": ({"model.weights": "much"}, "much"),
    "weights of other outputs": ({"model.weights": "clarity=1"}, "clarity"),
    "negative length": ({"max_tokens": -1}, "config.max_tokens"),
    "too short a length": ({"max_tokens": 5}, "longer than the 5 that fit"),
    "no pairs to fit on": ({"validation": RATINGS}, "config.validation"),
    "too few to search on": (
        {"validation": "helpsteer2_preference:mini/preference.jsonl[:3]"}
        | {"model.weights": "search"},
        "config.validation: a search in 5 folds",
    ),
    "no such validation file": ({"validation": "ratings:gone.jsonl"}, "gone.jsonl"),
    "a dtype that is none": ({"model.dtype": "float99"}, "config.model.dtype is 'float99'"),
    "no such template": ({"model.template": "mine"}, "config.model.template is 'mine'"),
    "an unknown way of errors": ({"on_error": "hide"}, "config.on_error is 'hide'"),
    "an attribute that nobody rated": (
        {"data": RATINGS, "derive": "clarity"},
        "config.derive is 'clarity'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_said(case, model, tmp_path):
    settings, words = BAD[case]
    assert words in fail("evaluate", *flags(model, tmp_path / "run", **settings))
    assert not (tmp_path / "run" / "evaluation.json").exists()


def test_an_evaluation_that_fails_leaves_an_earlier_one_whole(tmp_path, monkeypatch):
    tiny.save(tmp_path / "model", outputs=("reward",))
    arguments = flags(tmp_path / "model", tmp_path / "run", data=RATINGS)
    succeed("evaluate", *arguments)
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    before = {path: path.read_bytes() for path in files}
    tiny.save(tmp_path / "model", outputs=("reward",), seed=1)

    def stopping(*_):
        raise OSError("no room is left")

    with monkeypatch.context() as patch:
        patch.setattr(attribute_weights, "overlap", stopping)
        assert "no room is left" in fail("evaluate", *arguments)
    assert {path: path.read_bytes() for path in files} == before
    succeed("evaluate", *arguments)
    items = tmp_path / "run" / "items" / "helpsteer2-train-6.jsonl"
    assert items.read_bytes() != before[items]


def test_pairs_are_a_benchmarks_own_and_derived_ones_those_of_other_data():
    prompt = ({"role": "user", "content": "Is 7 odd?"},)
    right, wrong = {"correct": 1.0}, {"correct": 0.0}
    rated = ({"correct": 1.0, "helpfulness": 1.0}, {"correct": 0.0, "helpfulness": 3.0})

    def pairs(ratings, derive):
        group = Group(prompt, ("Yes.",) * len(ratings), ratings=ratings)
        table = np.zeros((len(ratings), 1), np.float32)
        scored = Scored(group, table, [1] * len(ratings), 0)
        return item_files.of(scored, np.ones(1), derive)["pairs"]

    for derive in (None, "helpfulness"):
        assert pairs((right, right, wrong), derive) == [[0, 2, 1.0], [1, 2, 1.0]]
    assert pairs(rated, "helpfulness") == [[1, 0, 2.0]]
    assert pairs(rated, None) == []


def test_one_folder_holds_one_evaluation(model, tmp_path):
    succeed("evaluate", *flags(model, tmp_path, data=RATINGS))
    assert "different: data" in fail("evaluate", *flags(model, tmp_path, data=PAIRS))


def test_a_config_of_another_verb_is_refused(model, tmp_path):
    assert "`hs2jax evaluate`" in fail("train", *flags(model, tmp_path, data=RATINGS))
