"""Fields of a row, checked, and the parts of a Group that stand in them.

Each function takes a decoded JSON object and names of its fields, and raises FieldError, with the
name, where a field is absent or is not what it should be.
"""

import re
from collections.abc import Sequence

from hs2jax.data.groups import (
    FieldError,
    check_integer,
    check_label,
    check_number,
    check_text,
    check_turns,
    mistyped,
    show,
)

MARKER = re.compile(r"\n<extra_id_1>(User|Assistant)\n")
SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")
ROLES = {role: role for role in ("system", "user", "assistant")}
NEITHER_VALID = -100  # What HelpSteer2-Preference's annotators chose where no response was valid.
Turns = tuple[dict, ...]


def present(row: dict, field: str) -> object:
    """Read the value of a field that must be there."""
    if field not in row:
        what = f"is missing; the row has {', '.join(map(show, sorted(row)[:12])) or 'no fields'}"
        raise FieldError(field, what, "missing field")
    return row[field]


def text(row: dict, field: str) -> str:
    """Read a text that says something."""
    return check_text(present(row, field), field)


def number(row: dict, field: str, low: float, high: float, default=None) -> float | None:
    """Read a finite number from low to high, or the default where the row has none."""
    return check_number(row[field], field, low, high) if field in row else default


def integer(row: dict, field: str, low: int, high: int) -> int:
    """Read an integer from low to high."""
    return check_integer(present(row, field), field, low, high)


def choice(row: dict, field: str, choices: Sequence) -> object:
    """Read one of the choices."""
    value = present(row, field)
    if isinstance(value, bool) or value not in choices:
        what = f"expected one of {', '.join(map(str, choices))}, found {show(value)}"
        raise FieldError(field, what, f"unknown {field}")
    return value


def split(row: dict) -> str:
    """Read the row's split, train or val."""
    return choice(row, "split", ("train", "val"))


def list_of(row: dict, field: str) -> list:
    """Read a list that is not empty."""
    value = present(row, field)
    if not isinstance(value, list):
        raise mistyped(field, "a list", value)
    if not value:
        raise FieldError(field, "expected a list of at least one, found an empty one", "empty list")
    return value


def of_each(row: dict, field: str, responses: int) -> list:
    """Read a list with an entry for each response, or [] where the row has none."""
    if field not in row:
        return []
    if len(values := list_of(row, field)) != responses:
        what = f"expected one for each of the {responses} responses, found {len(values)}"
        raise FieldError(field, what, "wrong number of entries")
    return values


def texts(row: dict, field: str) -> tuple[str, ...]:
    """Read a list of at least one text."""
    return tuple(check_text(t, f"{field}[{i}]") for i, t in enumerate(list_of(row, field)))


def either(row: dict, usual: str, other: str) -> str:
    """Name the one of two fields that the row has; the usual one where it has none."""
    if usual in row and other in row:
        what = f"expected either '{usual}' or '{other}', found both"
        raise FieldError(other, what, "two of one field")
    return other if other in row else usual


def user_turn(content: str) -> Turns:
    """Make a prompt of one turn."""
    return ({"role": "user", "content": content},)


def is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def messages(row: dict, field: str, who="role", what="content", roles=ROLES) -> Turns:
    """Read a list of messages, in any order of roles; a blank system message at the start is none.
    who, what: the messages' fields for the speaker and the text. roles: by speakers in lower case.
    """
    if not isinstance(present(row, field), list):
        raise mistyped(field, "a text or a list of messages", row[field])
    turns = []
    for i, message in enumerate(list_of(row, field)):
        place = f"{field}[{i}]"
        if not isinstance(message, dict) or not {who, what} <= message.keys():
            raise mistyped(place, f"an object with '{who}' and '{what}'", message)
        speaker, content = message[who], message[what]
        if not isinstance(speaker, str) or speaker.lower() not in roles:
            found = f"expected one of {', '.join(roles)}, found {show(speaker)}"
            raise FieldError(f"{place}.{who}", found, "unknown role")
        role = roles[speaker.lower()]
        if not (i == 0 and role == "system" and is_blank(content)):
            turns.append({"role": role, "content": check_text(content, f"{place}.{what}")})
    return tuple(turns)


def conversation(row: dict, field: str) -> Turns:
    """Read the turns of a prompt that is a text (one user turn) or a list of messages."""
    if isinstance(present(row, field), str):
        return user_turn(text(row, field))
    turns = messages(row, field)
    check_turns(turns, field)
    return turns


def split_last(turns: Sequence[dict], field: str) -> tuple[Turns, str]:
    """Split turns into those before the assistant's last one, and what it says there."""
    if not turns or turns[-1]["role"] != "assistant":
        by = f"the last one is by {show(turns[-1]['role'])}" if turns else "there is no turn"
        what = f"expected a last turn by the assistant, {by}"
        raise FieldError(field, what, "no assistant answer")
    return tuple(turns[:-1]), turns[-1]["content"]


def prompt_and_response(row: dict, field: str, prompt: Turns = ()) -> tuple[Turns, str]:
    """Read the prompt (the given one, else that of the conversation) and the assistant's answer."""
    if isinstance(present(row, field), str):
        if not prompt:
            what = f"is missing, needed where '{field}' is a text and not a conversation"
            raise FieldError("prompt", what, "missing field")
        return prompt, text(row, field)
    before, last = split_last(messages(row, field), field)
    if not prompt:
        check_turns(before, field)
    elif before and before != prompt:
        what = "expected the messages before the last to be the prompt's, found others"
        raise FieldError(field, what, "two prompts")
    return prompt or before, last


def marked_turns(row: dict, field: str) -> Turns:
    """Read the turns of a HelpSteer prompt, whose later turns follow marker lines."""
    parts = ["User", *MARKER.split(text(row, field))]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    turns = tuple({"role": speaker.lower(), "content": content} for speaker, content in pairs)
    if any("<extra_id_1>" in turn["content"] for turn in turns):
        what = "holds a marker that is not a line '<extra_id_1>User' or '<extra_id_1>Assistant'"
        raise FieldError(field, what, "turn order")
    check_turns(turns, field)
    return turns


def transcript(row: dict, field: str) -> tuple[Turns, str]:
    """Read the prompt's turns and the assistant's last turn of a Human/Assistant transcript. Turns
    of one speaker on end are joined, since chat templates know only turns that alternate."""
    first, *rest = SPEAKER.split(text(row, field))
    if first.strip():
        what = "expected to start with 'Human:' after two line ends"
        raise FieldError(field, what, "turn order")
    turns = []
    for speaker, content in zip(rest[::2], rest[1::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        content = check_text(content.strip(), f"{field}, turn {len(turns) + 1}")
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n\n" + content
        else:
            turns.append({"role": role, "content": content})
    prompt, last = split_last(turns, field)
    check_turns(prompt, field)
    return prompt, last


def instruction(row: dict, field: str, more: str = "", before: str = "") -> Turns:
    """Read a prompt of one user turn, with the text of another field behind it if there is any."""
    content = before + text(row, field)
    return user_turn(content if is_blank(row.get(more)) else f"{content}\n\n{text(row, more)}")


def response_columns(row: dict, *fields: str) -> tuple[str, ...]:
    """Read responses, each in a column of its own."""
    return tuple(text(row, field) for field in fields)


def response_or_list(row: dict, usual: str, other: str) -> tuple[str, ...]:
    """Read responses in one of two columns, each a text or a list of texts."""
    field = either(row, usual, other)
    return texts(row, field) if field == "responses" else (text(row, field),)


def rating_columns(row: dict, fields: Sequence[str], low: int, high: int, check=check_number):
    """Read ratings of the one response, each in the column of its name."""
    return ({f: float(check(present(row, f), f, low, high)) for f in fields},)


def check_mean(values: object, field: str, low: float, high: float, check=check_integer) -> float:
    """Return the mean of a list of numbers, one by each annotator."""
    each = list_of({field: values}, field)
    return sum(check(v, f"{field}[{i}]", low, high) for i, v in enumerate(each)) / len(each)


def rating_objects(row: dict, field: str) -> tuple[dict[str, float], ...]:
    """Read ratings of each response, an object from attribute to number or null (unknown)."""
    ratings = []
    for i, rating in enumerate([row.get(field)] if "response" in row else list_of(row, field)):
        if not isinstance(rating, dict):
            raise mistyped(f"{field}[{i}]", "an object from attribute to number", rating)
        known = ((name, value) for name, value in rating.items() if value is not None)
        ratings.append({k: check_number(v, f"{field}[{i}].{k}", -1e6, 1e6) for k, v in known})
    return tuple(ratings)


def right_then_wrong(row: dict, right: str, wrong: str, of_each: int = 0) -> tuple[str, ...]:
    """Read responses in two lists, the right ones first. of_each: the number in each, if not 0."""
    for field in (right, wrong):
        if of_each and (found := len(list_of(row, field))) != of_each:
            what = f"expected {of_each} responses, found {found}"
            raise FieldError(field, what, "wrong number of responses")
    return texts(row, right) + texts(row, wrong)


def right_or_wrong(row: dict, right: str, wrong: str) -> tuple[dict[str, float], ...]:
    """Read ratings that say which responses are right."""
    return ({"correct": 1.0},) * len(row[right]) + ({"correct": 0.0},) * len(row[wrong])


def strength(row: dict, field: str) -> float:
    """Read a strength from -3 to 3, above 0 where the second response is better."""
    if row.get(field) == NEITHER_VALID:
        what = f"{NEITHER_VALID} says that neither response is valid, expected -3 to 3"
        raise FieldError(field, what, "neither response valid")
    return float(integer(row, field, -3, 3))


def winner(row: dict, field: str, first: object, second: object) -> float:
    """Read a strength of 1 for the response that a column names."""
    return 1.0 if choice(row, field, (first, second)) == second else -1.0


def majority(row: dict, *fields: str) -> float:
    """Read a strength of 1 for the response that most annotators voted for, 1 or 2; else a tie."""
    found = [integer(row, field, 0, 2) for field in fields]
    return float((2 * found.count(2) > len(fields)) - (2 * found.count(1) > len(fields)))


def benchmark_place(row: dict, id: str, column: str = "", name: str = "subset") -> dict:
    """Read the place of a row in its benchmark: the text of its subset, and an id if it has one."""
    found = {name: text(row, column)} if column else {}
    return found if row.get(id) is None else {**found, "id": check_label(row[id], id)}
