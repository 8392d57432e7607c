"""Which data sets there are, where their files come from and how many rows were published."""

import re
from typing import NamedTuple

PREFIX = "tfds:"


class Source(NamedTuple):
    """The files of one config.

    Attributes:
        format: the rows' format, a key of `corpora.FORMATS`.
        files: the file of each split, as it is named on the hub; two splits may share one.
        rows: the published number of rows of each split.
    """

    format: str
    files: dict[str, str]
    rows: dict[str, int]


class Dataset(NamedTuple):
    """A repository of the hub, at one revision, and its configs, the default one first.

    A data set without configs has one that is named "".
    """

    repository: str
    revision: str
    configs: dict[str, Source]


DATASETS = {
    "helpsteer": Dataset(
        repository="nvidia/HelpSteer",
        revision="3ca5d59c1bc1080af195b4254e7407db60b6f450",
        configs={
            "": Source(
                format="helpsteer",
                files={"train": "train.jsonl.gz", "validation": "validation.jsonl.gz"},
                rows={"train": 35_331, "validation": 1_789},
            )
        },
    ),
    "helpsteer2": Dataset(
        repository="nvidia/HelpSteer2",
        revision="990b2711a36180dd19d9c94b8627844866f8982a",
        configs={
            "ratings": Source(
                format="helpsteer2",
                files={"train": "train.jsonl.gz", "validation": "validation.jsonl.gz"},
                rows={"train": 20_324, "validation": 1_038},
            ),
            "preference": Source(
                format="helpsteer2_preference",
                files=dict.fromkeys(("train", "validation"), "preference/preference.jsonl.gz"),
                rows={"train": 8_677, "validation": 448},
            ),
            "disagreements": Source(
                format="helpsteer2_disagreements",
                files={"train": "disagreements/disagreements.jsonl.gz"},
                rows={"train": 23_652},
            ),
        },
    ),
    "helpsteer3": Dataset(
        repository="nvidia/HelpSteer3",
        revision="f6d145777bcbde96137596340fab89793acd1031",
        configs={
            "preference": Source(
                format="helpsteer3",
                files={
                    "train": "preference/train.jsonl.gz",
                    "validation": "preference/validation.jsonl.gz",
                },
                rows={"train": 38_459, "validation": 2_017},
            )
        },
    ),
    "reward_bench": Dataset(
        repository="allenai/reward-bench",
        revision="168d848cdbbea9764fae4a544dc9ca1e6cca4931",
        configs={
            "": Source(
                format="reward_bench",
                files={"filtered": "data/filtered-00000-of-00001.parquet"},
                rows={"filtered": 2_985},
            )
        },
    ),
    "reward_bench_2": Dataset(
        repository="allenai/reward-bench-2",
        revision="7ff08853b0d5686e79b13fda8677024f566a104a",
        configs={
            "": Source(
                format="reward_bench_2",
                files={"test": "data/test-00000-of-00001.parquet"},
                rows={"test": 1_865},
            )
        },
    ),
    "judge_bench": Dataset(
        repository="ScalerLab/JudgeBench",
        revision="57dd5e0b9817d07f05ec8f45a91b2ce1e310e308",
        configs={
            "": Source(
                format="judge_bench",
                files={
                    "gpt": "data/gpt-00000-of-00001.jsonl",
                    "claude": "data/claude-00000-of-00001.jsonl",
                },
                rows={"gpt": 350, "claude": 270},
            )
        },
    ),
}


def find(name: str) -> tuple[str, str, Source]:
    """Data set, config and files of "NAME" or "NAME/CONFIG". Raises ValueError for unknown ones."""
    dataset, _, config = name.partition("/")
    if dataset not in DATASETS:
        known = ", ".join(DATASETS)
        raise ValueError(f"there is no data set '{dataset}' in '{name}', expected one of: {known}")
    configs = DATASETS[dataset].configs
    if not config:
        config = next(iter(configs))
    if config not in configs:
        known = ", ".join(filter(None, configs)) or "none"
        raise ValueError(f"'{dataset}' has no config '{config}'; it has: {known}")
    return dataset, config, configs[config]


def full_name(dataset: str, config: str) -> str:
    """ "NAME/CONFIG", or "NAME" where there are no configs."""
    return f"{dataset}/{config}" if config else dataset


def parse_path(path: str) -> tuple[str, str, str]:
    """Data set, config and split of "tfds:NAME/CONFIG[SPLIT]"."""
    name, split = re.fullmatch(rf"{PREFIX}(.+)\[(\w+)\]", path).groups()
    dataset, config, _ = find(name)
    return dataset, config, split


def module(dataset: str) -> str:
    """The module that holds the `Builder` of a data set."""
    return f"{__package__}.{dataset}.{dataset}_dataset_builder"
