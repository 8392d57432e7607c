"""The data sets that there are as TFDS builders: their files, their columns, their published sizes.

Nothing here imports TFDS, so that a data spec is understood at once.
"""

import importlib
from typing import NamedTuple

PREFIX = "tfds:"


class Source(NamedTuple):
    """One config of a data set.

    Attributes:
        format: the rows' format, a key of `formats.FORMATS`.
        files: of each split the file, as it is named on the hub, and its published number of rows;
            two splits may share a file, whose rows then name theirs in the field `split`.
        columns: names of fields by their kind, a key of `building.FEATURES`.
        about: a sentence.
    """

    format: str
    files: dict[str, tuple[str, int]]
    columns: dict[str, str]
    about: str = ""


class Dataset(NamedTuple):
    """A repository of the hub at one revision, and its configs, the default one first; a data set
    without configs has one that is named ""."""

    repository: str
    revision: str
    license: str
    configs: dict[str, Source]


RESPONSE = {"text": "prompt response"}
FIVE = "helpfulness correctness coherence complexity verbosity"
TRAIN, VALIDATION = "train.jsonl.gz", "validation.jsonl.gz"

DATASETS = {
    "helpsteer": Dataset(
        repository="nvidia/HelpSteer",
        revision="3ca5d59c1bc1080af195b4254e7407db60b6f450",
        license="CC-BY-4.0",
        configs={
            "": Source(
                "helpsteer",
                {"train": (TRAIN, 35_331), "validation": (VALIDATION, 1_789)},
                RESPONSE | {"integer": FIVE},
            )
        },
    ),
    "helpsteer2": Dataset(
        repository="nvidia/HelpSteer2",
        revision="990b2711a36180dd19d9c94b8627844866f8982a",
        license="CC-BY-4.0",
        configs={
            "ratings": Source(
                "helpsteer2",
                {"train": (TRAIN, 20_324), "validation": (VALIDATION, 1_038)},
                RESPONSE | {"integer": FIVE},
                "Five ratings of each response; rows 2i and 2i+1 share a prompt.",
            ),
            "preference": Source(
                "helpsteer2_preference",
                {
                    "train": ("preference/preference.jsonl.gz", 8_677),
                    "validation": ("preference/preference.jsonl.gz", 448),
                },
                {
                    "text": "split prompt response_1 response_2",
                    "integer": "preference_strength",
                    "note": "preference_statement preference_elaboration",
                    "json": "three_most_similar_preferences all_preferences_unprocessed",
                },
                "Two responses and how much the second is better (HelpSteer2-Preference).",
            ),
            "disagreements": Source(
                "helpsteer2_disagreements",
                {"train": ("disagreements/disagreements.jsonl.gz", 23_652)},
                RESPONSE | {"integers": FIVE},
                "Each annotator's ratings; nothing is left out for disagreement.",
            ),
        },
    ),
    "helpsteer3": Dataset(
        repository="nvidia/HelpSteer3",
        revision="f6d145777bcbde96137596340fab89793acd1031",
        license="CC-BY-4.0",
        configs={
            "preference": Source(
                "helpsteer3",
                {
                    "train": (f"preference/{TRAIN}", 38_459),
                    "validation": (f"preference/{VALIDATION}", 2_017),
                },
                {
                    "text": "domain language response1 response2",
                    "turns": "context",
                    "integer": "overall_preference",
                    "json": "individual_preference",
                },
                "Two responses to a conversation and how much the second is better.",
            )
        },
    ),
    "reward_bench": Dataset(
        repository="allenai/reward-bench",
        revision="168d848cdbbea9764fae4a544dc9ca1e6cca4931",
        license="ODC-BY-1.0",
        configs={
            "": Source(
                "reward_bench",
                {"filtered": ("data/filtered-00000-of-00001.parquet", 2_985)},
                {
                    "text": "prompt chosen chosen_model rejected rejected_model subset",
                    "integer": "id",
                },
            )
        },
    ),
    "reward_bench_2": Dataset(
        repository="allenai/reward-bench-2",
        revision="7ff08853b0d5686e79b13fda8677024f566a104a",
        license="ODC-BY-1.0",
        configs={
            "": Source(
                "reward_bench_2",
                {"test": ("data/test-00000-of-00001.parquet", 1_865)},
                {
                    "text": "id prompt subset",
                    "texts": "chosen rejected models",
                    "integer": "num_correct num_incorrect total_completions",
                    "json": "additional_metadata",
                },
            )
        },
    ),
    "judge_bench": Dataset(
        repository="ScalerLab/JudgeBench",
        revision="57dd5e0b9817d07f05ec8f45a91b2ce1e310e308",
        license="MIT",
        configs={
            "": Source(
                "judge_bench",
                {
                    "gpt": ("data/gpt-00000-of-00001.jsonl", 350),
                    "claude": ("data/claude-00000-of-00001.jsonl", 270),
                },
                {
                    "text": "pair_id source question response_model response_A response_B label",
                    "note": "original_id",
                },
            )
        },
    ),
}


def find(name: str) -> tuple[str, Source]:
    """The full name "NAME/CONFIG" and the source of "NAME" or "NAME/CONFIG".

    Raises ValueError for one that there is not.
    """
    dataset, _, config = name.partition("/")
    if dataset not in DATASETS:
        known = ", ".join(DATASETS)
        raise ValueError(f"there is no data set '{dataset}' in '{name}', expected one of: {known}")
    configs = DATASETS[dataset].configs
    config = config or next(iter(configs))
    if config not in configs:
        known = ", ".join(filter(None, configs)) or "none"
        raise ValueError(f"'{dataset}' has no config '{config}'; it has: {known}")
    return full_name(dataset, config), configs[config]


def full_name(dataset: str, config: str) -> str:
    """ "NAME/CONFIG", or "NAME" where there are no configs."""
    return f"{dataset}/{config}" if config else dataset


def builder_class(dataset: str) -> type:
    """The TFDS builder of a data set."""
    module = f"{__package__}.{dataset}.{dataset}_dataset_builder"
    return importlib.import_module(module).Builder
