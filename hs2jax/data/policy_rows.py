"""From one row of data for policies to a Group: conversations to learn from, as instruction sets
have them, and responses that a policy has sampled."""

import re

from hs2jax.data.groups import FieldError, Group, check_number, check_text, check_turns, show
from hs2jax.data.rows import conversation, list_of

# By the names that speakers have: NeMo-Aligner's (as in Daring-Anteater) and ShareGPT's.
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
LABEL = re.compile(r"([^:,]+):([^:,]+)")

# Of each response, log-probabilities in nats: of the attribute values that it was asked to have,
# under the model without a condition, and under the policy that sampled it.
LOGS = ("log_attribute", "log_prior", "log_proposal")
LARGEST = 0.01  # Sums of logarithms that are rounded may be a little more than 0.


def conversations(row: dict) -> Group:
    """A whole conversation, whose last turn, the assistant's, is the response: a list `messages` of
    "role" and "content", or `conversations` of "from" and "value". A `system` text may stand beside
    it; one without content is none.

    NeMo-Aligner's `label` of the last turn, as in "helpfulness:4,verbosity:2", is its ratings.
    """
    if "messages" in row and "conversations" in row:
        what = "expected either 'messages' or 'conversations', found both"
        raise FieldError("messages", what, "two of one field")
    field = "messages" if "messages" in row else "conversations"
    names = ("role", "content") if field == "messages" else ("from", "value")
    turns = [_turn(turn, f"{field}[{i}]", *names) for i, turn in enumerate(list_of(row, field))]
    if turns[0]["role"] == "system" and not turns[0]["content"].strip():
        del turns[0]
    system = row.get("system")
    if system is not None and not _is_empty(system):
        if turns and turns[0]["role"] == "system":
            what = f"expected one system text, found another one in {field}[0]"
            raise FieldError("system", what, "two of one field")
        turns.insert(0, {"role": "system", "content": check_text(system, "system")})
    if not turns or turns[-1]["role"] != "assistant":
        by = f"the last turn is by {show(turns[-1]['role'])}" if turns else "there is no turn"
        what = f"has no assistant's answer to learn: {by}, expected 'assistant'"
        raise FieldError(field, what, "no assistant answer")
    if len(turns) == 1:
        what = "expected a user's turn before the assistant's, found an answer only"
        raise FieldError(field, what, "turn order")
    *prompt, last = turns
    check_turns(tuple(prompt), field)
    label, place = row[field][-1].get("label"), f"{field}[{len(row[field]) - 1}].label"
    rating = () if label is None else (parse_label(label, place),)
    return Group(tuple(prompt), (last["content"],), ratings=rating)


def _turn(turn: object, place: str, who: str, text: str) -> dict:
    """A turn as a message, from the fields that name its speaker and its text. Only a system's may
    be empty."""
    if not isinstance(turn, dict) or not {who, text} <= turn.keys():
        what = f"expected an object with '{who}' and '{text}', found {show(turn)}"
        raise FieldError(place, what, "wrong type")
    name = turn[who]
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        what = f"expected one of {', '.join(ROLES)}, found {show(name)}"
        raise FieldError(f"{place}.{who}", what, "unknown role")
    if role != "system" or not _is_empty(turn[text]):
        check_text(turn[text], f"{place}.{text}")
    return {"role": role, "content": turn[text]}


def _is_empty(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def parse_label(label: object, field: str) -> dict[str, float]:
    """The values of "helpfulness:4,verbosity:2". Raises FieldError."""
    values: dict[str, float] = {}
    for part in check_text(label, field).split(","):
        match = LABEL.fullmatch(part.strip())
        name = match[1].strip() if match else ""
        try:
            value = float(match[2]) if match else float("nan")
        except ValueError:
            match = None
        if not match or not name or name in values:
            what = f"expected as 'helpfulness:4,verbosity:2', found {show(label)}"
            raise FieldError(field, what, "malformed label")
        values[name] = check_number(value, field, -1e6, 1e6)
    return values


def sampled(row: dict) -> Group:
    """Responses that a policy has sampled for one prompt and one `condition`.

    `prompt`: messages, or a text. `condition`: an object from attribute to a whole number from 0 to
    4, absent where none was asked for. `responses`: texts. Lists with an entry for each response,
    each where known: `tokens` (lists of the policy's token ids, with the end of turn where it came
    to one), `finished` (whether it did), and `log_attribute`, `log_prior` and `log_proposal` (nats,
    sums over the tokens), which become the ratings of these names.
    """
    condition = row.get("condition", {})
    if not isinstance(condition, dict):
        what = f"expected an object from attribute to number, found {show(condition)}"
        raise FieldError("condition", what, "wrong type")
    found = list_of(row, "responses")
    responses = tuple(check_text(text, f"responses[{i}]") for i, text in enumerate(found))
    for i, value in enumerate(_of_each(row, "finished", len(responses))):
        if not isinstance(value, bool):
            what = f"expected true or false, found {show(value)}"
            raise FieldError(f"finished[{i}]", what, "wrong type")
    tokens = _of_each(row, "tokens", len(responses))
    for i, ids in enumerate(tokens):
        if not isinstance(ids, list):
            raise FieldError(f"tokens[{i}]", f"expected a list, found {show(ids)}", "wrong type")
    ratings: list[dict[str, float]] = [{} for _ in responses]
    for name in LOGS:
        for i, value in enumerate(_of_each(row, name, len(responses))):
            ratings[i][name] = check_number(value, f"{name}[{i}]", -1e6, LARGEST)
    return Group(
        prompt=conversation(row, "prompt"),
        responses=responses,
        ratings=tuple(ratings) if any(ratings) else (),
        condition=condition,
        tokens=tuple(map(tuple, tokens)),
    )


def _of_each(row: dict, field: str, responses: int) -> list:
    """A list with an entry for each response, or [] where the row has none."""
    if field not in row:
        return []
    values = list_of(row, field)
    if len(values) != responses:
        what = f"expected one for each of the {responses} responses, found {len(values)}"
        raise FieldError(field, what, "wrong number of entries")
    return values
