"""Made-up policies that follow a request as closely as they are told to, and pages of them."""

import numpy as np

from hs2jax import configs, workdir
from hs2jax.alignment import steering

BASE = {"helpfulness": 4, "verbosity": 2, "complexity": 2}
ATTRIBUTES = ("verbosity", "complexity")
VALUES = (0, 1, 2, 3, 4)


def rows(
    seed: int,
    *,
    prompts: int = 12,
    n: int = 2,
    follows: float = 0.0,
    shared: float = 0.5,
    noise: float = 0.5,
    by_length: float = 0.0,
    values=VALUES,
    text: str = "word ",
) -> list[dict]:
    """Rows of a policy whose verbosity rises by `follows` for each unit requested.

    shared, noise: deviations of what samples of a prompt have in common, and of each. by_length:
    how much of the log-length is the measured verbosity; the rest of it follows nothing.
    """
    rng = np.random.default_rng(seed)
    settings = [BASE | {name: value} for name in ATTRIBUTES for value in values]
    settings = [each for i, each in enumerate(settings) if each not in settings[:i]]
    found = []
    for p in range(prompts):
        own = shared * rng.normal()
        for condition in settings:
            verbosity = 1.5 + follows * (condition["verbosity"] - 2) + own
            verbosity = verbosity + noise * rng.normal(size=n)
            length = 4 + by_length * verbosity + (1 - by_length) * 0.3 * rng.normal(size=n)
            texts = [(text * 200)[: max(1, round(np.exp(each)))] for each in length]
            found.append(
                {
                    "source": f"prompts.jsonl:{p + 1}",
                    "prompt": [{"role": "user", "content": f"Question {p}?"}],
                    "condition": condition,
                    "responses": texts,
                    "finished": [bool(each) for each in rng.random(n) < 0.9],
                    "tokens": [max(1, len(each) // 4) for each in texts],
                    "measured": [
                        {"helpfulness": 2 + 0.5 * float(rng.normal()), "verbosity": float(each)}
                        | {"complexity": 1 + own + 0.3 * float(rng.normal())}
                        for each in verbosity
                    ],
                    "rewards": [float(x) for x in rng.normal(size=n)],
                    "log_ratio": [float(x) for x in 3 + rng.normal(size=n)],
                }
            )
    return found


def results(policies: dict[str, list[dict]], **changes) -> list[dict]:
    """The rows of a run of these policies."""
    return steering.results(config(**changes), policies)


def config(**changes):
    found = configs.defaults("steer")
    found.base = ",".join(f"{name}={value}" for name, value in BASE.items())
    found.attributes = ATTRIBUTES
    found.update(changes)
    return found


def write(folder, policies: dict[str, list[dict]], **changes) -> None:
    """The folder of a finished run of these policies."""
    for name, some in policies.items():
        workdir.write_rows(folder / "items" / f"{name}.jsonl", some)
    records = {f"{name}, sampled": {"rows": 12, "groups": 12} for name in policies}
    workdir.finish(folder, config(**changes), {"records": records}, results(policies, **changes))
