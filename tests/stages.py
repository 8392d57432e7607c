"""What the tests of alignment's stages share: tiny models, prompts, configs and commands."""

import json
from pathlib import Path

import tiny

from hs2jax.alignment import settings

ASKED = "helpfulness=4,verbosity=1"
OUTPUTS = ("verbosity", "reward", "helpfulness")  # Not in NeMo's order.
QUESTIONS = ("What is bread?", "Is the sea far?", "Who are you?", "How do waves move?", "Why?")


def models(folder: Path) -> None:
    """`policy` and `prior`, language models, and `ratings`, a reward model."""
    tiny.language_model(folder / "policy", seed=1)
    tiny.language_model(folder / "prior", seed=2)
    tiny.save(folder / "ratings", outputs=OUTPUTS, bias=True)


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prompts(folder: Path) -> str:
    """Conversations to answer, as a data specification."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": "I forgot."},
            ]
        }
        for question in QUESTIONS
    ]
    return f"conversations:{write(folder / 'prompts.jsonl', rows)}"


def sampling(folder: Path, **changes):
    config = settings.sample()
    config.model.name = str(folder / "policy")
    config.data = prompts(folder)
    config.conditions = (ASKED,)
    config.n = 3
    config.max_new_tokens = 6
    config.update(changes)
    return config


def annotation(folder: Path, data: str, /, **changes):
    config = settings.annotate()
    config.model.name = str(folder / "ratings")
    config.data = data
    config.update(changes)
    return config


def weighing(folder: Path, data: str, /, **changes):
    config = settings.weigh()
    config.data = data
    config.reward_model = str(folder / "ratings")
    config.prior = str(folder / "prior")
    config.unfinished = "keep"
    config.update(changes)
    return config
