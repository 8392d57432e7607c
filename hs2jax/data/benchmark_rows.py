"""From one row of each published benchmark to a Group, as `rows` does for preferences and ratings.

RewardBench (arXiv 2403.13787) with its prior preference sets, RewardBench 2 (2506.01937), RM-Bench
(2410.16184), JudgeBench (2410.12784), LLMBar (2310.07641), PandaLM's human votes (2306.05087).

A row that is about a pair becomes two responses and a strength of 1. One that has several right or
several wrong responses rates each {"correct": 1.0} or {"correct": 0.0}, the right ones first. What
says where a row belongs in its benchmark is in the group's `about`. Where only the name of the
published file says it, a function `..._file` turns that name into the field that the rows lack.
"""

import dataclasses
import re

from hs2jax.data import rows
from hs2jax.data.groups import FieldError, Group, check_label, check_text, show

PRIOR_SETS = (
    *("anthropic_harmless", "anthropic_helpful", "anthropic_hhh", "summarize", "shp"),
    *("pku_better", "pku_safer", "mtbench_human", "mtbench_gpt4"),
)
TIES_ID = re.compile(r"(ref|tied):[0-9]+")
RM_BENCH_DOMAINS = ("chat", "code", "math", "safety-refuse", "safety-response")
RM_BENCH_STYLES = 3  # Concise, detailed as plain text, detailed in Markdown: in this order.

JUDGE_BENCH_SOURCES = {  # The category of a source, by how its name starts.
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}


def reward_bench(row: dict) -> Group:
    """A prompt, the response that should win and the one that should not; strength 1.

    All are texts in RewardBench; in its prior preference sets they may be messages, as in the
    format `preference`. `subset` is needed, `id` is kept where there is one.
    """
    about = {"subset": rows.text(row, "subset"), **identity(row, "id")}
    pair = {name: value for name, value in row.items() if name != "strength"}
    return dataclasses.replace(rows.preference(pair), about=about)


def reward_bench_file(path: str) -> dict:
    """The prior preference set that a file holds, as in "shp-00000-of-00001.parquet".

    It replaces the rows' own `subset`, which says where they were before they came into the set.
    """
    sets = "|".join(PRIOR_SETS)
    match = re.search(rf"(?:^|/)({sets})(?:-\d+-of-\d+)?\.(?:parquet|jsonl?|jsonl?\.gz)$", path)
    return {"subset": match[1]} if match else {}


def reward_bench_2(row: dict) -> Group:
    """A prompt, the right responses (one, in Ties several) and the wrong ones.

    Rows of Ties come in twos, "ref:N" with one right response and "tied:N" with several.
    """
    about = {"subset": rows.text(row, "subset"), **identity(row, "id")}
    if about["subset"].lower() == "ties" and not TIES_ID.fullmatch(rows.text(row, "id")):
        what = f"expected 'ref:NUMBER' or 'tied:NUMBER' in a row of Ties, found {show(row['id'])}"
        raise FieldError("id", what, "unknown id")
    group = right_and_wrong(row, about)
    right, wrong = len(row["chosen"]), len(row["rejected"])
    counts = {"num_correct": right, "num_incorrect": wrong, "total_completions": right + wrong}
    for name, count in counts.items():
        if row.get(name) is not None and rows.integer(row, name, 0, 10**6) != count:
            what = f"is {row[name]}, but the row has {right} chosen and {wrong} rejected responses"
            raise FieldError(name, what, "wrong number of responses")
    return group


def judge_bench(row: dict) -> Group:
    """A question, two responses of one model, and which is right, "A>B" or "B>A".

    `about` has that model's name as `writer`, where the row says it.
    """
    source, label = rows.text(row, "source"), rows.present(row, "label")
    found = [to for start, to in JUDGE_BENCH_SOURCES.items() if source.startswith(start)]
    if not found:
        known = ", ".join(JUDGE_BENCH_SOURCES)
        what = f"expected a name that starts with one of {known}, found {show(source)}"
        raise FieldError("source", what, "unknown source")
    if label not in ("A>B", "B>A"):
        raise FieldError("label", f"expected 'A>B' or 'B>A', found {show(label)}", "unknown label")
    writer = {"writer": rows.text(row, "response_model")} if row.get("response_model") else {}
    return Group(
        prompt=user_turn(rows.text(row, "question")),
        responses=(rows.text(row, "response_A"), rows.text(row, "response_B")),
        strength=1.0 if label == "B>A" else -1.0,
        about={"subset": found[0], **identity(row, "pair_id"), **writer},
    )


def pandalm(row: dict) -> Group:
    """An instruction with or without an input, two responses, and three people's votes.

    A vote is 1 or 2, the number of the better response, or 0 for a tie. What two of three say
    counts, with strength 1; a tie has strength 0, and so have three different votes.
    """
    prompt = rows.text(row, "instruction")
    extra = rows.present(row, "input")
    if not isinstance(extra, str) or extra.strip():
        prompt += "\n\n" + check_text(extra, "input")
    votes = [rows.integer(row, f"annotator{i}", 0, 2) for i in (1, 2, 3)]
    return Group(
        prompt=user_turn(prompt),
        responses=(rows.text(row, "response1"), rows.text(row, "response2")),
        strength=float((votes.count(2) > 1) - (votes.count(1) > 1)),
        about={"subset": rows.text(row, "cmp_key"), **identity(row, "idx")},
    )


def llmbar(row: dict) -> Group:
    """An instruction (`input`), two outputs, and the number of the better one, 1 or 2."""
    better = rows.integer(row, "label", 1, 2)
    return Group(
        prompt=user_turn(rows.text(row, "input")),
        responses=(rows.text(row, "output_1"), rows.text(row, "output_2")),
        strength=1.0 if better == 2 else -1.0,
        about={"subset": rows.text(row, "subset")},
    )


def llmbar_file(path: str) -> dict:
    """The subset that a file holds: "natural", "adversarial-GPTInst", "mt-bench", ...

    The published path is Dataset/LLMBar/Adversarial/GPTInst/dataset.json; copies of it put the
    folders into the file's name, joined with two underscores.
    """
    stem = re.sub(r"\.(parquet|jsonl?)(\.gz)?$", "", path.replace("__", "/"))
    *folders, name = stem.removesuffix("/dataset").split("/")
    adversarial = folders[-1:] == ["Adversarial"]
    return {"subset": f"adversarial-{name}" if adversarial else name.lower()}


def rm_bench(row: dict) -> Group:
    """A prompt with three right and three wrong responses, each in the order of the styles."""
    domain = rows.present(row, "domain")
    if domain not in RM_BENCH_DOMAINS:
        what = f"expected one of {', '.join(RM_BENCH_DOMAINS)}, found {show(domain)}"
        raise FieldError("domain", what, "unknown domain")
    for name in ("chosen", "rejected"):
        if (found := len(rows.list_of(row, name))) != RM_BENCH_STYLES:
            what = f"expected {RM_BENCH_STYLES} responses, one of each style, found {found}"
            raise FieldError(name, what, "wrong number of responses")
    return right_and_wrong(row, {"domain": domain, **identity(row, "id")})


def rm_bench_file(path: str) -> dict:
    """The domain that a file holds, as in "chat_filtered.json"; the full set's rows name theirs."""
    domains = "|".join(RM_BENCH_DOMAINS)
    match = re.search(rf"(?:^|/)({domains})_filtered\.jsonl?(?:\.gz)?$", path)
    return {"domain": match[1]} if match else {}


def right_and_wrong(row: dict, about: dict) -> Group:
    """A text prompt, the right responses in the list `chosen`, the wrong ones in `rejected`."""
    right, wrong = texts(row, "chosen"), texts(row, "rejected")
    return Group(
        prompt=user_turn(rows.text(row, "prompt")),
        responses=right + wrong,
        ratings=({"correct": 1.0},) * len(right) + ({"correct": 0.0},) * len(wrong),
        about=about,
    )


def texts(row: dict, field: str) -> tuple[str, ...]:
    """A list of at least one text."""
    return tuple(check_text(t, f"{field}[{i}]") for i, t in enumerate(rows.list_of(row, field)))


def user_turn(content: str) -> tuple[dict, ...]:
    """A prompt of one turn."""
    return ({"role": "user", "content": content},)


def identity(row: dict, field: str) -> dict:
    """{"id": the field}, a text or an integer, or {} where it is absent or null."""
    return {} if row.get(field) is None else {"id": check_label(row[field], field)}
