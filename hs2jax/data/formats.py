"""The formats in which data is published: how their rows become groups.

Fields that a format does not know are ignored. Of a pair, the better response has a strength of 1
where the data does not say how much better it is. Where several responses are right or wrong, each
is rated {"correct": 1.0} or {"correct": 0.0}, the right ones first.

HelpSteer (arXiv 2311.09528), HelpSteer2 (2406.08673), HelpSteer2-Preference (2410.01257),
HelpSteer3 (2505.11475), HH-RLHF (2204.05862), RewardBench (2403.13787) and its prior sets,
RewardBench 2 (2506.01937), RM-Bench (2410.16184), JudgeBench (2410.12784), LLMBar (2310.07641),
PandaLM's human votes (2306.05087), SummEval (2007.12626), BIGGen-Bench (2406.05761), and general
ones.
"""

import dataclasses
import json
import re
from collections.abc import Callable

from hs2jax.data import rows
from hs2jax.data.groups import (
    FieldError,
    Group,
    check_integer,
    check_number,
    check_text,
    check_turns,
    mistyped,
    show,
)

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
SUMMEVAL = ("coherence", "consistency", "fluency", "relevance")
SUMMARIZE = "Summarize this article in a few sentences.\n\n"
RUBRIC = ("criteria", *(f"score{i}_description" for i in range(1, 6)))
JUDGE_BENCH_SOURCES = {  # The category of a source, by how its name starts.
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}
PRIOR_SETS = (  # RewardBench's.
    *("anthropic_harmless", "anthropic_helpful", "anthropic_hhh", "summarize", "shp"),
    *("pku_better", "pku_safer", "mtbench_human", "mtbench_gpt4"),
)
RM_BENCH_DOMAINS = ("chat", "code", "math", "safety-refuse", "safety-response")
SPEAKERS = rows.ROLES | {"human": "user", "gpt": "assistant"}  # NeMo-Aligner's and ShareGPT's.
LABEL = re.compile(r"\s*([^:,]*[^:,\s])\s*:\s*([-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?)\s*")

# Of each sampled response, log-probabilities in nats: of the attribute values that it was asked to
# have, under the model without a condition, and under the policy that sampled it.
LOGS = ("log_attribute", "log_prior", "log_proposal")
LARGEST = 0.01  # Sums of logarithms that are rounded may be a little more than 0.


@dataclasses.dataclass(frozen=True)
class Format:
    """The way from the rows of a file to groups."""

    # For parts of a Group, a function and the columns that it reads them from, with what else it
    # needs to know of them (see `columns`); or a function of the whole row.
    parts: dict[str, tuple] | Callable[[dict], Group]
    # How many rows, which follow one another, are one group; None: all with the same prompt.
    rows: int | None = 1
    # Fields that the published file's name says for all its rows, which lack them.
    of_path: Callable[[str], dict] = lambda path: {}
    benchmark: bool = False  # All its files are one set, scored by a published rule.

    def group(self, row: dict) -> Group:
        """The group of one row, a decoded JSON object. Raises FieldError."""
        if callable(self.parts):
            return self.parts(row)
        return Group(**{part: of(row, *columns) for part, (of, *columns) in self.parts.items()})


def columns(prompt: str | tuple, responses: str | tuple, **others: tuple) -> dict[str, tuple]:
    """Make `Format.parts`. A prompt that is a text names the column of a conversation, responses
    that are one name columns of a text each."""
    if isinstance(prompt, str):
        prompt = (rows.conversation, prompt)
    if isinstance(responses, str):
        responses = (rows.response_columns, *responses.split())
    return {"prompt": prompt, "responses": responses, **others}


# Rows whose parts depend on one another ----------------------------------------------------------


def hh_rlhf(row: dict) -> Group:
    """Two transcripts that differ in the assistant's last turn only; the first was preferred."""
    prompt, chosen = rows.transcript(row, "chosen")
    other_prompt, rejected = rows.transcript(row, "rejected")
    if other_prompt != prompt:
        what = "differs from 'chosen' before the assistant's last turn, expected one shared prompt"
        raise FieldError("rejected", what, "two prompts")
    return Group(prompt, (chosen, rejected), strength=-1.0)


def preference(row: dict) -> Group:
    """A prompt (text or messages), `chosen`, `rejected` (texts, last messages or conversations).

    `strength`, above 0 and at most 3, says how much better the chosen one is; 1 where absent.
    Without `prompt`, both conversations must hold the same one.
    """
    prompt = rows.conversation(row, "prompt") if "prompt" in row else ()
    prompt, chosen = rows.prompt_and_response(row, "chosen", prompt)
    prompt, rejected = rows.prompt_and_response(row, "rejected", prompt)
    margin = rows.number(row, "strength", 0, 3, 1.0)
    if margin == 0:
        what = "expected a number above 0: a row of chosen and rejected cannot be a tie"
        raise FieldError("strength", what, "out of range")
    return Group(prompt, (chosen, rejected), strength=-margin)


def reward_bench(row: dict) -> Group:
    """A prompt, the response that should win and the one that should not, as in the format
    `preference`; strength 1. `subset` is needed, `id` is kept where there is one."""
    about = rows.benchmark_place(row, "id", "subset")
    return dataclasses.replace(preference({**row, "strength": 1}), about=about)


def responses(row: dict) -> Group:
    """Only what is to be scored: `messages` that end with the assistant's, or a `prompt` (text or
    messages) with a `response` or a list of `responses`."""
    if "messages" in row:
        prompt, last = rows.prompt_and_response(row, "messages")
        return Group(prompt, (last,))
    answers = rows.response_or_list(row, "responses", "response")
    return Group(rows.conversation(row, "prompt"), answers)


def conversations(row: dict) -> Group:
    """A whole conversation, whose last turn, the assistant's, is the response: a list `messages` of
    "role" and "content", or `conversations` of "from" and "value". A `system` text may stand beside
    it. NeMo-Aligner's `label` of the last turn ("helpfulness:4,verbosity:2") is its ratings.
    """
    field = rows.either(row, "conversations", "messages")
    names = ("role", "content") if field == "messages" else ("from", "value")
    turns = list(rows.messages(row, field, *names, SPEAKERS))
    if not rows.is_blank(row.get("system")):
        if turns and turns[0]["role"] == "system":
            what = f"expected one system text, found another one in {field}[0]"
            raise FieldError("system", what, "two of one field")
        turns.insert(0, {"role": "system", "content": rows.text(row, "system")})
    prompt, last = rows.split_last(turns, field)
    check_turns(prompt, field)
    label, at = row[field][-1].get("label"), f"{field}[{len(row[field]) - 1}].label"
    return Group(prompt, (last,), ratings=() if label is None else (parse_label(label, at),))


def parse_label(label: object, field: str) -> dict[str, float]:
    """The values of "helpfulness:4,verbosity:2". Raises FieldError."""
    parts = [LABEL.fullmatch(part) for part in check_text(label, field).split(",")]
    values = {part[1]: float(part[2]) for part in parts if part}
    if len(values) < len(parts):
        what = f"expected as 'helpfulness:4,verbosity:2', found {show(label)}"
        raise FieldError(field, what, "malformed label")
    return {name: check_number(value, field, -1e6, 1e6) for name, value in values.items()}


def sampled(row: dict) -> Group:
    """Responses (texts) that a policy has sampled for one `prompt` (messages, or a text) and one
    `condition`, where one was asked for: see `Group`. Lists with an entry for each response, each
    where known: `tokens`, `finished` (whether it came to an end of turn), and LOGS (sums over the
    tokens), which become the ratings of these names.
    """
    answers = rows.texts(row, "responses")
    for i, value in enumerate(rows.of_each(row, "finished", len(answers))):
        if not isinstance(value, bool):
            raise mistyped(f"finished[{i}]", "true or false", value)
    tokens = rows.of_each(row, "tokens", len(answers))
    for i, ids in enumerate(tokens):
        if not isinstance(ids, list):
            raise mistyped(f"tokens[{i}]", "a list", ids)
    logs: list[dict[str, float]] = [{} for _ in answers]
    for name in LOGS:
        for i, value in enumerate(rows.of_each(row, name, len(answers))):
            logs[i][name] = check_number(value, f"{name}[{i}]", -1e6, LARGEST)
    return Group(
        rows.conversation(row, "prompt"),
        answers,
        ratings=tuple(logs) if any(logs) else (),
        condition=row.get("condition", {}),
        tokens=tuple(map(tuple, tokens)),
    )


def biggen(row: dict) -> Group:
    """A response and people's `human_score` from 1 to 5 (a number, or a list of which the mean
    counts) by the row's own `score_rubric`, which is kept as JSON in `about`."""
    rubric = rows.present(row, "score_rubric")
    if not isinstance(rubric, dict):
        raise mistyped("score_rubric", "an object", rubric)
    parts = {name: check_text(rubric.get(name), f"score_rubric.{name}") for name in RUBRIC}
    score, system = rows.present(row, "human_score"), row.get("system_prompt")
    scores = score if isinstance(score, list) else [score]
    return Group(
        ({"role": "system", "content": system},) * bool(system)
        + rows.user_turn(rows.text(row, "input")),
        (rows.text(row, "response"),),
        ratings=({"rubric": rows.check_mean(scores, "human_score", 1, 5, check_number)},),
        about={"rubric": json.dumps(parts)},
    )


# Places in a benchmark ----------------------------------------------------------------------------


def judge_bench_place(row: dict) -> dict:
    """The category of a row, its id, and as `writer` the model of both responses, where known."""
    source = rows.text(row, "source")
    found = [to for start, to in JUDGE_BENCH_SOURCES.items() if source.startswith(start)]
    if not found:
        known = ", ".join(JUDGE_BENCH_SOURCES)
        what = f"expected a name that starts with one of {known}, found {show(source)}"
        raise FieldError("source", what, "unknown source")
    writer = {"writer": rows.text(row, "response_model")} if row.get("response_model") else {}
    return {"subset": found[0], **rows.benchmark_place(row, "pair_id"), **writer}


def reward_bench_2_place(row: dict) -> dict:
    """The subset and id of a row whose counts of responses are true.

    Rows of Ties come in twos, "ref:N" with one right response and "tied:N" with several.
    """
    about = rows.benchmark_place(row, "id", "subset")
    ties = about["subset"].lower() == "ties"
    if ties and not re.fullmatch(r"(ref|tied):[0-9]+", rows.text(row, "id")):
        what = f"expected 'ref:NUMBER' or 'tied:NUMBER' in a row of Ties, found {show(row['id'])}"
        raise FieldError("id", what, "unknown id")
    right, wrong = len(row["chosen"]), len(row["rejected"])
    counts = {"num_correct": right, "num_incorrect": wrong, "total_completions": right + wrong}
    for name, count in counts.items():
        if row.get(name) is not None and rows.integer(row, name, 0, 10**6) != count:
            what = f"is {row[name]}, but the row has {right} chosen and {wrong} rejected responses"
            raise FieldError(name, what, "wrong number of responses")
    return about


def named_in_file(pattern: str) -> Callable[[str], dict]:
    """Make `Format.of_path`: the named groups of a pattern of published files' names."""
    name = re.compile(rf"(?:^|/){pattern}(?:-\d+-of-\d+)?\.(?:parquet|jsonl?(?:\.gz)?)$")
    return lambda path: match.groupdict() if (match := name.search(path)) else {}


def llmbar_file(path: str) -> dict:
    """The subset that a file holds: "natural", "adversarial-GPTInst", ... The published path is
    Dataset/LLMBar/Adversarial/GPTInst/dataset.json; copies join its parts with two underscores."""
    stem = re.sub(r"\.(parquet|jsonl?)(\.gz)?$", "", path.replace("__", "/"))
    *folders, name = stem.removesuffix("/dataset").split("/")
    adversarial = folders[-1:] == ["Adversarial"]
    return {"subset": f"adversarial-{name}" if adversarial else name.lower()}


MARKED, INSTRUCTION = (rows.marked_turns, "prompt"), (rows.instruction, "instruction", "input")
RATED = columns(MARKED, "response", ratings=(rows.rating_columns, ATTRIBUTES, 0, 4, check_integer))
RIGHT = {
    "responses": (rows.right_then_wrong, "chosen", "rejected"),
    "ratings": (rows.right_or_wrong, "chosen", "rejected"),
}

FORMATS = {
    "helpsteer": Format(RATED, rows=None),
    "helpsteer2": Format(RATED, rows=2),
    # Its rows are not said to be in pairs.
    "helpsteer2_disagreements": Format(
        RATED | {"ratings": (rows.rating_columns, ATTRIBUTES, 0, 4, rows.check_mean)}, rows=None
    ),
    "helpsteer2_preference": Format(
        columns(MARKED, "response_1 response_2", strength=(rows.strength, "preference_strength"))
    ),
    "helpsteer3": Format(
        columns("context", "response1 response2", strength=(rows.strength, "overall_preference"))
    ),
    "hh_rlhf": Format(hh_rlhf),
    "biggen": Format(biggen),
    "conversations": Format(conversations),
    "instructions": Format(columns(INSTRUCTION, (rows.response_or_list, "output", "response"))),
    "judge_bench": Format(
        columns(
            "question",
            "response_A response_B",
            strength=(rows.winner, "label", "A>B", "B>A"),
            about=(judge_bench_place,),
        ),
        benchmark=True,
    ),
    "llmbar": Format(
        columns(
            "input",
            "output_1 output_2",
            strength=(rows.winner, "label", 1, 2),
            about=(rows.benchmark_place, "id", "subset"),
        ),
        of_path=llmbar_file,
        benchmark=True,
    ),
    "pandalm": Format(
        columns(
            INSTRUCTION,
            "response1 response2",
            strength=(rows.majority, "annotator1", "annotator2", "annotator3"),
            about=(rows.benchmark_place, "idx", "cmp_key"),
        )
    ),
    "preference": Format(preference),
    "ratings": Format(
        columns(
            "prompt",
            (rows.response_or_list, "responses", "response"),
            ratings=(rows.rating_objects, "ratings"),
            strength=(rows.number, "strength", -3, 3),
        )
    ),
    "responses": Format(responses),
    "reward_bench": Format(
        reward_bench,
        of_path=named_in_file(rf"(?P<subset>{'|'.join(PRIOR_SETS)})"),
        benchmark=True,
    ),
    "reward_bench_2": Format(
        columns("prompt", **RIGHT, about=(reward_bench_2_place,)), benchmark=True
    ),
    # In each list: concise, detailed as plain text, detailed in Markdown.
    "rm_bench": Format(
        columns("prompt", **RIGHT, about=(rows.benchmark_place, "id", "domain", "domain"))
        | {"responses": (rows.right_then_wrong, "chosen", "rejected", 3)},
        of_path=named_in_file(rf"(?P<domain>{'|'.join(RM_BENCH_DOMAINS)})_filtered"),
        benchmark=True,
    ),
    "sampled": Format(sampled),
    "summeval": Format(
        columns(
            (rows.instruction, "article", "", SUMMARIZE),
            "summary",
            ratings=(rows.rating_columns, SUMMEVAL, 1, 5),
            about=(rows.benchmark_place, "article_id"),
        ),
        rows=None,
    ),
}
