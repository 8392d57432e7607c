"""A file of one's own: its format seen, its prompts parted, a model trained in one command."""

import json

import pytest
import stages
import tiny
from command import hs2jax

from hs2jax.data import corpora, guess
from hs2jax.data.guess import Seen
from hs2jax.workdir import read_json

PAIR = {"prompt": "Where?", "chosen": "In Paris.", "rejected": "No."}
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
RATED = {"prompt": "Where?", "response": "In Paris."}
FIVE = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 3)
SIDES = {"prompt": "Where?", "response_1": "Here.", "response_2": "There."}
HH = {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}
CASES = [
    (PAIR, Seen("preference", True, False, ())),
    (PAIR | {"margin": 2.5}, Seen("preference", True, True, ())),
    (PAIR | {"score_chosen": 9, "score_rejected": 3}, Seen("preference", True, True, ())),
    ({"chosen": TALK, "rejected": [TALK[0], TALK[1] | {"content": "Go"}]}, "preference"),
    (RATED | {"ratings": {"tact": 2}}, Seen("ratings", False, False, ("tact",))),
    (RATED | FIVE, Seen("helpsteer", False, False, tuple(FIVE))),
    (SIDES | {"preference_strength": -2, "split": "train"}, "helpsteer2_preference"),
    (HH, Seen("hh_rlhf", True, False, ())),
    ({"instruction": "Sing.", "input": "", "output": "La."}, "instructions"),
    ({"messages": TALK}, "conversations"),
    ({"prompt": "Hi", "chosen": TALK[1], "rejected": TALK[1] | {"content": "Go"}}, "preference"),
    ({"input": "1?", "output_1": "1", "output_2": "2", "label": 1, "subset": "natural"}, "llmbar"),
]


# What is no rating by any format, and so must not be read without.
NO_RATING = {
    '{"ratings": {"tact": "good"}}': r"ratings\[0\]\.tact: expected a number .*found 'good'",
    '{"ratings": 3}': r"ratings\[0\]: expected an object .*\{ATTRIBUTE=ratings\}",
    '{"rating": 3}': "helpfulness: is missing",
    json.dumps(dict.fromkeys(FIVE, "3")): "helpfulness: expected a number",
    json.dumps({name.title(): 3 for name in FIVE}): "helpfulness: is missing",
}


@pytest.mark.parametrize(("row", "seen"), CASES)
def test_a_format_is_seen_from_a_files_rows(tmp_path, row, seen):
    path = str(stages.write(tmp_path / "mine.jsonl", [row, row]))
    found = guess.look(path)
    assert guess.look(found.spec) == found
    found = found._replace(spec=found.spec.removesuffix(f":{path}"))
    assert found == seen if isinstance(seen, Seen) else found.spec == seen


def test_what_no_format_reads_is_shown(tmp_path):
    path = stages.write(tmp_path / "mine.jsonl", [{"q": "x", "a": "y"}])
    why = r"whose columns are q, a\. .*preference\{prompt=COLUMN.*first row: prompt: is missing"
    with pytest.raises(ValueError, match=why):
        guess.look(str(path))
    for says, why in NO_RATING.items():
        stages.write(path, [RATED | json.loads(says)] * 2)
        with pytest.raises(ValueError, match=f"first row: {why}"):
            guess.look(str(path))
    with pytest.raises(ValueError, match="there is no row in it"):
        guess.look(str(stages.write(tmp_path / "none.jsonl", [])))


@pytest.mark.parametrize("percent", [0, 10, 50, 90, 100])
def test_no_prompt_is_on_both_sides_and_every_row_is_on_one(tmp_path, percent):
    rows = [PAIR | {"prompt": f"Question {i % 40}?", "rejected": f"No {i}."} for i in range(120)]
    spec = f"preference:{stages.write(tmp_path / 'mine.jsonl', rows)}"
    sides = [list(corpora.read(f"{spec}[~{part}]")) for part in (f":{percent}%", f"{percent}%:")]
    prompts = [{group.prompt[0]["content"] for group in side} for side in sides]
    assert not prompts[0] & prompts[1]
    assert sum(map(len, sides)) == len(rows)
    assert abs(len(prompts[0]) - 40 * percent / 100) <= 10


def test_one_command_trains_on_a_table(tmp_path):
    """By a map alone, with what the file holds besides in the record and on the page."""
    tiny.save(tmp_path / "model")
    lines = [f"Question {i}?,A good answer number {i}.,no {i},2.5,1,so" for i in range(40)]
    (tmp_path / "pairs.csv").write_text("\n".join(["question,good,bad,a,b,note", *lines]))
    columns = "{prompt=question,chosen=good,rejected=bad,strength=a-b}"
    data = f"preference{columns}:{tmp_path / 'pairs.csv'}"
    settings = [f"--config.model.name={tmp_path / 'model'}", "--config.model.outputs=()"]
    settings += ["--config.micro_batch_size=4", "--config.batch_size=8"]
    settings += ["--config.data.row_length=128"]
    common = ["train", "--config=configs/own_data.py", *settings]
    done = hs2jax(*common, f"--data={data}", f"--workdir={tmp_path / 'run'}")
    assert done.code == 0, done.err
    result = read_json(tmp_path / "run" / "result.json")
    assert result["config"]["data"]["train"] == f"{data}[~:90%]"
    assert result["config"]["objective"]["preference"] == "scaled"
    train, validation = (result["records"][part] for part in ("train", "validation"))
    assert train["groups"] + validation["groups"] == 40 > train["pairs"] == train["groups"] > 0
    assert train["strengths"] == {"a-b, at most 3": train["groups"]}
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "not read: note in" in page
    assert "strength: a-b, at most 3" in page
    done = hs2jax(*common, "--data", f"{tmp_path / 'pairs.csv'}", f"--workdir={tmp_path / 'other'}")
    assert done.code == 1
    assert "whose columns are question, good, bad" in done.err
