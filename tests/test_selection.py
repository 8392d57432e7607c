"""The chosen rows are those that a planted judge likes best; killed, resumed, left out, tied."""

import json

import numpy as np
import planted_judge
import pytest
from planted_judge import TOO_LONG, PlantedJudge

from hs2jax.data.groups import DataError
from hs2jax.judging import selection

QUIET = (0.0, 0.0, 0.0, 0.0)


def rows(n, seed=0):
    """Rows with a quality, from 1 to 9, that stands in their text."""
    rng = np.random.default_rng(seed)
    return [
        {
            "instruction": f"Task {i}.",
            "input": "",
            "output": f"quality {rng.uniform(1, 9):.3f} " + "word " * rng.integers(40),
            "more": [i, "é"],
        }
        for i in range(n)
    ]


def quality(row):
    return float(row["output"].split()[1])


def likes(request, q):
    return float(request.item.split("quality ")[1].split()[0])


@pytest.fixture
def write(tmp_path):
    def to_file(content, name="rows.jsonl"):
        path = tmp_path / name
        if name.endswith(".json"):
            path.write_text(json.dumps(content, indent=1))
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
        return f"instructions:{path}"

    return to_file


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_the_best_rows_are_chosen_as_they_are(write, tmp_path, name):
    content = rows(150)
    # No text that could be written as it is, in a field that is not judged.
    max(content, key=quality)["other"] = "\ud800"
    result = selection.select(PlantedJudge(likes, QUIET), write(content, name), tmp_path / "out")
    best = sorted(content, key=quality)[-15:]
    chosen = lines(tmp_path / "out" / "selected.jsonl")
    assert chosen == [row for row in content if row in best]
    assert (result["rows"], result["selected"], result["left_out"]) == (150, 15, {})
    assert result["chosen_by"] == "lager_wo"
    scored = lines(tmp_path / "out" / "scores.jsonl")
    assert [line["source"] for line in scored] == [f"{tmp_path}/{name}:{i}" for i in range(1, 151)]
    assert [line["characters"] for line in scored] == [len(row["output"]) for row in content]
    for line, row in zip(scored, content, strict=True):
        assert list(line["scores"]) == [each.name for each in selection.CRITERIA]
        assert list(line["means"]) == ["lager_wo", "e_score", "direct"]
        assert line["means"]["lager_wo"] == pytest.approx(np.mean(list(line["scores"].values())))
        assert line["means"]["direct"] == pytest.approx(quality(row), abs=0.501)
    used = result["choices"]["lager_wo"]
    assert used["overlap"] == used["spearman"] == 1
    assert used["response"] == pytest.approx(np.mean([len(row["output"]) for row in best]))
    assert result["choices"]["e_score"]["overlap"] == 1  # All layers say the same.
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    text = selection.describe(result)
    assert "15 of 150 rows by lager_wo" in text
    assert all(name in text for name in result["choices"])


def test_a_judge_of_length_chooses_the_longest(write, tmp_path):
    content = [row | {"output": "x" * (20 + 7 * i)} for i, row in enumerate(rows(80))]

    def by_length(request, q):
        return 1 + 8 * request.item.count("x") / 600

    result = selection.select(
        PlantedJudge(by_length, QUIET), write(content), tmp_path, fraction=0.2
    )
    longest = result["choices"]["longest response"]
    assert (longest["overlap"], result["selected"]) == (1, 16)
    assert longest["spearman"] > 0.99
    assert longest["response"] == result["choices"]["lager_wo"]["response"]
    assert result["choices"]["chance"]["response"] < longest["response"]


def test_chance_chooses_any_row(write, tmp_path):
    data = write(rows(400))
    result = selection.select(PlantedJudge(likes), data, tmp_path, fraction=0.25)
    chance = result["choices"]["chance"]
    assert 0.1 < chance["overlap"] < 0.4
    assert abs(chance["spearman"]) < 0.15
    assert chance["tied"] == 0


def test_weights_choose_by_the_layer_that_they_name(write, tmp_path):
    content = rows(120)
    judge = PlantedJudge(likes, noise=(5.0, 5.0, 0.01, 5.0))
    result = selection.select(judge, write(content), tmp_path, weights=[0.0, 0.0, 1.0, 0.0])
    assert result["chosen_by"] == "lager_w"
    assert set(result["choices"]) >= {"lager_w", "lager_wo", "e_score", "direct"}
    best = sorted(map(quality, content))[-12:]
    chosen = lines(tmp_path / "selected.jsonl")
    assert sorted(map(quality, chosen)) == pytest.approx(best, abs=0.2)
    assert result["choices"]["e_score"]["overlap"] < 1
    with pytest.raises(ValueError, match="weights has shape"):
        selection.select(judge, write(content), tmp_path, weights=[0.5, 0.5])


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on_where_it_was(write, tmp_path):
    data = write(rows(300))
    whole = selection.select(PlantedJudge(likes), data, tmp_path / "whole")
    judge, read = PlantedJudge(likes), PlantedJudge.read

    def until_killed(requests, **options):
        if len(judge.asked) >= 128:
            raise KilledError
        return read(judge, requests, **options)

    judge.read = until_killed
    with pytest.raises(KilledError):
        selection.select(judge, data, tmp_path / "killed")
    assert not (tmp_path / "killed" / "scores.jsonl").exists()
    assert not (tmp_path / "killed" / "selected.jsonl").exists()
    second = PlantedJudge(likes)
    assert selection.select(second, data, tmp_path / "killed") == whole
    assert len(second.asked) == 300 - 128
    for name in ("scores.jsonl", "selected.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_rows_are_not_held_while_they_are_read(write, tmp_path, monkeypatch):
    """When a chunk is asked for, only a chunk or so more has been read of the file."""
    taken, judge, ahead = 0, PlantedJudge(likes), []
    read, requests_of = judge.read, selection.requests_of

    def counted(group, criteria):
        nonlocal taken
        taken += 1
        return requests_of(group, criteria)

    def watched(requests, **options):
        ahead.append(taken - len(judge.asked))
        return read(requests, **options)

    judge.read = watched
    monkeypatch.setattr(selection, "requests_of", counted)
    selection.select(judge, write(rows(300)), tmp_path)
    assert len(ahead) > 3
    assert max(ahead) <= 70


def test_what_is_too_long_is_counted_and_never_chosen(write, tmp_path):
    content = rows(60)
    for i in (3, 50):
        content[i]["output"] = f"quality 9.0 {TOO_LONG}"
    content[7]["output"] = "quality 9.0 " + "word " * 900
    judge = PlantedJudge(likes, QUIET)
    result = selection.select(judge, write(content), tmp_path, fraction=0.5, max_tokens=1500)
    assert result["left_out"] == {"too long": 3}
    assert (result["rows"], result["selected"]) == (57, 28)
    assert not any("900" in r.item or r.item.count("word") > 500 for r in judge.asked)
    chosen = lines(tmp_path / "selected.jsonl")
    assert len(chosen) == 28
    assert all(row["output"] not in {content[i]["output"] for i in (3, 7, 50)} for row in chosen)
    assert "left out: too long 3" in selection.describe(result)


def test_malformed_rows_are_named_or_skipped_and_counted(write, tmp_path):
    content = rows(20)
    content[4]["output"] = " "
    data = write(content)
    with pytest.raises(DataError, match=r"rows\.jsonl, line 5, field 'output'"):
        selection.select(PlantedJudge(likes), data, tmp_path)
    result = selection.select(PlantedJudge(likes), data, tmp_path, on_error="skip")
    assert (result["rows"], result["left_out"]) == (19, {"empty text": 1})


def test_readings_that_are_not_finite_are_never_chosen(write, tmp_path):
    content = rows(20)
    content[4]["output"] = "quality nan"
    result = selection.select(PlantedJudge(likes), write(content), tmp_path, fraction=1.0)
    assert (result["selected"], result["left_out"]) == (19, {"not finite": 1})


def test_chance_decides_between_equals_and_not_their_order(write, tmp_path):
    data = write([row | {"output": "quality 5.0"} for row in rows(200)])
    judge = PlantedJudge(likes, QUIET)
    result = selection.select(judge, data, tmp_path)
    used = result["choices"]["lager_wo"]
    assert used["tied"] == 200
    assert used["spearman"] is None
    places = [row["more"][0] for row in lines(tmp_path / "selected.jsonl")]
    assert max(places) > 100
    assert "none" in selection.describe(result)
    selection.select(judge, data, tmp_path, seed=1)
    assert [row["more"][0] for row in lines(tmp_path / "selected.jsonl")] != places


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, float("nan")])
def test_a_fraction_that_makes_no_sense(write, tmp_path, fraction):
    with pytest.raises(ValueError, match="fraction is"):
        selection.select(PlantedJudge(likes), write(rows(2)), tmp_path, fraction=fraction)


def test_one_row_is_always_chosen(write, tmp_path):
    result = selection.select(PlantedJudge(likes), write(rows(3)), tmp_path, fraction=0.01)
    assert result["selected"] == 1


def test_a_file_that_is_named_twice_gives_each_row_once(write, tmp_path):
    data = write(rows(20))
    result = selection.select(PlantedJudge(likes), f"{data}[:10]+{data}[10:]", tmp_path)
    assert (result["rows"], result["selected"]) == (20, 2)
    assert len(lines(tmp_path / "selected.jsonl")) == 2


def test_chance_decides_nothing_where_all_equals_are_chosen(write, tmp_path):
    content = [row | {"output": f"quality {q}"} for row, q in zip(rows(4), "9911", strict=True)]
    judge, data = PlantedJudge(likes, QUIET), write(content)
    chosen = selection.select(judge, data, tmp_path, fraction=0.5)["choices"]["lager_wo"]
    assert chosen["tied"] == 0
    chosen = selection.select(judge, data, tmp_path, fraction=0.75)["choices"]["lager_wo"]
    assert chosen["tied"] == 2


def test_data_that_cannot_be_chosen_from(write, tmp_path):
    path = tmp_path / "several.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "responses": ["a", "b"]}) + "\n")
    with pytest.raises(DataError, match=r"several\.jsonl, line 1, field 'responses': .*found 2"):
        selection.select(PlantedJudge(likes), f"responses:{path}", tmp_path)
    data = write([row | {"output": f"quality 1 {TOO_LONG}"} for row in rows(3)])
    with pytest.raises(ValueError, match=r"no row could be judged .left out: too long 3"):
        selection.select(PlantedJudge(likes), data, tmp_path)


def test_a_language_model_judges_rows(write, tmp_path):
    judge, data = planted_judge.random_judge(tmp_path / "model"), write(rows(6))
    result = selection.select(judge, data, tmp_path, fraction=0.5)
    assert (result["rows"], result["selected"]) == (6, 3)
    means = [line["means"]["lager_wo"] for line in lines(tmp_path / "scores.jsonl")]
    assert len(set(means)) == 6
    assert all(1 < mean < 9 for mean in means)


def test_a_file_of_real_instructions(real_data, tmp_path):
    data = f"instructions:{real_data}/gpteacher/roleplay.json"

    def short(request, q):
        return 9 - 8 * min(len(request.item) / 4000, 1)

    result = selection.select(PlantedJudge(short, QUIET), data, tmp_path)
    assert (result["rows"], result["selected"]) == (1923, 192)
    chosen = lines(tmp_path / "selected.jsonl")
    assert len(chosen) == 192
    assert {tuple(row) for row in chosen} == {("instruction", "input", "response")}
    assert result["choices"]["longest response"]["spearman"] < -0.5
    assert result["choices"]["longest response"]["overlap"] == 0
