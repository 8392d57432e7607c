"""Made-up evaluations of a judge on disk: simulated scores, measured as real ones are."""

import json

import numpy as np
from evaluations import HARD_TEXTS

from hs2jax.evaluation import correlation
from hs2jax.judging import score_distribution
from hs2jax.judging.lager import AGGREGATIONS, WEIGHTED

CRITERIA = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
SCALE = [1, 2, 3, 4, 5]
BASELINES = ["gpt_score", "ridge_probe", "reward_model"]
OFF_SCALE = {"gpt_score", "reward_model"}
LAYERS = 30
# How much of people's judgement is in each method's scores.
SKILL = {"lager_w": 0.5, "lager_wo": 0.3, "e_score": 0.25, "ridge_probe": 0.6, "gpt_score": 0.02}


def make_items(prompts=40, *, criteria=CRITERIA, methods=None, rated=True, seed=0):
    """Two responses per prompt, each judged by all criteria."""
    rng, items = np.random.default_rng(seed), []
    methods = [*AGGREGATIONS, *BASELINES] if methods is None else methods
    for i in range(prompts):
        for r in range(2):
            quality = rng.normal()
            response = f"Answer {i}, {r}. " + "word " * int(rng.integers(1, 90))
            for c, criterion in enumerate(criteria):
                human = float(np.clip(round(3.5 - 0.3 * c + quality + 0.4 * rng.normal()), 1, 5))
                scores = {}
                for name in methods:
                    skill = SKILL.get(name, 0.2)
                    score = 3.2 + 0.5 * (skill * quality + (1 - skill) * rng.normal())
                    whole = name == "direct" or name.endswith("max")
                    scores[name] = float(np.clip(round(score) if whole else score, 1, 5))
                    if name in OFF_SCALE:
                        scores[name] = score - 6
                items.append(
                    {
                        "source": f"val.jsonl:{i + 1}",
                        "criterion": criterion,
                        "prompt": HARD_TEXTS[i] if i < len(HARD_TEXTS) else f"Question {i}?",
                        "response": HARD_TEXTS[-i] if 0 < i < len(HARD_TEXTS) else response,
                        "human": human if rated else None,
                        "scores": scores,
                        "distribution": [0.1, 0.2, 0.4, 0.2, 0.1],
                    }
                )
    return items


def make_criterion(name, items):
    """What judge.json says of items of one criterion, or of all."""
    methods = list(items[0]["scores"]) if items else []
    rated = bool(items) and items[0]["human"] is not None
    human = np.array([item["human"] for item in items], float)
    clusters = [item["source"] for item in items]
    of, columns = {}, {}
    for method in methods:
        columns[method] = values = np.array([item["scores"][method] for item in items], float)
        of[method] = {"mean": float(np.nanmean(values)), "sd": float(np.nanstd(values))}
        of[method] |= {"kl": None, "mse": None}
        if rated:
            found = correlation.correlations(human, values, clusters)
            of[method] |= {key: value for key, value in found.items() if key != "note"}
            if method not in OFF_SCALE:
                there = ~np.isnan(values)
                of[method] |= score_distribution.distances(human[there], values[there], 1, 5)
    pairs = [(a, b) for a in ("lager_w", "lager_wo") for b in ("e_score", "direct")]
    pairs = [(a, b) for a, b in pairs if rated and a in columns and b in columns]
    bump = [0.45 * np.exp(-(((layer - 22) / 6) ** 2)) for layer in range(LAYERS + 1)]
    return {
        "name": name,
        "scale": SCALE,
        "n": len(items),
        "human": {
            "mean": float(human.mean()),
            "sd": float(human.std()),
            "counts": [int((human == value).sum()) for value in SCALE],
        }
        if rated
        else None,
        "scores": of,
        "tests": [
            {"a": a, "b": b, **correlation.paired(human, columns[a], columns[b], clusters)}
            for a, b in pairs
        ],
        "by_layer": {
            "none": [None, *(0.8 * value - 0.06 for value in bump[1:-1]), 0.231],
            "final": [0.012, *bump[1:-1], 0.231],
        }
        if rated
        else None,
        "presets": {
            preset: {m: of[m]["spearman"] for m in ("lager_w", "lager_wo") if m in of}
            for preset in ("paper", "repository", "recommended")
        }
        if rated
        else {},
    }


def make_set(name="helpsteer", *, items=None, **changes):
    items = make_items() if items is None else items
    names = list(dict.fromkeys(item["criterion"] for item in items))
    criteria = [
        make_criterion(name, [item for item in items if item["criterion"] == name])
        for name in names
    ]
    criteria += [make_criterion("all", items)] if items else []
    tuned = bool(items) and any(name in items[0]["scores"] for name in WEIGHTED)
    folds = np.random.default_rng(1).dirichlet(np.linspace(0.2, 3, LAYERS + 1), size=5)
    return {
        "name": name,
        "data": f"{name}:data/{name}.jsonl",
        "items": len(items),
        "left_out": {"too long": 3, "no rating": 0},
        "criteria": criteria,
        "weights": {"mean": folds.mean(axis=0).tolist(), "folds": folds.tolist()}
        if tuned
        else None,
        **changes,
    }


def write_judgement(folder, sets, items, **changes):
    """Writes `judge.json` and the items of each set (a list for each name, or one for all)."""
    judgement = {
        "model": {
            "name": "models/SmolLM2-135M-Instruct",
            "checksum": "9f86d081884c7d65",
            "layers": LAYERS,
            "dtype": "float32",
        },
        "template": "pointwise",
        "preset": "recommended",
        "weights_from": "cross-validation",
        "sets": sets,
        "environment": {"device": "cpu", "jax": "0.10.2"},
        "seconds": 131.0,
        "config": {"seed": 1234, "data": {"max_tokens": 2048}},
        **changes,
    }
    (folder / "items").mkdir(parents=True, exist_ok=True)
    (folder / "judge.json").write_text(json.dumps(judgement, allow_nan=False), encoding="utf-8")
    for each in sets:
        rows = items[each["name"]] if isinstance(items, dict) else items
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "items" / f"{each['name']}.jsonl").write_text(text, encoding="utf-8")
    return judgement
