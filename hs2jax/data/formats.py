"""The formats in which data is published: how their rows become groups.

A format says of each part of a Group in which columns it stands, or is a function of the whole row
where these depend on one another (`whole_rows`). Fields that a format does not know
are ignored.

Of a pair, the better response has a strength of 1 where the data does not say how much better it
is. Where several responses are right or wrong, each is rated {"correct": 1.0} or {"correct": 0.0},
the right ones first. What says where a row belongs in its benchmark is in the group's `about`.

HelpSteer (arXiv 2311.09528), HelpSteer2 (2406.08673), HelpSteer2-Preference (2410.01257),
HelpSteer3 (2505.11475), HH-RLHF (2204.05862), RewardBench (2403.13787) and its prior sets,
RewardBench 2 (2506.01937), RM-Bench (2410.16184), JudgeBench (2410.12784), LLMBar (2310.07641),
PandaLM's human votes (2306.05087), SummEval (2007.12626), BIGGen-Bench (2406.05761), and general
ones.
"""

import dataclasses
import re
from collections.abc import Callable

from hs2jax.data import rows, whole_rows
from hs2jax.data.groups import FieldError, Group, check_integer, show

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
SUMMEVAL = ("coherence", "consistency", "fluency", "relevance")
SUMMARIZE = "Summarize this article in a few sentences.\n\n"
JUDGE_BENCH_SOURCES = {  # The category of a source, by how its name starts.
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}


@dataclasses.dataclass(frozen=True)
class Format:
    """The way from the rows of a file to groups.

    Attributes:
        parts: for parts of a Group, a function and the columns that it reads them from, with what
            else it needs to know of them; or a function of the whole row.
        rows: how many rows, which follow one another, are one group; None: all rows of the file
            with the same prompt.
        of_path: fields that the published file's name says for all its rows, which lack them.
        benchmark: all its files are one set, scored by a published rule.
    """

    parts: dict[str, tuple] | Callable[[dict], Group]
    rows: int | None = 1
    of_path: Callable[[str], dict] = lambda path: {}
    benchmark: bool = False

    def group(self, row: dict) -> Group:
        """The group of one row, a decoded JSON object. Raises FieldError."""
        if callable(self.parts):
            return self.parts(row)
        return Group(**{part: of(row, *columns) for part, (of, *columns) in self.parts.items()})


def judge_bench_about(row: dict) -> dict:
    """The category of a row, its id, and as `writer` the model of both responses, where known."""
    source = rows.text(row, "source")
    found = [to for start, to in JUDGE_BENCH_SOURCES.items() if source.startswith(start)]
    if not found:
        known = ", ".join(JUDGE_BENCH_SOURCES)
        what = f"expected a name that starts with one of {known}, found {show(source)}"
        raise FieldError("source", what, "unknown source")
    writer = {"writer": rows.text(row, "response_model")} if row.get("response_model") else {}
    return {"subset": found[0], **rows.benchmark_place(row, "pair_id"), **writer}


def llmbar_file(path: str) -> dict:
    """The subset that a file holds: "natural", "adversarial-GPTInst", "mt-bench", ...

    The published path is Dataset/LLMBar/Adversarial/GPTInst/dataset.json; copies of it put the
    folders into the file's name, joined with two underscores.
    """
    stem = re.sub(r"\.(parquet|jsonl?)(\.gz)?$", "", path.replace("__", "/"))
    *folders, name = stem.removesuffix("/dataset").split("/")
    adversarial = folders[-1:] == ["Adversarial"]
    return {"subset": f"adversarial-{name}" if adversarial else name.lower()}


HELPSTEER = {
    "prompt": (rows.marked_turns, "prompt"),
    "responses": (rows.response_columns, "response"),
}
RATINGS = {"ratings": (rows.rating_columns, ATTRIBUTES, 0, 4, check_integer)}
DISAGREEMENTS = {"ratings": (rows.rating_columns, ATTRIBUTES, 0, 4, rows.check_mean)}

FORMATS = {
    "helpsteer": Format(HELPSTEER | RATINGS, rows=None),
    "helpsteer2": Format(HELPSTEER | RATINGS, rows=2),
    # Its rows are not said to be in pairs.
    "helpsteer2_disagreements": Format(HELPSTEER | DISAGREEMENTS, rows=None),
    "helpsteer2_preference": Format(
        {
            "prompt": (rows.marked_turns, "prompt"),
            "responses": (rows.response_columns, "response_1", "response_2"),
            "strength": (rows.strength, "preference_strength"),
        }
    ),
    "helpsteer3": Format(
        {
            "prompt": (rows.conversation, "context"),
            "responses": (rows.response_columns, "response1", "response2"),
            "strength": (rows.strength, "overall_preference"),
        }
    ),
    "hh_rlhf": Format(whole_rows.hh_rlhf),
    "biggen": Format(whole_rows.biggen),
    "conversations": Format(whole_rows.conversations),
    "instructions": Format(
        {
            "prompt": (rows.instruction, "instruction", "input"),
            "responses": (rows.response_or_list, "output", "response"),
        }
    ),
    "judge_bench": Format(
        {
            "prompt": (rows.conversation, "question"),
            "responses": (rows.response_columns, "response_A", "response_B"),
            "strength": (rows.winner, "label", "A>B", "B>A"),
            "about": (judge_bench_about,),
        },
        benchmark=True,
    ),
    "llmbar": Format(
        {
            "prompt": (rows.conversation, "input"),
            "responses": (rows.response_columns, "output_1", "output_2"),
            "strength": (rows.winner, "label", 1, 2),
            "about": (rows.benchmark_place, "id", "subset"),
        },
        of_path=llmbar_file,
        benchmark=True,
    ),
    "pandalm": Format(
        {
            "prompt": (rows.instruction, "instruction", "input"),
            "responses": (rows.response_columns, "response1", "response2"),
            "strength": (rows.majority, "annotator1", "annotator2", "annotator3"),
            "about": (rows.benchmark_place, "idx", "cmp_key"),
        }
    ),
    "preference": Format(whole_rows.preference),
    "ratings": Format(
        {
            "prompt": (rows.conversation, "prompt"),
            "responses": (rows.response_or_list, "responses", "response"),
            "ratings": (rows.rating_objects, "ratings"),
            "strength": (rows.number, "strength", -3, 3),
        }
    ),
    "responses": Format(whole_rows.responses),
    "reward_bench": Format(
        whole_rows.reward_bench, of_path=whole_rows.reward_bench_file, benchmark=True
    ),
    "reward_bench_2": Format(
        {
            "prompt": (rows.conversation, "prompt"),
            "responses": (rows.right_then_wrong, "chosen", "rejected"),
            "ratings": (rows.right_or_wrong, "chosen", "rejected"),
            "about": (whole_rows.reward_bench_2_place,),
        },
        benchmark=True,
    ),
    # In each list: concise, detailed as plain text, detailed in Markdown.
    "rm_bench": Format(
        {
            "prompt": (rows.conversation, "prompt"),
            "responses": (rows.right_then_wrong, "chosen", "rejected", 3),
            "ratings": (rows.right_or_wrong, "chosen", "rejected"),
            "about": (rows.benchmark_place, "id", "domain", "domain"),
        },
        of_path=whole_rows.rm_bench_file,
        benchmark=True,
    ),
    "sampled": Format(whole_rows.sampled),
    "summeval": Format(
        {
            "prompt": (rows.instruction, "article", "", SUMMARIZE),
            "responses": (rows.response_columns, "summary"),
            "ratings": (rows.rating_columns, SUMMEVAL, 1, 5),
            "about": (rows.benchmark_place, "article_id"),
        },
        rows=None,
    ),
}
