"""Scores that others published, to set ours beside."""

from typing import NamedTuple

# Table 3. Until September 2024 RewardBench's code had the weights of the two xstest subsets
# exchanged (250 for should-refuse, 154 for should-respond), which moves Safety by 96/740 of the
# difference between their accuracies.
HELPSTEER2 = "arXiv 2406.08673 (Safety by the weights of its time)"
PREFERENCE = "arXiv 2410.01257"  # HelpSteer2-Preference.
REWARD_BENCH_2_PAPER = "arXiv 2506.01937"  # Table 3, reward models only.
JUDGE_BENCH_REPOSITORY = "arXiv 2410.12784 (results in its repository)"
LLMBAR_REPOSITORY = "arXiv 2310.07641 (results in its repository)"


class Published(NamedTuple):
    """A model's score, a share, in a part of a benchmark as rows name it."""

    model: str
    source: str
    part: str
    score: float


def _part(column: str) -> str:
    return {"Overall": "", "Prior sets": "apart"}.get(column, f"section/{column}")


def _rows(source: str, columns: tuple[str, ...], rows: dict[str, tuple]) -> list[Published]:
    return [
        Published(model, source, _part(column), value / 100)
        for model, values in rows.items()
        for column, value in zip(columns, values, strict=True)
        if value is not None
    ]


REWARD_BENCH = [
    *_rows(
        PREFERENCE,
        ("Overall", "Chat", "Chat Hard", "Safety", "Reasoning"),
        {
            "Llama-3.1-70B SteerLM regression": (92.4, 95.0, 85.5, 94.0, 95.1),
            "Llama-3.1-70B SteerLM regression, helpfulness only": (93.0, 97.2, 84.2, 94.6, 95.8),
            "Llama-3.1-70B BT, regular": (91.5, 97.5, 80.3, 90.5, 97.9),
            "Llama-3.1-70B BT, margin": (91.5, 98.0, 78.5, 94.6, 94.8),
            "Llama-3.1-70B BT, scaled": (92.7, 97.8, 83.5, 93.2, 96.0),
            "Llama-3.1-70B regression, then BT, regular": (92.7, 98.9, 82.9, 93.7, 95.4),
            "Llama-3.1-70B regression, then BT, margin": (93.0, 98.3, 83.8, 94.0, 95.8),
            "Llama-3.1-70B regression, then BT, scaled": (93.7, 98.0, 85.7, 94.3, 96.7),
            "Llama-3.1-70B scaled BT + ExPO": (94.1, 97.5, 85.7, 95.1, 98.1),
            "Skywork-Reward-Gemma-2-27B": (93.8, 95.8, 91.4, 91.9, 96.1),
            "TextEval-Llama3.1-70B": (93.5, 94.1, 90.1, 93.2, 96.4),
            "Skywork-Critic-Llama-3.1-70B": (93.3, 96.6, 87.9, 93.1, 95.5),
            "SFR-LLaMa-3.1-70B-Judge-r": (92.7, 96.9, 84.8, 91.6, 97.6),
            "GPT-4o-2024-08-06": (86.7, 96.1, 76.1, 88.1, 86.6),
            "Claude-3.5-Sonnet-0620": (84.2, 96.4, 74.0, 81.6, 84.7),
            "Llama-3.1-70B-Instruct as judge": (84.0, 97.2, 70.2, 82.8, 86.0),
        },
    ),
    *_rows(
        HELPSTEER2,
        ("Overall", "Chat", "Chat Hard", "Safety", "Reasoning", "Prior sets"),
        {
            "Nemotron-4-340B with HelpSteer2": (92.0, 95.8, 87.1, 91.5, 93.7, 67.4),
            "Cohere May 2024": (89.5, 96.4, 71.3, 92.7, 97.7, 78.2),
            "Gemini 1.5 Pro-0514": (88.1, 92.3, 80.6, 87.5, 92.0, None),
            "Cohere March 2024": (87.1, 94.7, 65.1, 90.3, 98.2, 74.6),
            "GPT-4-0125": (85.9, 95.3, 74.3, 87.2, 86.9, 70.9),
            "GPT-4-0409": (85.1, 95.3, 75.4, 87.1, 82.7, 73.6),
            "GPT-4o-0513": (84.7, 96.6, 70.4, 86.7, 84.9, 72.6),
            "Claude-3-Opus": (80.7, 94.7, 60.3, 89.1, 78.7, None),
            "ArmoRM-Llama3-8B": (90.8, 96.9, 76.8, 92.2, 97.3, 74.3),
            "RLHFlow-Llama3-8B": (87.1, 98.3, 65.8, 89.7, 94.7, 74.6),
            "Eurus-RM-Mistral-7B": (82.8, 98.0, 65.6, 81.2, 86.3, 71.7),
            "Starling-RM-34B": (82.7, 96.9, 57.2, 88.2, 88.5, 71.4),
            "Prometheus-2 8x7B": (75.3, 93.0, 47.1, 83.5, 77.4, None),
            "Llama-3-70B with HelpSteer2": (88.8, 91.3, 80.3, 92.8, 90.7, 66.5),
            "Llama-3-70B with Open Assistant": (79.1, 91.3, 59.2, 76.0, 89.9, 66.7),
            "Llama-3-70B-Instruct": (76.0, 97.6, 58.9, 69.2, 78.5, 70.4),
            "Llama-3-70B with HH-RLHF": (73.9, 94.4, 54.6, 81.2, 65.6, 68.8),
            "Pythia-1.4B with Open Assistant": (70.0, 88.5, 48.7, 65.3, 77.5, 65.3),
            "Llama-3-70B with HelpSteer": (66.1, 93.3, 59.7, 56.8, 54.9, 67.7),
        },
    ),
]

REWARD_BENCH_2 = _rows(
    REWARD_BENCH_2_PAPER,
    ("Overall", "Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties"),
    {
        "QRM-Gemma-2-27B": (76.7, 78.5, 37.2, 69.9, 95.8, 95.4, 83.2),
        "INF-ORM-Llama3.1-70B": (76.5, 74.1, 41.9, 69.9, 96.4, 90.3, 86.2),
        "Llama-3.1-70B-Instruct-RM-RB2": (76.1, 81.3, 41.9, 69.9, 88.4, 86.5, 88.3),
        "Skywork-Reward-Gemma-2-27B": (75.8, 73.7, 40.3, 70.5, 94.2, 93.2, 82.6),
        "URM-LLaMa-3.1-8B": (73.9, 68.8, 45.0, 63.9, 91.8, 97.6, 76.5),
        "Skywork-Reward-Llama-3.1-8B": (73.1, 69.9, 42.5, 62.8, 93.3, 96.2, 74.1),
        "Llama-3.1-8B-Instruct-RM-RB2": (72.8, 74.3, 44.4, 61.7, 89.6, 90.7, 76.4),
        "QRM-Llama3.1-8B-v2": (70.7, 66.5, 40.6, 61.2, 94.7, 89.1, 72.3),
        "GRM-Llama3-8B-rewardmodel-ft": (67.7, 62.7, 35.0, 58.5, 92.2, 89.3, 68.2),
        "ArmoRM-Llama3-8B-v0.1": (66.5, 65.7, 41.9, 66.1, 82.2, 76.6, 66.3),
    },
)

RM_BENCH = [
    *_rows(
        "arXiv 2410.16184 (README of its repository)",
        ("Overall", "Chat", "Math", "Code", "Safety"),
        {"DPSK-R1, as judge": (85.28, 84.24, 93.59, 72.66, 90.65)},
    ),
    *_rows(
        "arXiv 2410.16184 (its authors' leaderboard)",
        ("Overall", "Chat", "Math", "Code", "Safety"),
        {
            "Llama-3.3-Nemotron-70B-Reward-Multilingual": (82.4, 86.2, 82.4, 66.8, 94.1),
            "Qwen-3-Nemotron-32B-Reward": (81.9, 86.1, 76.1, 70.2, 95.2),
            "Llama-3.3-Nemotron-70B-Reward": (79.9, 75.4, 84.5, 69.3, 90.4),
            "INF-ORM-Llama3.1-70B": (70.9, 66.3, 65.6, 56.8, 94.8),
            "Llama-3.1-Nemotron-70B-Reward": (70.7, 70.7, 64.3, 57.4, 90.3),
            "Skywork-Reward-Llama-3.1-8B": (70.1, 69.5, 60.6, 54.5, 95.7),
            "Nemotron-340B-Reward": (69.5, 71.2, 59.8, 59.4, 87.5),
            "ArmoRM-Llama3-8B-v0.1": (67.7, 67.8, 57.5, 53.1, 92.4),
            "Skywork-Reward-Gemma-2-27B": (67.3, 69.5, 54.7, 53.2, 91.9),
        },
    ),
]

JUDGE_BENCH = _rows(
    JUDGE_BENCH_REPOSITORY,
    ("Overall", "Knowledge", "Reasoning", "Math", "Coding"),
    {
        "Skywork-Reward-Gemma-2-27B": (64.29, 59.74, 66.33, 83.93, 50.00),
        "InternLM2-20B-Reward": (63.43, 62.34, 69.39, 66.07, 50.00),
        "Skywork-Reward-Llama-3.1-8B": (62.29, 59.09, 64.29, 76.79, 50.00),
        "GRM-Gemma-2B": (59.43, 62.99, 53.06, 64.29, 54.76),
        "InternLM2-7B-Reward": (59.43, 56.49, 61.22, 71.43, 50.00),
    },
)

LLMBAR = _rows(
    LLMBAR_REPOSITORY,
    ("Natural", "Adversarial"),
    {
        "GPT-4, metrics and reference": (96.0, 82.8),
        "GPT-4, plain prompt": (93.5, 73.1),
        "ChatGPT, plain prompt": (79.0, 32.0),
    },
)
