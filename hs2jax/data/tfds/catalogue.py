"""The data sets that there are as TFDS builders: their files, columns and published sizes.

Nothing here imports TFDS, so that a data spec is understood at once.
"""

from typing import NamedTuple

PREFIX = "tfds:"


class Source(NamedTuple):
    """A data set, or one config of it."""

    format: str  # Of its rows, a key of `formats.FORMATS`.
    # Of each split the file, as it is named on the hub, and its published number of rows; two
    # splits may share a file, whose rows then name theirs in the field `split`.
    files: dict[str, tuple[str, int]]
    columns: dict[str, str]  # Names of fields by their kind, a key of `building.FEATURES`.


CC_BY, ODC_BY = "CC-BY-4.0", "ODC-BY-1.0"
REPOSITORIES = {  # Of each data set that of the hub, its revision, and its licence.
    "helpsteer": ("nvidia/HelpSteer", "3ca5d59c1bc1080af195b4254e7407db60b6f450", CC_BY),
    "helpsteer2": ("nvidia/HelpSteer2", "990b2711a36180dd19d9c94b8627844866f8982a", CC_BY),
    "helpsteer3": ("nvidia/HelpSteer3", "f6d145777bcbde96137596340fab89793acd1031", CC_BY),
    "reward_bench": ("allenai/reward-bench", "168d848cdbbea9764fae4a544dc9ca1e6cca4931", ODC_BY),
    "reward_bench_2": (
        "allenai/reward-bench-2",
        "7ff08853b0d5686e79b13fda8677024f566a104a",
        ODC_BY,
    ),
    "judge_bench": ("ScalerLab/JudgeBench", "57dd5e0b9817d07f05ec8f45a91b2ce1e310e308", "MIT"),
}

RESPONSE = {"text": "prompt response"}
FIVE = "helpfulness correctness coherence complexity verbosity"
TRAIN, VALIDATION = "train.jsonl.gz", "validation.jsonl.gz"
PREFERENCE = "preference/preference.jsonl.gz"

# By NAME or NAME/CONFIG; of the configs of a data set the default one is the first.
SOURCES = {
    "helpsteer": Source(
        "helpsteer",
        {"train": (TRAIN, 35_331), "validation": (VALIDATION, 1_789)},
        RESPONSE | {"integer": FIVE},
    ),
    "helpsteer2/ratings": Source(
        "helpsteer2",
        {"train": (TRAIN, 20_324), "validation": (VALIDATION, 1_038)},
        RESPONSE | {"integer": FIVE},
    ),
    "helpsteer2/preference": Source(
        "helpsteer2_preference",
        {"train": (PREFERENCE, 8_677), "validation": (PREFERENCE, 448)},
        {
            "text": "split prompt response_1 response_2",
            "integer": "preference_strength",
            "note": "preference_statement preference_elaboration",
            "json": "three_most_similar_preferences all_preferences_unprocessed",
        },
    ),
    "helpsteer2/disagreements": Source(
        "helpsteer2_disagreements",
        {"train": ("disagreements/disagreements.jsonl.gz", 23_652)},
        RESPONSE | {"integers": FIVE},
    ),
    "helpsteer3/preference": Source(
        "helpsteer3",
        {
            "train": ("preference/" + TRAIN, 38_459),
            "validation": ("preference/" + VALIDATION, 2_017),
        },
        {
            "text": "domain language response1 response2",
            "turns": "context",
            "integer": "overall_preference",
            "json": "individual_preference",
        },
    ),
    "reward_bench": Source(
        "reward_bench",
        {"filtered": ("data/filtered-00000-of-00001.parquet", 2_985)},
        {"text": "prompt chosen chosen_model rejected rejected_model subset", "integer": "id"},
    ),
    "reward_bench_2": Source(
        "reward_bench_2",
        {"test": ("data/test-00000-of-00001.parquet", 1_865)},
        {
            "text": "id prompt subset",
            "texts": "chosen rejected models",
            "integer": "num_correct num_incorrect total_completions",
            "json": "additional_metadata",
        },
    ),
    "judge_bench": Source(
        "judge_bench",
        {
            "gpt": ("data/gpt-00000-of-00001.jsonl", 350),
            "claude": ("data/claude-00000-of-00001.jsonl", 270),
        },
        {
            "text": "pair_id source question response_model response_A response_B label",
            "note": "original_id",
        },
    ),
}


def find(name: str) -> tuple[str, Source]:
    """The full name and the source of "NAME" or "NAME/CONFIG". Raises ValueError."""
    for full_name, source in SOURCES.items():
        if name in (full_name, full_name.split("/")[0]):
            return full_name, source
    raise ValueError(f"there is no data set '{name}', expected one of: {', '.join(SOURCES)}")
