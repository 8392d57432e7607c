"""Fields of a row, checked, and the parts of a Group that stand in them.

Each function takes a decoded JSON object and names of its fields, and raises FieldError, with the
name, where a field is absent or is not what it should be.
"""

import re
from collections.abc import Sequence

from hs2jax.data import fields
from hs2jax.data.fields import Row
from hs2jax.data.groups import (
    BLANK,
    NO_TEXTS,
    Cell,
    FieldError,
    check_integer,
    check_label,
    check_number,
    check_text,
    check_turns,
    mistyped,
    show,
)

SPEAKERS, CONTENTS = ("role", "from"), ("content", "value")
MARKER = re.compile(r"\n<extra_id_1>(User|Assistant)\n")
VALUE = re.compile(r"\s*([^:,]*[^:,\s])\s*:\s*([-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?)\s*")
SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")
ROLES = {role: role for role in ("system", "user", "assistant")} | {"developer": "system"}
# ShareGPT's, OpenAssistant's, NeMo-Aligner's, Gemma's, Cohere's and others' names of speakers.
ROLES |= dict.fromkeys(("human", "prompter"), "user")
MODELS = ("gpt", "chatgpt", "bing", "bard", "bot", "chatbot", "model", "ai", "llm", "claude")
ROLES |= dict.fromkeys(MODELS, "assistant")
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


def integer(row: dict, field: str, low: int, high: int) -> int:
    """Read an integer from low to high."""
    return check_integer(present(row, field), field, low, high)


def choice(row: dict, field: str, choices: Sequence) -> object:
    """Read one of the choices."""
    value = present(row, field)
    if isinstance(value, Cell):
        value = {str(each): each for each in choices}.get(value, value)
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


def either(row: Row, usual: str, other: str) -> str:
    """Name the one of two fields that the row has; the usual one where it has none, or both say the
    same."""
    if usual in row and other in row and row[usual] != row[other]:
        what = f"expected either '{usual}' or '{other}', found both"
        raise FieldError(other, what, "two of one field")
    return other if usual not in row and other in row.keys() | row.of_null else usual


def user_turn(content: str) -> Turns:
    """Make a prompt of one turn."""
    return ({"role": "user", "content": content},)


def is_blank(value: object) -> bool:
    if isinstance(value, Cell) and value.strip() in NO_TEXTS:
        return True
    return value is None or (isinstance(value, str) and BLANK.fullmatch(value) is not None)


def messages(row: Row, field: str, value: object, *more: str) -> Turns:
    """Read a list of messages, of "role" and "content" or "from" and "value", by user and assistant
    in turn, or the assistant alone; a blank system message at the start is none. more: what else of
    a message is read, by the caller."""
    if not isinstance(value, list):
        raise mistyped(field, "a text or a list of messages", value)
    turns = []
    for i, message in enumerate(list_of({field: value}, field)):
        place = f"{field}[{i}]"
        said = message.keys() if isinstance(message, dict) else ()
        names = [[n for n in names if n in said] for names in (SPEAKERS, CONTENTS)]
        if [len(each) for each in names] != [1, 1]:
            what = "an object with 'role' and 'content', or 'from' and 'value'"
            raise mistyped(place, what, message)
        who, content = names[0][0], names[1][0]
        _check_message(row, place, field, message, (who, content, *more))
        speaker, text = message[who], message[content]
        if not isinstance(speaker, str) or speaker.lower() not in ROLES:
            found = f"expected one of {', '.join(ROLES)}, found {show(speaker)}"
            raise FieldError(f"{place}.{who}", found, "unknown role")
        role = ROLES[speaker.lower()]
        expected = "assistant" if turns and turns[-1]["role"] == "user" else "user"
        if role != expected and (i or (role != "system" and len(value) > 1)):
            what = f"turn {i + 1} of {len(value)} should be by '{expected}', is by {show(speaker)}"
            raise FieldError(field, what, "turn order")
        parts = text if isinstance(text, list) else [text]
        parts = [part.get("text", part) if isinstance(part, dict) else part for part in parts]
        if role != "system" or not all(map(is_blank, parts)):
            turns.append({"role": role, "content": _only_text(text, f"{place}.{content}")})
    return tuple(turns)


def _check_message(row: Row, place: str, field: str, message: dict, read: Sequence[str]) -> None:
    """Note what a message holds beside its text. Raises FieldError for what looks like an input."""
    for name, value in message.items():
        if name in read or fields.says_nothing(value):
            continue
        if fields.looks(name) or name in fields.IN_TURNS:
            what = "stands beside the text, and only texts are read here: take it out of the turns"
            raise FieldError(f"{place}.{name}", what, f"unread field {show(name)}")
        row.notes.append(("unread", f"{field}[].{name}"))


def _only_text(value: object, place: str) -> str:
    """Read a text, or the one text of a list of parts."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        part = next((part for part in value if part.get("type") != "text"), value[0])
        names = [name for name, each in part.items() if not fields.says_nothing(each)]
        if len(value) > 1 or part.get("type") != "text" or not {*names} <= {"type", "text"}:
            beside = sorted({*map(str, names)} - {"type", "text"}) if len(value) == 1 else ()
            what = f"expected one part of type 'text', found {len(value)}, "
            what += f"one of type {show(part.get('type'))}"
            what += f" with {', '.join(map(show, beside))}" if beside else ""
            raise FieldError(place, what, "parts that are no text")
        value = part.get("text")
    return check_text(value, place)


def conversation(row: Row, field: str) -> Turns:
    """Read the turns of a prompt that is a text (one user turn) or a list of messages."""
    if isinstance(present(row, field), str):
        return user_turn(text(row, field))
    turns = messages(row, field, row[field])
    check_turns(turns, field)
    return turns


def up_to_answer(row: Row, field: str, answer: int) -> list[dict]:
    """Read the messages up to an answer, counted from 1; what is behind it is noted as unread."""
    turns = messages(row, field, present(row, field))
    ends = [i for i, turn in enumerate(turns, 1) if turn["role"] == "assistant"]
    if not ends:
        split_last(turns, field)  # Which raises.
    if len(ends) < answer:
        what = f"expected one of the {len(ends)} answers of '{field}', found {answer}"
        raise FieldError("turn", what, "out of range")
    end = ends[answer - 1]
    row.notes += [("unread", f"{field} behind the judged turn")] * (end < len(turns))
    return list(turns[:end])


def split_last(turns: Sequence[dict], field: str) -> tuple[Turns, str]:
    """Split turns into those before the assistant's last one, and what it says there."""
    if not turns or turns[-1]["role"] != "assistant":
        by = f"the last one is by {show(turns[-1]['role'])}" if turns else "there is no turn"
        what = f"expected a last turn by the assistant, {by}"
        raise FieldError(field, what, "no assistant answer")
    return tuple(turns[:-1]), turns[-1]["content"]


def answered(row: Row, *names: str) -> tuple[Turns, tuple[str, ...]]:
    """Read a prompt and the responses in fields (of `responses`, a list), each a text or the whole
    conversation. `prompt` (messages, or a text, then the conversation's first or last user turn)
    may be left out, and `system` stand by itself. What says it once more must say the same:
    `messages` the prompt and the first response, `response` that."""
    given = () if is_blank(row.get("prompt")) else conversation(row, "prompt")
    whole, before, answers = (), "", []
    for name in names:
        values = list_of(row, name) if name == "responses" else [present(row, name)]
        for i, value in enumerate(values):
            field = f"{name}[{i}]" if name == "responses" else name
            turns, answer = (), value
            if isinstance(value, list | dict):
                value = value if isinstance(value, list) else [value]
                turns, answer = split_last(messages(row, field, value), field)
            answers.append(check_text(answer, field))
            if turns and not whole:
                check_turns(turns, field)
                whole, before = same(given, turns, field, "prompt"), field
            elif turns:
                whole = same(whole, turns, field, before)
    prompt = whole or given
    if not prompt:
        found = "is missing or empty" if "prompt" in row else "is missing"
        what = f"{found}, needed where '{names[0]}' is a text and not a conversation"
        raise FieldError("prompt", what, "missing field")
    if "messages" not in names and not fields.says_nothing(row.get("messages")):
        turns, answer = split_last(messages(row, "messages", row["messages"]), "messages")
        _agree("messages", answer, answers[0], names[0])
        prompt = same(prompt, turns, "messages", "prompt")
    if "response" not in names and isinstance(row.get("response"), str):
        _agree("response", row["response"], answers[0], names[0])
    return with_system(row, prompt), tuple(answers)


def _agree(field: str, value: str, other: str, name: str) -> None:
    if value.strip() != other.strip():
        what = f"says another thing than {name}: leave one of them out"
        raise FieldError(field, what, "two of one field")


def same(given: Turns, turns: Turns, field: str, other: str) -> Turns:
    """Give the longer of two prompts that say the same: the given one may be the first or last user
    turn of the other, and one of them may have no system turn. Raises FieldError."""
    if not given:
        return turns
    found, expected = (
        [turn["content"].strip() for turn in each if turn["role"] != "system"]
        for each in (turns, given)
    )
    systems = [[x for x in each if x["role"] == "system"] for each in (turns, given)]
    short = other == "prompt" and len(expected) == 1 and expected[0] in (found[0], found[-1])
    if not (short or found == expected) or (all(systems) and systems[0] != systems[1]):
        what = f"expected the messages before the last to be those of '{other}', found others"
        raise FieldError(field, what, "two prompts")
    return (*(systems[0] or systems[1]), *(x for x in turns if x["role"] != "system"))


def with_system(row: Row, turns: Turns) -> Turns:
    """Put the text of a field `system` before the turns, where there is one."""
    if is_blank(row.get("system")):
        return turns
    first = {"role": "system", "content": text(row, "system")}
    if turns and turns[0]["role"] == "system" and turns[0] != first:
        what = "expected one system text, found another one in the first turn"
        raise FieldError("system", what, "two of one field")
    return (first, *(turn for turn in turns if turn["role"] != "system"))


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
    for i, (speaker, content) in enumerate(zip(rest[::2], rest[1::2], strict=True), 1):
        role = "user" if speaker == "Human" else "assistant"
        if i == 1 and role == "assistant":
            what = f"turn 1 of {len(rest) // 2} should be by 'Human', is by 'Assistant'"
            raise FieldError(field, what, "turn order")
        content = check_text(content.strip(), f"{field}, turn {i}")
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n\n" + content
        else:
            turns.append({"role": role, "content": content})
    return split_last(turns, field)


def instruction(row: dict, field: str, more: str = "", before: str = "") -> Turns:
    """Read a prompt of one user turn, with the text of another field behind it if there is any."""
    content = before + text(row, field)
    return user_turn(content if is_blank(row.get(more)) else f"{content}\n\n{text(row, more)}")


def response_columns(row: dict, *fields: str) -> tuple[str, ...]:
    """Read responses, each in a column of its own."""
    return tuple(text(row, field) for field in fields)


def response_or_list(row: Row, usual: str, other: str) -> tuple[str, ...]:
    """Read responses in one of two columns, each a text or a list of texts."""
    field = either(row, usual, other)
    return texts(row, field) if field == "responses" else (text(row, field),)


def rating_columns(row: Row, names: Sequence[str], low: int, high: int, check=check_number):
    """Read ratings of the one response, each in the column of its name; null is unknown."""
    ratings = {}
    for name in names:
        if name in row.of_null or fields.is_unknown(present(row, name)):
            row.notes.append(("unknown", name))
        else:
            ratings[name] = float(check(row[name], name, low, high))
    return (ratings,)


def check_mean(values: object, field: str, low: float, high: float, check=check_integer) -> float:
    """Return the mean of a list of numbers, one by each annotator."""
    each = list_of({field: values}, field)
    return sum(check(v, f"{field}[{i}]", low, high) for i, v in enumerate(each)) / len(each)


def rating_objects(row: Row, field: str, several: bool) -> tuple[dict[str, float], ...]:
    """Read ratings of each response (not several: of the one), an object from attribute to number;
    null and "N/A" are unknown."""
    ratings = []
    for i, rating in enumerate(list_of(row, field) if several else [present(row, field)]):
        if not isinstance(rating, dict):
            what = "an object from attribute to number (of one, map {ATTRIBUTE=ratings})"
            raise mistyped(f"{field}[{i}]", what, rating)
        numbers = {k: fields.number(v, f"{field}[{i}].{k}") for k, v in rating.items()}
        row.notes += (("unknown", name) for name, value in numbers.items() if value is None)
        ratings.append({name: value for name, value in numbers.items() if value is not None})
    return tuple(ratings)


def parse_label(label: object, field: str) -> dict[str, float]:
    """The values of "helpfulness:4,verbosity:2". Raises FieldError."""
    parts = [VALUE.fullmatch(part) for part in check_text(label, field).split(",")]
    values = {part[1]: float(part[2]) for part in parts if part}
    if len(values) < len(parts):
        what = f"expected as 'helpfulness:4,verbosity:2', found {show(label)}"
        raise FieldError(field, what, "malformed label")
    return {name: check_number(value, field, -1e6, 1e6) for name, value in values.items()}


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


def benchmark_place(row: dict, id: str, column: str = "", name: str = "subset") -> dict:
    """Read the place of a row in its benchmark: the text of its subset, and an id if it has one."""
    found = {name: text(row, column)} if column else {}
    return found if row.get(id) is None else {**found, "id": check_label(row[id], id)}
