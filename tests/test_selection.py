"""The chosen rows are those that a planted judge likes best; left out, tied."""

import json

import numpy as np
import pytest
import stages
from planted_judge import TOO_LONG, PlantedJudge, readings_of, values

from hs2jax.data.groups import DataError
from hs2jax.data.record import Record
from hs2jax.judging import selection
from hs2jax.workdir import read_rows

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
        path = stages.write(tmp_path / name, content)
        if name.endswith(".json"):
            path.write_text(json.dumps(content, indent=1))
        return f"instructions:{path}"

    return to_file


def choose(judge, data, folder, record=None, **options) -> list[dict]:
    record = Record() if record is None else record
    return selection.select(readings_of(judge, folder), data, folder, record, **options)


def counts(found) -> tuple[int, int]:
    """How many rows were judged, and how many selected."""
    return values(found, "rows")[None], values(found, "selected")[None]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_the_best_rows_are_chosen_as_they_are(write, tmp_path, name):
    content = rows(150)
    # No text that could be written as it is, in a field that is not judged.
    max(content, key=quality)["other"] = "\ud800"
    found = choose(PlantedJudge(likes, QUIET), write(content, name), tmp_path / "out")
    best = sorted(content, key=quality)[-15:]
    chosen = read_rows(tmp_path / "out" / "selected.jsonl")
    assert chosen == [row for row in content if row in best]
    assert counts(found) == (150, 15)
    scored = read_rows(tmp_path / "out" / "scores.jsonl")
    assert [line["source"] for line in scored] == [f"{tmp_path}/{name}:{i}" for i in range(1, 151)]
    assert [line["characters"] for line in scored] == [len(row["output"]) for row in content]
    for line, row in zip(scored, content, strict=True):
        assert list(line["scores"]) == [each.name for each in selection.CRITERIA]
        assert list(line["means"]) == ["lager_wo", "e_score", "direct"]
        assert line["means"]["lager_wo"] == pytest.approx(np.mean(list(line["scores"].values())))
        assert line["means"]["direct"] == pytest.approx(quality(row), abs=0.501)
    overlap = values(found, "overlap")
    assert overlap["lager_wo"] == values(found, "spearman")["lager_wo"] == 1
    assert overlap["e_score"] == 1  # All layers say the same.
    mean = np.mean([len(row["output"]) for row in best])
    assert values(found, "response")["lager_wo"] == pytest.approx(mean)


def test_a_judge_of_length_chooses_the_longest(write, tmp_path):
    content = [row | {"output": "x" * (20 + 7 * i)} for i, row in enumerate(rows(80))]

    def by_length(request, q):
        return 1 + 8 * request.item.count("x") / 600

    found = choose(PlantedJudge(by_length, QUIET), write(content), tmp_path, fraction=0.2)
    assert counts(found) == (80, 16)
    assert values(found, "overlap")["longest response"] == 1
    assert values(found, "spearman")["longest response"] > 0.99
    characters = values(found, "response")
    assert characters["longest response"] == characters["lager_wo"] > characters["chance"]


def test_weights_choose_by_the_layer_that_they_name(write, tmp_path):
    content = rows(120)
    judge = PlantedJudge(likes, noise=(5.0, 5.0, 0.01, 5.0))
    found = choose(judge, write(content), tmp_path, weights=[0.0, 0.0, 1.0, 0.0])
    overlap = values(found, "overlap")
    assert list(overlap)[:4] == ["lager_w", "lager_wo", "e_score", "direct"]
    best = sorted(map(quality, content))[-12:]
    chosen = read_rows(tmp_path / "selected.jsonl")
    assert sorted(map(quality, chosen)) == pytest.approx(best, abs=0.2)
    assert overlap["lager_w"] == 1 > overlap["e_score"]
    with pytest.raises(ValueError, match="weights has shape"):
        choose(judge, write(content), tmp_path, weights=[0.5, 0.5])


def test_rows_are_read_a_chunk_before_they_are_judged_and_no_more(write, tmp_path, monkeypatch):
    judge, ask, taken, ahead = PlantedJudge(likes), PlantedJudge.ask, [], []
    requests_of = selection.requests_of

    def counted(group, criteria):
        taken.append(group)
        return requests_of(group, criteria)

    def watched(requests, **options):
        ahead.append(len(taken) - len(judge.asked))
        return ask(judge, requests, **options)

    monkeypatch.setattr(selection, "requests_of", counted)
    judge.ask = watched
    choose(judge, write(rows(300)), tmp_path)
    assert 60 < max(ahead) <= 70


def test_what_is_too_long_is_counted_and_never_chosen(write, tmp_path):
    content = rows(60)
    for i in (3, 50):
        content[i]["output"] = f"quality 9.0 {TOO_LONG}"
    content[7]["output"] = "quality 9.0 " + "word " * 900
    judge, record = PlantedJudge(likes, QUIET), Record()
    found = choose(judge, write(content), tmp_path, record, fraction=0.5, max_tokens=1500)
    assert record.too_long == 3
    assert counts(found) == (57, 28)
    assert not any(r.item.count("word") > 500 for r in judge.asked)
    chosen = read_rows(tmp_path / "selected.jsonl")
    assert len(chosen) == 28
    assert all(row["output"] not in {content[i]["output"] for i in (3, 7, 50)} for row in chosen)


def test_malformed_rows_are_named_or_skipped_and_counted(write, tmp_path):
    content = rows(20)
    content[4]["output"] = " "
    content[7]["output"] = "quality nan"
    data, record = write(content), Record()
    with pytest.raises(DataError, match=r"rows\.jsonl, line 5, field 'output'"):
        choose(PlantedJudge(likes), data, tmp_path)
    found = choose(PlantedJudge(likes), data, tmp_path, record, on_error="skip", fraction=1.0)
    assert counts(found) == (18, 18)
    assert record.skipped == {"empty text": 1, "not finite": 1}


def test_chance_decides_between_equals_and_not_their_order(write, tmp_path):
    data = write([row | {"output": "quality 5.0"} for row in rows(200)])
    judge = PlantedJudge(likes, QUIET)
    found = choose(judge, data, tmp_path)
    assert values(found, "tied")["lager_wo"] == 200
    assert values(found, "spearman")["lager_wo"] is None
    places = [row["more"][0] for row in read_rows(tmp_path / "selected.jsonl")]
    assert max(places) > 100
    choose(judge, data, tmp_path, seed=1)
    assert [row["more"][0] for row in read_rows(tmp_path / "selected.jsonl")] != places

    content = [row | {"output": f"quality {q}"} for row, q in zip(rows(4), "9911", strict=True)]
    for fraction, tied in ((0.5, 0), (0.75, 2)):  # Nothing where all equals are chosen.
        found = choose(judge, write(content), tmp_path, fraction=fraction)
        assert values(found, "tied")["lager_wo"] == tied


def test_one_row_is_always_chosen_and_each_only_once(write, tmp_path):
    assert counts(choose(PlantedJudge(likes), write(rows(3)), tmp_path, fraction=0.01)) == (3, 1)
    data = write(rows(20))  # The file is named twice.
    found = choose(PlantedJudge(likes), f"{data}[:10]+{data}[10:]", tmp_path)
    assert counts(found) == (20, 2)
    assert len(read_rows(tmp_path / "selected.jsonl")) == 2


def test_data_that_cannot_be_chosen_from(write, tmp_path):
    several = [{"prompt": "Hi", "responses": ["a", "b"]}]
    path = stages.write(tmp_path / "several.jsonl", several)
    with pytest.raises(DataError, match=r"several\.jsonl, line 1, field 'responses': .*found 2"):
        choose(PlantedJudge(likes), f"responses:{path}", tmp_path)
    data = write([row | {"output": f"quality 1 {TOO_LONG}"} for row in rows(3)])
    with pytest.raises(ValueError, match=r"could read no row of .*: 3 too long"):
        choose(PlantedJudge(likes), data, tmp_path)


def test_a_file_of_real_instructions(real_data, tmp_path):
    data = f"instructions:{real_data}/gpteacher/roleplay.json[:300]"

    def short(request, q):
        return 9 - 8 * min(len(request.item) / 4000, 1)

    found = choose(PlantedJudge(short, QUIET), data, tmp_path)
    assert counts(found) == (300, 30)
    chosen = read_rows(tmp_path / "selected.jsonl")
    assert len(chosen) == 30
    assert {tuple(row) for row in chosen} == {("instruction", "input", "response")}
    assert values(found, "spearman")["longest response"] < -0.5
    assert values(found, "overlap")["longest response"] == 0
