"""The formats in which data is published: how their rows become groups.

A column that a format does not read is counted, or refused (`fields.Row.check_read`). Of a pair,
the better response has a strength of 1 where the data does not say how much better it is. Where
several responses are right or wrong, each is rated {"correct": 1.0} or {"correct": 0.0}, the right
ones first.

HelpSteer (arXiv 2311.09528), HelpSteer2 (2406.08673), HelpSteer2-Preference (2410.01257),
HelpSteer3 (2505.11475), HH-RLHF (2204.05862), RewardBench (2403.13787) and its prior sets,
RewardBench 2 (2506.01937), RM-Bench (2410.16184), JudgeBench (2410.12784), LLMBar (2310.07641),
PandaLM's human votes (2306.05087), SummEval (2007.12626), BIGGen-Bench (2406.05761), and general
ones.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable

from hs2jax.data import justifications, rows, strengths
from hs2jax.data.fields import Map, Row, take
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
BIGGEN = (
    "id capability task instance_idx language reference_answer model_name response_model_name "
    "gpt4_score gpt4_04_turbo_score claude_score prometheus_score prometheus_score_bgb"
)
ARENA = "question_id model_a model_b judge anony language tstamp openai_moderation toxic_chat_tag"
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

# Of each sampled response, log-probabilities in nats: of the attribute values that it was asked to
# have, under the model without a condition, and under the policy that sampled it.
LOGS = ("log_attribute", "log_prior", "log_proposal")
MEASURED = "measured rewards log_ratio log_policy log_reference"  # Of them, by other verbs.
NO_MAP = Map()
PROMPTS = "prompts"  # The format of prompts alone.
LARGEST = 0.01  # Sums of logarithms that are rounded may be a little more than 0.


@dataclasses.dataclass(frozen=True)
class Format:
    """The way from the rows of a file to groups."""

    # For parts of a Group, a function and the columns that it reads them from, with what else it
    # needs to know of them (see `columns`); or a function of the whole row.
    parts: dict[str, tuple] | Callable[[Row], Group]
    # How many rows, which follow one another, are one group; None: all with the same prompt.
    rows: int | None = 1
    # Fields that the published file's name says for all its rows, which lack them.
    of_path: Callable[[str], dict] = lambda path: {}
    benchmark: bool = False  # All its files are one set, scored by a published rule.
    extras: str = ""  # Columns of the published files that say nothing of the group.
    labels: bool = True  # It reads what people said, so that other labels must not be lost.
    own: tuple[str, ...] = ()  # Its fields, where the others of a map are names of ratings.

    def group(self, row: dict, fields: Map = NO_MAP) -> Group:
        """The group of one row, a decoded JSON object. Raises FieldError."""
        return self.read(take(row, fields, self.own))

    def read(self, row: Row, labels: bool = False) -> Group:
        """The group of a row whose notes are to be counted. labels: all of them must be read.
        Raises FieldError."""
        if callable(self.parts):
            group = self.parts(row)
        else:
            parts = self.parts.items()
            group = Group(**{part: of(row, *columns) for part, (of, *columns) in parts})
        row.check_read(self.name, self.extras.split(), self.labels or labels)
        return group

    @property
    def name(self) -> str:
        return next(name for name, form in FORMATS.items() if form is self)


def columns(prompt: str | tuple, responses: str | tuple, **others: tuple) -> dict[str, tuple]:
    """Make `Format.parts`. A prompt that is a text names the column of a conversation, responses
    that are one name columns of a text each."""
    if isinstance(prompt, str):
        prompt = (rows.conversation, prompt)
    if isinstance(responses, str):
        responses = (rows.response_columns, *responses.split())
    return {"prompt": prompt, "responses": responses, **others}


# Rows whose parts depend on one another ----------------------------------------------------------


def hh_rlhf(row: Row) -> Group:
    """Two transcripts that differ in the assistant's last turn only; the first was preferred."""
    prompt, chosen = rows.transcript(row, "chosen")
    other_prompt, rejected = rows.transcript(row, "rejected")
    if other_prompt != prompt:
        what = "differs from 'chosen' before the assistant's last turn, expected one shared prompt"
        raise FieldError("rejected", what, "two prompts")
    return Group(prompt, (chosen, rejected), strength=-strengths.margin(row))


def preference(row: Row) -> Group:
    """A prompt (text or messages), `chosen`, `rejected` (texts, last messages or conversations):
    see `rows.answered`, and `strengths.margin` for how much better the chosen one is."""
    prompt, answers = rows.answered(row, "chosen", "rejected")
    return Group(prompt, answers, strength=-strengths.margin(row))


def reward_bench(row: Row) -> Group:
    """A prompt, the response that should win and the one that should not, as in the format
    `preference`; strength 1. `subset` is needed, `id` is kept where there is one."""
    about = rows.benchmark_place(row, "id", "subset")
    prompt, answers = rows.answered(row, "chosen", "rejected")
    return Group(prompt, answers, strength=-1.0, about=about)


def ratings(row: Row) -> Group:
    """A prompt, a `response` with an object of `ratings`, or lists of `responses` and of these."""
    field = rows.either(row, "responses", "response")
    field = "messages" if field not in row and "messages" in row else field
    prompt, answers = rows.answered(row, field)
    rated = rows.rating_objects(row, "ratings", several=field == "responses")
    known = check_number(row["strength"], "strength", -3, 3) if "strength" in row else None
    return Group(prompt, answers, ratings=rated, strength=known)


def responses(row: Row) -> Group:
    """Only what is to be scored: `messages` that end with the assistant's, or a `prompt` (text or
    messages) with a `response` or a list of `responses`."""
    named = "messages" if "messages" in row else rows.either(row, "responses", "response")
    return Group(*rows.answered(row, named))


def prompts(row: Row) -> Group:
    """Only what is to be answered: a `prompt` (text or messages), where `system` may stand beside
    it. Its response stands for those to come."""
    return Group(rows.with_system(row, rows.conversation(row, "prompt")), ("-",))


def conversations(row: Row) -> Group:
    """A whole conversation, whose last turn, the assistant's, is the response: a list `messages` or
    `conversations` of "role" and "content", or "from" and "value". A `system` text may stand beside
    it, and `prompt` as in `rows.answered`. NeMo-Aligner's `label` of the last turn, as in
    "helpfulness:4,verbosity:2", is its ratings.
    """
    field = rows.either(row, "conversations", "messages")
    turns = rows.messages(row, field, rows.present(row, field), "label")
    prompt, last = rows.split_last(rows.with_system(row, turns), field)
    if not rows.is_blank(row.get("prompt")):
        prompt = rows.same(rows.conversation(row, "prompt"), prompt, field, "prompt")
    check_turns(prompt, field)
    *earlier, label = (message.get("label") for message in row[field])
    row.notes += (("unread", f"{field}[].label") for each in earlier if each is not None)
    at = f"{field}[{len(earlier)}].label"
    return Group(prompt, (last,), ratings=() if label is None else (rows.parse_label(label, at),))


def arena(row: Row) -> Group:
    """Two conversations that differ in the last answer only, and the `winner`. Where `turn` says
    which answer was voted on, what is behind it is counted and left out."""
    names = "conversation_a", "conversation_b"
    for name in names if "turn" in row else ():
        row[name] = rows.up_to_answer(row, name, rows.integer(row, "turn", 1, 10**6))
    prompt, answers = rows.answered(row, *names)
    return Group(prompt, answers, strength=strengths.arena(row, "winner"))


def sampled(row: Row) -> Group:
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


def biggen(row: Row) -> Group:
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


def judge_bench_place(row: Row) -> dict:
    """The category of a row, its id, and as `writer` the model of both responses, where known."""
    source = rows.text(row, "source")
    found = [to for start, to in JUDGE_BENCH_SOURCES.items() if source.startswith(start)]
    if not found:
        known = ", ".join(JUDGE_BENCH_SOURCES)
        what = f"expected a name that starts with one of {known}, found {show(source)}"
        raise FieldError("source", what, "unknown source")
    writer = {"writer": rows.text(row, "response_model")} if row.get("response_model") else {}
    return {"subset": found[0], **rows.benchmark_place(row, "pair_id"), **writer}


def reward_bench_2_place(row: Row) -> dict:
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


UNPROCESSED = "split three_most_similar_preferences all_preferences_unprocessed"
MARKED, INSTRUCTION = (rows.marked_turns, "prompt"), (rows.instruction, "instruction", "input")
RATED = columns(MARKED, "response", ratings=(rows.rating_columns, ATTRIBUTES, 0, 4, check_integer))
RIGHT = {
    "responses": (rows.right_then_wrong, "chosen", "rejected"),
    "ratings": (rows.right_or_wrong, "chosen", "rejected"),
}

# The likelier first: published data, whose rows say by their fields what they are, then general
# ones, then benchmarks.
FORMATS = {
    "helpsteer2_preference": Format(
        columns(
            MARKED, "response_1 response_2", strength=(strengths.signed, "preference_strength")
        ),
        extras=f"preference_statement preference_elaboration {UNPROCESSED}",
    ),
    "helpsteer3": Format(
        columns(
            "context", "response1 response2", strength=(strengths.signed, "overall_preference")
        ),
        extras="domain language individual_preference",
    ),
    "helpsteer": Format(RATED, rows=None),
    "helpsteer2": Format(RATED, rows=2),
    # Its rows are not said to be in pairs.
    "helpsteer2_disagreements": Format(
        RATED | {"ratings": (rows.rating_columns, ATTRIBUTES, 0, 4, rows.check_mean)}, rows=None
    ),
    # Which of the two is better is what is asked.
    "helpsteer2_justification": Format(justifications.group, extras=UNPROCESSED),
    "helpsteer2_justification_swapped": Format(
        functools.partial(justifications.group, swapped=True), extras=UNPROCESSED
    ),
    "hh_rlhf": Format(hh_rlhf),
    "arena": Format(arena, extras=ARENA),
    "preference": Format(preference),
    "ratings": Format(
        ratings,
        own=("prompt", "system", "response", "responses", "messages", "ratings", "strength"),
    ),
    "conversations": Format(conversations, extras="mask type dataset"),
    "instructions": Format(
        columns(INSTRUCTION, (rows.response_or_list, "output", "response")), labels=False
    ),
    "responses": Format(responses, labels=False),
    "sampled": Format(
        sampled,
        extras=f"source instruction predicted {MEASURED}",
        labels=False,
    ),
    PROMPTS: Format(prompts, labels=False),
    "reward_bench": Format(
        reward_bench,
        of_path=named_in_file(rf"(?P<subset>{'|'.join(PRIOR_SETS)})"),
        benchmark=True,
        extras="chosen_model rejected_model",
    ),
    "reward_bench_2": Format(
        columns("prompt", **RIGHT, about=(reward_bench_2_place,)),
        benchmark=True,
        extras="models additional_metadata",
    ),
    # In each list: concise, detailed as plain text, detailed in Markdown.
    "rm_bench": Format(
        columns("prompt", **RIGHT, about=(rows.benchmark_place, "id", "domain", "domain"))
        | {"responses": (rows.right_then_wrong, "chosen", "rejected", 3)},
        of_path=named_in_file(rf"(?P<domain>{'|'.join(RM_BENCH_DOMAINS)})_filtered"),
        benchmark=True,
        extras="subset error error_key",
    ),
    "judge_bench": Format(
        columns(
            "question",
            "response_A response_B",
            strength=(strengths.winner, "label", "A>B", "B>A"),
            about=(judge_bench_place,),
        ),
        benchmark=True,
        extras="original_id",
    ),
    "llmbar": Format(
        columns(
            "input",
            "output_1 output_2",
            strength=(strengths.winner, "label", 1, 2),
            about=(rows.benchmark_place, "id", "subset"),
        ),
        of_path=llmbar_file,
        benchmark=True,
    ),
    "pandalm": Format(
        columns(
            INSTRUCTION,
            "response1 response2",
            strength=(strengths.majority, "annotator1", "annotator2", "annotator3"),
            about=(rows.benchmark_place, "idx", "cmp_key"),
        ),
        extras="motivation_app",
    ),
    "summeval": Format(
        columns(
            (rows.instruction, "article", "", SUMMARIZE),
            "summary",
            ratings=(rows.rating_columns, SUMMEVAL, 1, 5),
            about=(rows.benchmark_place, "article_id"),
        ),
        rows=None,
        extras="summary_id",
    ),
    "biggen": Format(biggen, extras=BIGGEN),
}
