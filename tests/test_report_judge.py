"""Pages of a judge: the verdict first, every number of the rows, nothing of the data unescaped."""

import json

import numpy as np
import pytest
from judge_runs import write
from planted_judge import PlantedJudge, readings_of
from test_pairwise import PlantedPairs, worth_groups
from test_uses import knows_answers, questions

from hs2jax import configs, report, workdir
from hs2jax.judging import evaluate
from hs2jax.report import made, page
from hs2jax.report.run import Run

EVIL = "<script>alert('é')</script> & \"'\x00"
NOISE = (9.0, 3.0, 1.0, 5.0)  # The third layer knows best.


def finish(folder, judge, **settings) -> Run:
    """A run of a planted judge as the verb leaves it."""
    config = configs.defaults("judge")
    config.model.name = "models/SmolLM2-135M-Instruct"
    config.update(settings)
    work = evaluate.score if config.task == "scores" else evaluate.use
    rows, result = work(config, readings_of(judge, folder), folder, evaluate.load_criteria(config))
    model = {"name": config.model.name, "checksum": "9f86", "layers": 3, "dtype": "float32"}
    result |= {"task": config.task, "model": model, "seconds": 131.0}
    workdir.finish(folder, config, result, rows)
    return Run(folder)


def quality(request, q):
    return float(request.item.split("quality ")[1].split()[0])


def scores(folder, rated=True, **settings) -> Run:
    rng, rows = np.random.default_rng(0), []
    for i in range(40):
        good = rng.uniform(1, 5, size=2)
        people = [{"helpfulness": int(x), "wit": float(rng.integers(1, 6))} for x in good.round()]
        rows.append({"prompt": f"{EVIL} {i}", "responses": [f"quality {x:.3f}" for x in good]})
        rows[-1] |= {"ratings": people} if rated else {}
    named = [{"name": name, "definition": "It is."} for name in ("helpfulness", "wit")]
    (folder / "criteria.json").write_text(json.dumps(named))
    data = f"{'ratings' if rated else 'responses'}:{write(folder / 'rows.jsonl', rows)}"
    settings = {"criteria": str(folder / "criteria.json"), "data": data} | settings
    return finish(folder, PlantedJudge(quality, NOISE), **settings)


def pairs(folder) -> Run:
    rows = []
    for i, group in enumerate(worth_groups(40, 30)):
        better, worse = group.responses[:: 1 if group.strength < 0 else -1]
        sides = {"chosen": better + i % 3 * "!", "rejected": worse + "."}
        rows.append({"prompt": group.prompt[0]["content"] + EVIL, **sides})
    data = f"preference:{write(folder / 'rows.jsonl', rows)}"
    return finish(folder, PlantedPairs(NOISE), task="pairs", criteria="helpfulness", data=data)


def selection(folder) -> Run:
    rng = np.random.default_rng(0)
    rows = [
        {"instruction": f"{i} {EVIL}", "output": f"quality {rng.uniform(1, 9):.3f} {EVIL}"}
        for i in range(60)
    ]
    data = f"instructions:{write(folder / 'rows.jsonl', rows)}"
    return finish(folder, PlantedJudge(quality, NOISE), task="selection", data=data)


def knowledge(folder) -> Run:
    path = folder / "questions.json"
    path.write_text(json.dumps({"example": questions(90)}))
    return finish(folder, PlantedJudge(knows_answers, NOISE), task="knowledge", data=str(path))


def test_a_layer_that_knows_better_than_the_last_is_said_to(tmp_path):
    run = scores(tmp_path, weights="cross-validate")
    section = report.sections(run)[0]
    layers, agreement = section.verdicts
    assert (layers.tone, layers.label) == ("good", "All layers, lager_w: better than the last one")
    assert (agreement.tone, agreement.label[:28]) == ("good", "lager_w: better than chance ")
    figures, tables = (
        {part.title: part for part in section.parts if isinstance(part, kind)}
        for kind in (page.Figure, page.Table)
    )
    assert figures["Weights by layer"].svg
    assert figures["wit: predicted by rating"].svg
    by_criterion = tables["Differences by criterion"]
    assert all(name in " ".join(by_criterion.columns) for name in ("helpfulness", "wit"))
    assert "lager_w\u00a0−\u00a0e_score" in [line[0] for line in by_criterion.rows]
    assert len(section.cases) == 10
    text = report.write(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "\x00" not in text
    assert "&lt;script&gt;" in text


def test_a_judge_that_knows_nothing_is_not_shown_to_and_unrated_scores_are_not_judged(tmp_path):
    (verdict,) = report.sections(scores(tmp_path, rated=False))[0].verdicts
    assert (verdict.tone, verdict.label) == ("unsure", "Not judged")
    report.write(tmp_path)
    (tmp_path / "other").mkdir()
    run = scores(tmp_path / "other", baselines="")
    layers, _ = report.sections(run)[0].verdicts
    assert layers.label.startswith("All layers, lager_wo")


@pytest.mark.parametrize(
    ("make", "tones"),
    [(pairs, ["good", "unsure"]), (selection, ["unsure"]), (knowledge, ["good", "good"])],
)
def test_every_task_has_a_page_with_its_verdict(tmp_path, make, tones):
    run = make(tmp_path)
    numbers, section = made.opening(run).numbers, report.sections(run)[0]
    assert "lager_w" in numbers[0][2]  # And no rule of length.
    assert [verdict.tone for verdict in section.verdicts] == tones
    tables = [part for part in section.parts if isinstance(part, page.Table) and part.rows]
    assert len(tables) > 2
    text = report.write(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in text
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert all(table.title in markdown for table in tables)
