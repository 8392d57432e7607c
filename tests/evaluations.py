"""Made-up evaluations on disk: the form of the real ones, with numbers that look like them."""

import json

import numpy as np

from hs2jax.data.record import Record
from hs2jax.evaluation.statistics import summarize

NAMES = ["helpfulness", "verbosity"]
EVIL = '<script>alert("x")</script> & </div>\n| a | `b` |'
# Texts that break pages: very long words, right to left, control characters, nothing at all.
HARD_TEXTS = [
    "https://example.org/" + "veryLongWithoutAnyBreak" * 40,
    "مرحبا، هذا نص طويل من اليمين إلى اليسار. " * 5,
    "\x00\x1b[31m null and \ud800 a lone surrogate",
    "",
    "```python\nprint('<b>not bold</b>')\n```\n| x | y |\n|---|---|",
]
SUBSETS = {
    "Chat": {"alpacaeval-easy": 100, "alpacaeval-length": 95, "mt-bench-med": 40},
    "Chat Hard": {"llmbar-natural": 100, "llmbar-adver-neighbor": 134},
    "Safety": {"refusals-dangerous": 100, "xstest-should-respond": 250},
    "Reasoning": {"math-prm": 447, "hep-python": 164},
}


def make_items(n=60, seed=0, *, rated=True, paired=True, skill=1.0):
    """Scored groups of two responses; a larger `skill` tells them apart better."""
    rng, noise = np.random.default_rng(0), np.random.default_rng(seed + 1)
    items = []
    for i in range(n):
        quality = rng.normal(size=2)
        outputs = quality[:, None] * [0.5, 0.3] * skill + 2 + 0.4 * noise.normal(size=(2, 2))
        better = int(quality[1] > quality[0])
        texts = [f"Answer {i}. " + "word " * int(k) for k in rng.integers(1, 90, 2)]
        items.append(
            {
                "source": f"val.jsonl:{i + 1}",
                "prompt": HARD_TEXTS[i] if i < len(HARD_TEXTS) else f"Question {i}?",
                "responses": texts,
                "outputs": outputs.tolist(),
                "rewards": outputs[:, 0].tolist(),
                "ratings": [
                    {name: float(np.clip(round(2 + q), 0, 4)) for name in NAMES} if rated else {}
                    for q in quality
                ],
                "pairs": [[better, 1 - better, float(i % 3 + 1)]] if paired else [],
                "ties": 0,
                "tokens": [len(text) // 4 for text in texts],
                "about": {"subset": "alpacaeval-easy", "id": i},
                "cut": 0,
            }
        )
    return items


def make_part(name, items, expected, score, **more):
    half = 1 / max(2, items) ** 0.5
    interval = [max(0.0, score - half), min(1.0, score + half)] if items else None
    part = {"name": name, "items": items, "expected": expected, "complete": items == expected}
    return part | {"score": score if items else None, "interval": interval} | more


def make_benchmark(missing=(), short=()):
    """RewardBench in small: sections in `missing` have no items, those in `short` half of them."""
    rng = np.random.default_rng(3)
    sections = []
    for name, subsets in SUBSETS.items():
        parts = []
        for subset, n in subsets.items():
            here = 0 if name in missing else n // 2 if name in short else n
            score = float(rng.uniform(0.35, 0.98))
            more = {"weight": float(n), "half_credit": score if here else None, "cut": here // 40}
            more |= {"longer": 0.561 if here else None, "shorter": 0.433 if here else None}
            parts.append(make_part(subset, here, n, score, **more))
        total = [sum(part[key] for part in parts) for key in ("items", "expected")]
        score = sum((part["score"] or 0) * part["items"] for part in parts) / max(1, total[0])
        sections.append(make_part(name, *total, score, subsets=parts))
    whole = all(section["complete"] for section in sections)
    mean = float(np.mean([section["score"] or 0 for section in sections]))
    return {
        "title": "RewardBench",
        "source": "arXiv 2403.13787",
        "rule": "An item is right when chosen is strictly above rejected; sections by count.",
        "chance": 0.5,
        "sections": sections,
        "missing": [
            f"{section['name']}, {part['name']}: {part['expected'] - part['items']} of "
            f"{part['expected']} rows are absent"
            for section in sections
            for part in section["subsets"]
            if not part["complete"]
        ],
        "overall": {"score": mean, "interval": [mean - 0.02, mean + 0.02], "complete": True}
        if whole
        else None,
        "extras": [
            {
                "title": "Prior sets",
                "columns": ["set", "score"],
                "rows": [["anthropic_helpful", "61.2%"], ["shp", "58.0%"]],
                "note": "Outside the overall score.",
            }
        ],
        "published": [
            {
                "model": "Llama-3.1-70B scaled BT + ExPO",
                "source": "arXiv 2410.01257",
                "scores": {
                    "Overall": 94.1,
                    "Chat": 97.5,
                    "Chat Hard": 85.7,
                    "Safety": 95.1,
                    "Reasoning": 98.1,
                },
            },
            {
                "model": "Llama-3-70B RM w. HelpSteer",
                "source": "arXiv 2406.08673",
                "scores": {
                    "Overall": 66.1,
                    "Chat": 93.3,
                    "Chat Hard": 59.7,
                    "Safety": 56.8,
                    "Reasoning": 54.9,
                },
            },
            {"model": "No overall", "source": "arXiv 2406.08673", "scores": {"Chat": 88.5}},
        ],
    }


LENGTH = {
    "reward_pearson": 0.213,
    "reward_spearman": None,
    "margin_pearson": 0.187,
    "controlled": {
        "accuracy": 0.7231,
        "interval": [0.6612, 0.7812],
        "coefficient": 0.0312,
        "method": "The lead's effect is taken out of the margin, fitted on the other folds.",
    },
    "bands": [
        {
            "name": name,
            "pairs": pairs,
            "accuracy": accuracy,
            "interval": [accuracy - 0.1, min(1.0, accuracy + 0.09)],
            "longer": longer,
        }
        for name, pairs, accuracy, longer in (
            ("shorter by 50% or more", 14, 0.571, 0.0),
            ("shorter by 10 to 50%", 22, 0.636, 0.0),
            ("about equal", 11, 0.727, 0.455),
            ("longer by 10 to 50%", 31, 0.774, 1.0),
            ("longer by 50% or more", 1204, 0.93, 1.0),
        )
    ],
}
CALIBRATION = {
    "pairs": 250,
    "temperature": 1.37,
    "ece": 0.0431,
    "ece_chance": 0.0312,
    "brier": 0.1987,
    "loss": 0.5812,
    "bins": [
        {
            "low": 0.5 + 0.1 * i,
            "high": 0.6 + 0.1 * i,
            "pairs": 0 if i == 3 else 50,
            "predicted": None if i == 3 else 0.55 + 0.1 * i,
            "observed": None if i == 3 else 0.52 + 0.09 * i,
            "interval": None if i == 3 else [0.4 + 0.09 * i, 0.63 + 0.08 * i],
        }
        for i in range(5)
    ],
}
CALIBRATED = CALIBRATION | {
    "ece": 0.0275,
    "brier": 0.1934,
    "loss": 0.5691,
    "bins": [b | {"predicted": b["observed"]} for b in CALIBRATION["bins"]],
}
AGREEMENT = {
    "helpfulness": {
        "kappa": 0.4127,
        "interval": [0.3312, 0.4934],
        "note": None,
        "levels": [0, 1, 2, 3, 4],
        "confusion": [
            [4, 3, 1, 0, 0],
            [2, 9, 5, 1, 0],
            [0, 6, 31, 12, 2],
            [0, 1, 14, 1040, 9],
            [0, 0, 3, 12, 21],
        ],
        "outside": 7,
    },
    "verbosity": {
        "kappa": None,
        "interval": None,
        "note": None,
        "levels": [0, 1, 2],
        "confusion": [[0, 0, 0], [0, 9, 0], [0, 0, 0]],
        "outside": 0,
    },
}
SEARCH = {
    "weights": {"helpfulness": 0.712, "verbosity": -0.288},
    "accuracy": 0.741,
    "held_out": 0.7183,
    "held_out_interval": [0.66, 0.771],
    "uniform": 0.694,
    "gain": 0.0243,
    "gain_interval": [-0.011, 0.058],
    "pairs": 250,
    "single": {"name": "helpfulness", "held_out": 0.7021},
    "folds": 5,
    "method": "Dirichlet samples, then refinement.",
    "data": "hh_rlhf:val.jsonl",
    "warning": "12 prompts of it are also in reward_bench.",
}


def make_set(name="reward_bench", *, items=None, benchmark=None, **changes):
    items = make_items() if items is None else items
    judged = any(item["pairs"] for item in items)
    rated = any(any(item["ratings"]) for item in items)
    return {
        "name": name,
        "data": f"{name}:data/{name}.jsonl",
        "summary": summarize(items, NAMES),
        "benchmark": benchmark,
        "length": LENGTH if judged else None,
        "calibration": CALIBRATION | {"temperature": 1.0} if judged else None,
        "calibrated": CALIBRATED if judged else None,
        "agreement": AGREEMENT if rated else None,
        "record": {**Record(rows=1234).to_dict(), "padding_fraction": 0.0432},
        "cut": 0,
        "responses": sum(len(item["responses"]) for item in items),
        **changes,
    }


def write_evaluation(folder, sets, items, **changes):
    """Writes `evaluation.json` and the items of each set (a list for each name, or one for all)."""
    evaluation = {
        "model": {
            "name": "runs/quickstart/preference/model",
            "outputs": NAMES,
            "weights": {"helpfulness": 1.0, "verbosity": -0.25},
            "template": "own",
            "read": "last",
            "dtype": "float32",
            "checksum": "9f86d081884c7d65",
        },
        "max_tokens": 2048,
        "environment": {"device": "cpu", "jax": "0.10.2"},
        "seconds": 131.0,
        "config": {"seed": 1234, "data": {"max_tokens": 2048}},
        "temperature": {
            "value": 1.3712,
            "data": "hh_rlhf:val.jsonl",
            "pairs": 250,
            "warning": None,
        },
        "weights_search": None,
        "sets": sets,
        **changes,
    }
    (folder / "items").mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    for each in sets:
        rows = items[each["name"]] if isinstance(items, dict) else items
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "items" / f"{each['name']}.jsonl").write_text(text, encoding="utf-8")
    return evaluation


def poison(value):
    """The same with markup behind every text, and in the attributes' names."""
    if isinstance(value, str):
        return value + EVIL
    if isinstance(value, dict):
        return {key + EVIL * (key in NAMES): poison(each) for key, each in value.items()}
    return [poison(each) for each in value] if isinstance(value, list) else value
