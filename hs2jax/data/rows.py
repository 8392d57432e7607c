"""From one row of each format to a Group. Formats: HelpSteer (arXiv 2311.09528), HelpSteer2
(2406.08673), HelpSteer2-Preference (2410.01257), HH-RLHF (2204.05862), and two general ones.

Each function takes a decoded JSON object and raises FieldError, with the field's name, for anything
that its format does not allow. Fields that a format does not know are ignored.
"""

import re

from hs2jax.data.groups import (
    FieldError,
    Group,
    check_number,
    check_ratings,
    check_text,
    check_turns,
    show,
)

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
NEITHER_VALID = -100  # What HelpSteer2-Preference's annotators chose where no response was valid.
MARKER = re.compile(r"\n<extra_id_1>(User|Assistant)\n")
SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def helpsteer(row: dict) -> Group:
    """One response with five integer ratings from 0 to 4; rows of one prompt are joined later."""
    return Group(
        prompt=marked_turns(text(row, "prompt")),
        responses=(text(row, "response"),),
        ratings=({name: float(integer(row, name, 0, 4)) for name in ATTRIBUTES},),
    )


def helpsteer2_preference(row: dict) -> Group:
    """Two responses and how much the second is better. What annotators wrote is not kept."""
    for name in ("preference_statement", "preference_elaboration"):
        if row.get(name) not in (None, ""):
            check_text(row[name], name)
    if "split" in row:
        split(row)
    if row.get("preference_strength") == NEITHER_VALID:
        what = f"{NEITHER_VALID} says that neither response is valid, expected -3 to 3"
        raise FieldError("preference_strength", what, "neither response valid")
    return Group(
        prompt=marked_turns(text(row, "prompt")),
        responses=(text(row, "response_1"), text(row, "response_2")),
        strength=float(integer(row, "preference_strength", -3, 3)),
    )


def helpsteer2_disagreements(row: dict) -> Group:
    """As `helpsteer`, with a list of each annotator's rating; a rating is the mean of its list."""
    ratings = {}
    for name in ATTRIBUTES:
        values = list_of(row, name)
        each = [check_integer(value, f"{name}[{i}]", 0, 4) for i, value in enumerate(values)]
        ratings[name] = sum(each) / len(each)
    return Group(
        prompt=marked_turns(text(row, "prompt")),
        responses=(text(row, "response"),),
        ratings=(ratings,),
    )


def helpsteer3(row: dict) -> Group:
    """A conversation as messages, two responses and how much the second is better.

    The domain, the language and what annotators wrote are not kept.
    """
    context = messages(row, "context")
    check_turns(context, "context")
    return Group(
        prompt=context,
        responses=(text(row, "response1"), text(row, "response2")),
        strength=float(integer(row, "overall_preference", -3, 3)),
    )


def hh_rlhf(row: dict) -> Group:
    """Two transcripts that differ in the assistant's last turn only; the first was preferred."""
    prompt, chosen = transcript(row, "chosen")
    other_prompt, rejected = transcript(row, "rejected")
    if other_prompt != prompt:
        what = "differs from 'chosen' before the assistant's last turn, expected one shared prompt"
        raise FieldError("rejected", what, "two prompts")
    return Group(prompt=prompt, responses=(chosen, rejected), strength=-1.0)


def preference(row: dict) -> Group:
    """A prompt (text or messages), `chosen`, `rejected` (texts, last messages or conversations).

    `strength`, above 0 and at most 3, says how much better the chosen one is; 1 where absent.
    Without `prompt`, both conversations must hold the same one.
    """
    prompt = conversation(row, "prompt") if "prompt" in row else None
    prompt, chosen = answer(row, "chosen", prompt)
    prompt, rejected = answer(row, "rejected", prompt)
    strength = number(row, "strength", 0, 3) if "strength" in row else 1.0
    if strength == 0:
        what = "expected a number above 0: a row of chosen and rejected cannot be a tie"
        raise FieldError("strength", what, "out of range")
    return Group(prompt=prompt, responses=(chosen, rejected), strength=-strength)


def ratings(row: dict) -> Group:
    """A prompt (text or messages), and `responses` with a list of `ratings`, or one of each.

    A rating is an object from attribute to number or null (unknown). `strength`, from -3 to 3, is
    allowed with two responses; negative says that the first is better.
    """
    if "response" in row and "responses" in row:
        what = "expected either 'response' or 'responses', found both"
        raise FieldError("responses", what, "two of one field")
    if "response" in row:
        responses, rated = (text(row, "response"),), [present(row, "ratings")]
        names = ["ratings"]
    else:
        items = list_of(row, "responses")
        responses = tuple(check_text(item, f"responses[{i}]") for i, item in enumerate(items))
        rated = list_of(row, "ratings")
        names = [f"ratings[{i}]" for i in range(len(rated))]
    if len(rated) != len(responses):
        what = f"expected one object per response, found {len(rated)} for {len(responses)}"
        raise FieldError("ratings", what, "wrong number of ratings")
    for name, rating in zip(names, rated, strict=True):
        if not isinstance(rating, dict):
            what = f"expected an object from attribute to number, found {show(rating)}"
            raise FieldError(name, what, "wrong type")
    known = tuple({k: v for k, v in rating.items() if v is not None} for rating in rated)
    check_ratings(known, len(responses))
    return Group(
        prompt=conversation(row, "prompt"),
        responses=responses,
        ratings=tuple({k: float(v) for k, v in rating.items()} for rating in known),
        strength=number(row, "strength", -3, 3) if "strength" in row else None,
    )


def responses(row: dict) -> Group:
    """Only what is to be scored: `messages` that end with the assistant's, or a `prompt` (text or
    messages) with a `response` or a list of `responses`."""
    if "messages" in row:
        prompt, last = answer(row, "messages", None)
        return Group(prompt=prompt, responses=(last,))
    if "response" in row:
        found = (text(row, "response"),)
    else:
        items = list_of(row, "responses")
        found = tuple(check_text(item, f"responses[{i}]") for i, item in enumerate(items))
    return Group(prompt=conversation(row, "prompt"), responses=found)


def present(row: dict, field: str) -> object:
    """The value of a field that must be there."""
    if field not in row:
        what = f"is missing; the row has {', '.join(map(show, sorted(row)[:12])) or 'no fields'}"
        raise FieldError(field, what, "missing field")
    return row[field]


def text(row: dict, field: str) -> str:
    """A text that says something."""
    return check_text(present(row, field), field)


def number(row: dict, field: str, low: float, high: float) -> float:
    """A finite number from low to high."""
    return check_number(present(row, field), field, low, high)


def integer(row: dict, field: str, low: int, high: int) -> int:
    """An integer from low to high."""
    return check_integer(present(row, field), field, low, high)


def check_integer(value: object, field: str, low: int, high: int) -> int:
    """`value`, if it is an integer from low to high."""
    check_number(value, field, low, high)
    if not isinstance(value, int):
        what = f"expected an integer from {low} to {high}, found {show(value)}"
        raise FieldError(field, what, "wrong type")
    return value


def split(row: dict) -> str:
    """The row's split, train or val."""
    value = present(row, "split")
    if value not in ("train", "val"):
        what = f"expected 'train' or 'val', found {show(value)}"
        raise FieldError("split", what, "unknown split")
    return value


def list_of(row: dict, field: str) -> list:
    """A list that is not empty."""
    value = present(row, field)
    if not isinstance(value, list):
        raise FieldError(field, f"expected a list, found {show(value)}", "wrong type")
    if not value:
        raise FieldError(field, "expected a list of at least one, found an empty one", "empty list")
    return value


def marked_turns(prompt: str) -> tuple[dict, ...]:
    """The turns of a HelpSteer prompt, whose later turns follow marker lines."""
    first, *rest = MARKER.split(prompt)
    turns = [{"role": "user", "content": first}]
    for speaker, content in zip(rest[::2], rest[1::2], strict=True):
        turns.append({"role": speaker.lower(), "content": content})
    if any("<extra_id_1>" in turn["content"] for turn in turns):
        what = "holds a marker that is not a line '<extra_id_1>User' or '<extra_id_1>Assistant'"
        raise FieldError("prompt", what, "turn order")
    check_turns(tuple(turns), "prompt")
    return tuple(turns)


def transcript(row: dict, field: str) -> tuple[tuple[dict, ...], str]:
    """The prompt's turns and the assistant's last turn of a Human/Assistant transcript.

    Some transcripts give one speaker several turns on end: they are joined, since chat templates
    know only turns that alternate.
    """
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
    if not turns or turns[-1]["role"] != "assistant":
        raise FieldError(field, "expected the last turn to be the assistant's", "turn order")
    check_turns(tuple(turns[:-1]), field)
    return tuple(turns[:-1]), turns[-1]["content"]


def conversation(row: dict, field: str) -> tuple[dict, ...]:
    """The turns of a prompt that is a text (one user turn) or a list of messages."""
    if isinstance(present(row, field), str):
        return ({"role": "user", "content": text(row, field)},)
    turns = messages(row, field)
    check_turns(turns, field)
    return turns


def messages(row: dict, field: str) -> tuple[dict, ...]:
    """A list of messages, in any order of roles."""
    value = present(row, field)
    if not isinstance(value, list):
        what = f"expected a text or a list of messages, found {show(value)}"
        raise FieldError(field, what, "wrong type")
    turns = []
    for i, message in enumerate(list_of(row, field)):
        place = f"{field}[{i}]"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            what = f"expected an object with 'role' and 'content', found {show(message)}"
            raise FieldError(place, what, "wrong type")
        if message["role"] not in ("system", "user", "assistant"):
            what = f"expected system, user or assistant, found {show(message['role'])}"
            raise FieldError(f"{place}.role", what, "unknown role")
        content = check_text(message["content"], f"{place}.content")
        turns.append({"role": message["role"], "content": content})
    return tuple(turns)


def answer(row: dict, field: str, prompt: tuple[dict, ...] | None) -> tuple[tuple[dict, ...], str]:
    """The prompt (the given one, else that of the conversation) and the assistant's answer."""
    if isinstance(present(row, field), str):
        if prompt is None:
            what = f"is missing, needed where '{field}' is a text and not a conversation"
            raise FieldError("prompt", what, "missing field")
        return prompt, text(row, field)
    *before, last = messages(row, field)
    if last["role"] != "assistant":
        what = f"expected the last message to be the assistant's, is by {show(last['role'])}"
        raise FieldError(field, what, "turn order")
    if prompt is None:
        if not before:
            what = "expected a conversation, since the row has no 'prompt'; found an answer only"
            raise FieldError(field, what, "missing field")
        check_turns(tuple(before), field)
        return tuple(before), last["content"]
    if before and tuple(before) != prompt:
        what = "expected the messages before the last to be the prompt's, found others"
        raise FieldError(field, what, "two prompts")
    return prompt, last["content"]
