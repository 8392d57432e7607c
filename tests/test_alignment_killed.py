"""A recipe killed with SIGKILL in each of its stages and started again ends as one that was not."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import stages
from test_resume import environment, finish

RECIPE = """
from hs2jax import configs
import stages
from pathlib import Path

def get_config():
    here = Path({here!r})
    recipe = configs.defaults("recipe")
    recipe.stages = ("samples", "annotation", "groups")
    data = "sampled:{{samples}}/samples.jsonl"
    for name, config in (
        ("samples", stages.sampling(here)),
        ("annotation", stages.annotation(here, f"conversations:{{here}}/talks.jsonl")),
        ("groups", stages.weighing(here, data)),
    ):
        recipe[name] = config
    return recipe
"""
# Work in small pieces; of those that are kept the first of one stage is said, and waited after.
# What the language models do is noted.
PACE = """
import time
from pathlib import Path
from hs2jax import cli
from hs2jax.alignment import row_file, sample, weigh
from hs2jax.evaluation import scores
from hs2jax.language_model import LanguageModel
sample.chunk, weigh.CHUNK = lambda config: 2, 2
scores.TOKENS = 60
workdir, stops_in = Path({workdir!r}), {stops_in!r}

def stopping(keep, stage_of):
    def kept(self, *arguments):
        keep(self, *arguments)
        if stage_of(self) == stops_in:
            workdir.with_suffix(".stopped").touch()
            time.sleep(600)
    return kept

def noting(name):
    done = getattr(LanguageModel, name)
    def noted(self, groups, *arguments, **options):
        with workdir.with_suffix(".noted").open("a") as file:
            file.writelines(f"{{name}} {{group.prompt[-1]}}\\n" for group in groups)
        return done(self, groups, *arguments, **options)
    setattr(LanguageModel, name, noted)

for name in ("sample_groups", "log_probability_groups"):
    noting(name)
row_file.RowFile.add = stopping(row_file.RowFile.add, lambda file: file.path.parent.name)
scores.Cache.add = stopping(
    scores.Cache.add,
    lambda _: "annotation" if not (workdir / "annotation" / "result.json").exists() else None,
)
cli.main(["run", {config!r}, f"--workdir={{workdir}}"])
"""


def start(here: Path, workdir: Path, stops_in: str = "") -> subprocess.Popen:
    program = PACE.format(
        workdir=str(workdir), stops_in=stops_in, config=f"--config={here / 'recipe.py'}"
    )
    # Scores are kept apart, so that one run does not help the other.
    variables = {**environment(here / "cache"), "HS2JAX_CACHE": str(workdir.with_suffix(".scores"))}
    variables["PYTHONPATH"] = str(Path(__file__).parent)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(workdir: Path):
    found = {}
    for stage, file in (
        ("samples", "samples.jsonl"),
        ("annotation", "annotated.jsonl"),
        ("groups", "groups.jsonl"),
    ):
        names = {"config.json", "result.json", file}
        assert {each.name for each in (workdir / stage).iterdir()} == names
        result = json.loads((workdir / stage / "result.json").read_text())
        for name in ("config", "seconds", "tokens_per_second"):
            result.pop(name, None)
        found[stage] = (result, (workdir / stage / file).read_text())
    return found


def test_killed_in_each_stage_it_ends_with_the_same_rows(tmp_path):
    stages.models(tmp_path)
    rows = [
        {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": f"{q} Yes."}]}
        for q in stages.QUESTIONS
    ]
    stages.write(tmp_path / "talks.jsonl", rows)
    (tmp_path / "recipe.py").write_text(RECIPE.format(here=str(tmp_path)))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(tmp_path, whole))
    stopped = killed.with_suffix(".stopped")
    for stage in ("samples", "annotation", "groups"):
        process, end = start(tmp_path, killed, stops_in=stage), time.time() + 240
        while not stopped.exists() and process.poll() is None and time.time() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
        process.stderr.close()
        stopped.unlink()
        assert not (killed / stage / "result.json").exists()
    finish(start(tmp_path, killed))
    assert results(killed) == results(whole)
    # What was kept is not done again.
    noted = [path.with_suffix(".noted").read_text().splitlines() for path in (killed, whole)]
    assert sorted(noted[0]) == sorted(noted[1])
    assert len(noted[1]) == 2 * len(stages.QUESTIONS)
