"""Tiny models, prompts, configs and rows, shared by the tests of stages and trainings."""

import json
from pathlib import Path

import tiny

from hs2jax import configs

ASKED = "helpfulness=4,verbosity=1"
OUTPUTS = ("verbosity", "reward", "helpfulness")  # Not in NeMo's order.
QUESTIONS = ("What is bread?", "Is the sea far?", "Who are you?", "How do waves move?", "Why?")


def models(folder: Path) -> None:
    """`policy` and `prior`, language models, and `ratings`, a reward model."""
    tiny.language_model(folder / "policy", seed=1)
    tiny.language_model(folder / "prior", seed=2)
    weights = {"verbosity": 0.5, "helpfulness": 1.0}
    tiny.save(folder / "ratings", outputs=OUTPUTS, bias=True, weights=weights)


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pairs(path: Path, n: int) -> str:
    """Preferences that can be learned, as a data specification. The rejected ones' lengths vary."""
    rows = [
        {"prompt": f"Is {i} odd?", "chosen": str(bool(i % 2)), "rejected": "I forgot" + i % 7 * "."}
        for i in range(n)
    ]
    return f"preference:{write(path, rows)}"


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def value(rows, metric: str, part: str = "", **more) -> float:
    """The value of the one row that is meant."""
    more |= {"metric": metric, "part": part}
    (row,) = (row for row in rows if more.items() <= row.items())
    return row["value"]


def prompts(folder: Path, questions=QUESTIONS) -> str:
    """Conversations to answer, as a data specification."""
    rows = [{"prompt": question, "response": "I forgot."} for question in questions]
    return f"responses:{write(folder / 'prompts.jsonl', rows)}"


def sampling(folder: Path, **changes):
    config = configs.defaults("sample")
    config.model.name, config.data = str(folder / "policy"), prompts(folder)
    config.conditions, config.n, config.max_new_tokens = (ASKED,), 3, 6
    config.update(changes)
    return config


def annotation(folder: Path, data: str, /, **changes):
    config = configs.defaults("annotate")
    config.model.name, config.data = str(folder / "ratings"), data
    config.update(changes)
    return config


def rescaling(folder: Path, data: str, model: str = "ratings", /, **changes):
    config = configs.defaults("rescale")
    config.model.name, config.data = str(folder / model), data
    config.ratings = "helpsteer2:mini/train.jsonl[10:40]"
    config.update(changes)
    return config


def weighing(folder: Path, data: str, /, **changes):
    config = configs.defaults("weigh")
    config.data, config.unfinished = data, "keep"
    config.reward_model, config.prior = str(folder / "ratings"), str(folder / "prior")
    config.update(changes)
    return config


def steering(folder: Path, **changes):
    config = configs.defaults("steer")
    config.policies = f"before={folder / 'prior'},after={folder / 'policy'}"
    config.reward_model, config.reference = str(folder / "ratings"), str(folder / "prior")
    config.data = prompts(folder)
    config.attributes, config.requested = ("verbosity",), (0, 4)
    config.base = "helpfulness=4,verbosity=0"
    config.n, config.max_new_tokens = 2, 6
    config.update(changes)
    return config
