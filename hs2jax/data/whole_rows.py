"""Rows whose parts depend on one another, each to a Group.

Each function takes a decoded JSON object and raises FieldError, with the field's name, for anything
that its format does not allow.
"""

import dataclasses
import json
import re

from hs2jax.data import rows
from hs2jax.data.groups import (
    FieldError,
    Group,
    check_number,
    check_text,
    check_turns,
    mistyped,
    show,
)

RUBRIC = ("criteria", *(f"score{i}_description" for i in range(1, 6)))
PRIOR_SETS = (  # RewardBench's.
    *("anthropic_harmless", "anthropic_helpful", "anthropic_hhh", "summarize", "shp"),
    *("pku_better", "pku_safer", "mtbench_human", "mtbench_gpt4"),
)
TIES_ID = re.compile(r"(ref|tied):[0-9]+")
RM_BENCH_DOMAINS = ("chat", "code", "math", "safety-refuse", "safety-response")
SPEAKERS = rows.ROLES | {"human": "user", "gpt": "assistant"}  # NeMo-Aligner's and ShareGPT's.
LABEL = re.compile(r"\s*([^:,]*[^:,\s])\s*:\s*([-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?)\s*")

# Of each sampled response, log-probabilities in nats: of the attribute values that it was asked to
# have, under the model without a condition, and under the policy that sampled it.
LOGS = ("log_attribute", "log_prior", "log_proposal")
LARGEST = 0.01  # Sums of logarithms that are rounded may be a little more than 0.


def hh_rlhf(row: dict) -> Group:
    """Two transcripts that differ in the assistant's last turn only; the first was preferred."""
    prompt, chosen = rows.transcript(row, "chosen")
    other_prompt, rejected = rows.transcript(row, "rejected")
    if other_prompt != prompt:
        what = "differs from 'chosen' before the assistant's last turn, expected one shared prompt"
        raise FieldError("rejected", what, "two prompts")
    return Group(prompt=prompt, responses=(chosen, rejected), strength=-1.0)


def preference(row: dict) -> Group:
    """A prompt (text or messages), `chosen`, `rejected` (texts, last messages or conversations).

    `strength`, above 0 and at most 3, says how much better the chosen one is; 1 where absent.
    Without `prompt`, both conversations must hold the same one.
    """
    prompt = rows.conversation(row, "prompt") if "prompt" in row else None
    prompt, chosen = rows.prompt_and_response(row, "chosen", prompt)
    prompt, rejected = rows.prompt_and_response(row, "rejected", prompt)
    margin = rows.number(row, "strength", 0, 3, 1.0)
    if margin == 0:
        what = "expected a number above 0: a row of chosen and rejected cannot be a tie"
        raise FieldError("strength", what, "out of range")
    return Group(prompt=prompt, responses=(chosen, rejected), strength=-margin)


def responses(row: dict) -> Group:
    """Only what is to be scored: `messages` that end with the assistant's, or a `prompt` (text or
    messages) with a `response` or a list of `responses`."""
    if "messages" in row:
        prompt, last = rows.prompt_and_response(row, "messages")
        return Group(prompt=prompt, responses=(last,))
    answers = rows.response_or_list(row, "responses", "response")
    return Group(prompt=rows.conversation(row, "prompt"), responses=answers)


def conversations(row: dict) -> Group:
    """A whole conversation, whose last turn, the assistant's, is the response: a list `messages` of
    "role" and "content", or `conversations` of "from" and "value". A `system` text may stand beside
    it; one without content is none.

    NeMo-Aligner's `label` of the last turn, as in "helpfulness:4,verbosity:2", is its ratings.
    """
    field = rows.either(row, "conversations", "messages")
    names = ("role", "content") if field == "messages" else ("from", "value")
    turns = list(rows.messages(row, field, *names, SPEAKERS))
    system = row.get("system")
    if system is not None and not rows.is_blank(system):
        if turns and turns[0]["role"] == "system":
            what = f"expected one system text, found another one in {field}[0]"
            raise FieldError("system", what, "two of one field")
        turns.insert(0, {"role": "system", "content": check_text(system, "system")})
    prompt, last = rows.split_last(turns, field)
    check_turns(prompt, field)
    label, at = row[field][-1].get("label"), f"{field}[{len(row[field]) - 1}].label"
    rating = () if label is None else (parse_label(label, at),)
    return Group(prompt, (last,), ratings=rating)


def parse_label(label: object, field: str) -> dict[str, float]:
    """The values of "helpfulness:4,verbosity:2". Raises FieldError."""
    parts = [LABEL.fullmatch(part) for part in check_text(label, field).split(",")]
    values = {part[1]: float(part[2]) for part in parts if part}
    if len(values) < len(parts):
        what = f"expected as 'helpfulness:4,verbosity:2', found {show(label)}"
        raise FieldError(field, what, "malformed label")
    return {name: check_number(value, field, -1e6, 1e6) for name, value in values.items()}


def sampled(row: dict) -> Group:
    """Responses that a policy has sampled for one prompt and one `condition`.

    `prompt`: messages, or a text. `condition`: an object from attribute to a whole number from 0 to
    4, absent where none was asked for. `responses`: texts. Lists with an entry for each response,
    each where known: `tokens` (lists of the policy's token ids, with the end of turn where it came
    to one), `finished` (whether it did), and `log_attribute`, `log_prior` and `log_proposal` (nats,
    sums over the tokens), which become the ratings of these names.
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
        prompt=rows.conversation(row, "prompt"),
        responses=answers,
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
    score = rows.present(row, "human_score")
    scores = score if isinstance(score, list) and score else [score]
    scores = [check_number(each, "human_score", 1, 5) for each in scores]
    system = row.get("system_prompt")
    start = () if not system else ({"role": "system", "content": system},)
    return Group(
        prompt=(*start, *rows.user_turn(rows.text(row, "input"))),
        responses=(rows.text(row, "response"),),
        ratings=({"rubric": sum(scores) / len(scores)},),
        about={"rubric": json.dumps(parts)},
    )


def reward_bench(row: dict) -> Group:
    """A prompt, the response that should win and the one that should not; strength 1.

    All are texts in RewardBench; in its prior preference sets they may be messages, as in the
    format `preference`. `subset` is needed, `id` is kept where there is one.
    """
    about = rows.benchmark_place(row, "id", "subset")
    pair = {name: value for name, value in row.items() if name != "strength"}
    return dataclasses.replace(preference(pair), about=about)


def reward_bench_file(path: str) -> dict:
    """The prior preference set that a file holds, as in "shp-00000-of-00001.parquet".

    It replaces the rows' own `subset`, which says where they were before they came into the set.
    """
    sets = "|".join(PRIOR_SETS)
    match = re.search(rf"(?:^|/)({sets})(?:-\d+-of-\d+)?\.(?:parquet|jsonl?|jsonl?\.gz)$", path)
    return {"subset": match[1]} if match else {}


def reward_bench_2_place(row: dict) -> dict:
    """The subset and id of a row whose counts of responses are true.

    Rows of Ties come in twos, "ref:N" with one right response and "tied:N" with several.
    """
    about = rows.benchmark_place(row, "id", "subset")
    if about["subset"].lower() == "ties" and not TIES_ID.fullmatch(rows.text(row, "id")):
        what = f"expected 'ref:NUMBER' or 'tied:NUMBER' in a row of Ties, found {show(row['id'])}"
        raise FieldError("id", what, "unknown id")
    right, wrong = len(row["chosen"]), len(row["rejected"])
    counts = {"num_correct": right, "num_incorrect": wrong, "total_completions": right + wrong}
    for name, count in counts.items():
        if row.get(name) is not None and rows.integer(row, name, 0, 10**6) != count:
            what = f"is {row[name]}, but the row has {right} chosen and {wrong} rejected responses"
            raise FieldError(name, what, "wrong number of responses")
    return about


def rm_bench_file(path: str) -> dict:
    """The domain that a file holds, as in "chat_filtered.json"; the full set's rows name theirs."""
    domains = "|".join(RM_BENCH_DOMAINS)
    match = re.search(rf"(?:^|/)({domains})_filtered\.jsonl?(?:\.gz)?$", path)
    return {"domain": match[1]} if match else {}
