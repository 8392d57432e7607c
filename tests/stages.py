"""Tiny models, prompts, configs and rows, shared by the tests of stages and trainings."""

import contextlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from hs2jax import configs
from hs2jax.models.sharding import path_name

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
    """Read JSON lines as strict readers do, which know no NaN."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=lambda name: {}[name]) for line in lines]


def pairs(path: Path, n: int) -> str:
    """Preferences that can be learned, as a data specification. The rejected ones' lengths vary."""
    rows = [
        {"prompt": f"Is {i} odd?", "chosen": str(bool(i % 2)), "rejected": "I forgot" + i % 7 * "."}
        for i in range(n)
    ]
    return f"preference:{write(path, rows)}"


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def changed(before, after) -> set[str]:
    """Names of the parameters that differ. An export may have one more embedding, for padding."""
    pairs = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return {path_name(path) for (path, x), y in pairs if not np.array_equal(x, y[: len(x)])}


def value(rows, metric: str, part: str = "", **more) -> float:
    """The value of the one row that is meant."""
    more |= {"metric": metric, "part": part}
    (row,) = (row for row in rows if more.items() <= row.items())
    return row["value"]


def prompts(folder: Path, questions=QUESTIONS) -> str:
    """Conversations to answer, as a data specification."""
    rows = [{"prompt": question, "response": "I forgot."} for question in questions]
    return f"responses:{write(folder / 'prompts.jsonl', rows)}"


def made(kind: str, changes: dict, **settings):
    config = configs.defaults(kind)
    config.update(settings)
    config.update(changes)
    return config


def sampling(folder: Path, **changes):
    settings = {"model": {"name": str(folder / "policy")}, "data": prompts(folder)}
    settings |= {"conditions": (ASKED,), "n": 3, "max_new_tokens": 6}
    return made("sample", changes, **settings)


def annotation(folder: Path, data: str, /, **changes):
    return made("annotate", changes, data=data, model={"name": str(folder / "ratings")})


def rescaling(folder: Path, data: str, model: str = "ratings", /, **changes):
    settings = {"model": {"name": str(folder / model)}, "data": data}
    return made("rescale", changes, **settings, ratings="helpsteer2:mini/train.jsonl[10:40]")


def weighing(folder: Path, data: str, /, **changes):
    models = {"reward_model": str(folder / "ratings"), "prior": str(folder / "prior")}
    return made("weigh", changes, data=data, unfinished="keep", **models)


def steering(folder: Path, **changes):
    before, after = folder / "prior", folder / "policy"
    settings = {"policies": f"before={before},after={after}", "data": prompts(folder)}
    settings |= {"reward_model": str(folder / "ratings"), "reference": str(before)}
    settings |= {"attributes": ("verbosity",), "requested": (0, 4)}
    settings |= {"base": "helpfulness=4,verbosity=0", "n": 2, "max_new_tokens": 6}
    return made("steer", changes, **settings)


class StoppedError(Exception):
    """As if the process had been killed here."""


@contextlib.contextmanager
def stopped(owner, name: str, after: int):
    """Stop what is done here once a function has been through `after` times."""
    keep, left = getattr(owner, name), after

    def kept(*arguments):
        nonlocal left
        found = keep(*arguments)
        left -= 1
        if not left:
            raise StoppedError
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, kept)
        with pytest.raises(StoppedError):
            yield
