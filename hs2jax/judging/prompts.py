"""Questions to a judge: the item first, then the question, so that all questions share the item.

A text is the user's message; the assistant's turn is made to start with the prefix, and the answer
is the next token, or the assistant writes its answer itself. Written for this project; the parts
are those of LAGER's templates (figures of its appendix): the task, the prompt, the response, the
criterion with its rubric, the form of the answer.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from hs2jax.judging.criteria import Criterion, Words

PREFIX = "Score: "

ITEM = """\
{words.task}

[{words.prompt}]
{prompt}

[{words.response}]
{response}

"""

QUESTION = """\
[Criterion]
{name}: {definition}
{levels}
{form}"""

RATE = """\
Rate the response by this criterion alone, with one integer from {low} to {high}, \
and nothing else."""

# How the answer is asked for, by condition. "forced": the assistant's turn begins with PREFIX.
FORMS = {
    "forced": RATE,
    "direct": f'{RATE} Write it as "{PREFIX}" and the integer.',
    "reasoning": f"""\
Write feedback on the response by this criterion alone. Then end with a line "{PREFIX}" and one \
integer from {{low}} to {{high}}, with nothing after it.""",
}

PAIR = """\
{words.pair}

[{words.prompt}]
{prompt}

[{words.response} A]
{first}

[{words.response} B]
{second}

"""

WHICH = """\
[Criterion]
{name}: {definition}

Say which response is better by this criterion alone, with one letter, A or B, and nothing else."""


class Request(NamedTuple):
    """One item and the questions about it.

    The user's message is `item` with one of `questions` behind it. The assistant's turn starts
    with `prefix`, and one of `answers` follows, in the order of their values. source: "file:line".
    """

    item: str
    questions: tuple[str, ...]
    prefix: str
    answers: tuple[str, ...]
    source: str = ""


def pointwise(
    prompt: str,
    response: str,
    criteria: Sequence[Criterion],
    source: str = "",
    condition: str = "forced",
) -> Request:
    """One response, rated by each of the criteria. condition: one of FORMS; the prefix is for
    "forced" only. Raises ValueError where the criteria's scales differ."""
    scale = scale_of(criteria)
    return Request(
        _item(ITEM, criteria[0].words, prompt=prompt, response=response),
        tuple(question(criterion, condition) for criterion in criteria),
        PREFIX,
        tuple(map(str, scale)),
        source,
    )


def question(criterion: Criterion, condition: str = "forced") -> str:
    """The criterion with its rubric and the form of the answer."""
    levels = zip(criterion.scale, criterion.levels, strict=True) if criterion.levels else ()
    return QUESTION.format(
        name=_heading(criterion),
        definition=criterion.definition,
        levels="".join(f"{value}: {level}\n" for value, level in levels),
        form=FORMS[condition].format(low=criterion.scale[0], high=criterion.scale[-1]),
    )


def pair(prompt: str, first: str, second: str, criterion: Criterion, source: str = "") -> Request:
    """Two responses; which is better by the criterion, A (the first) or B."""
    item = _item(PAIR, criterion.words, prompt=prompt, first=first, second=second)
    which = WHICH.format(name=_heading(criterion), definition=criterion.definition)
    return Request(item, (which,), "Better: ", ("A", "B"), source)


def _item(form: str, words: Words, **texts: str) -> str:
    """Fill in a form. A line of a text that poses as one of the form's own, a heading or an answer,
    is marked as quoted, so that what is judged cannot say where it ends or what its score is."""
    names = "|".join(map(re.escape, (words.prompt, words.response, "Criterion")))
    start = r"(?<![^\n\r\v\f\x85\u2028\u2029])"  # Of a line, whatever ends the one before.
    posing = rf"\[(?:{names})(?:\s*[AB])?\]|(?:Score|Better)[\s*_]*[:：]"
    own = re.compile(rf"{start}(?=(?:[^\w\n]|_)*(?:{posing}))", re.I)
    return form.format(words=words, **{name: own.sub("> ", text) for name, text in texts.items()})


def _heading(criterion: Criterion) -> str:
    name = criterion.name.replace("_", " ")
    return name[:1].upper() + name[1:]


def scale_of(criteria: Sequence[Criterion]) -> tuple[int, ...]:
    """The one scale of the criteria. Raises ValueError naming those that differ."""
    scale = criteria[0].scale
    for each in criteria:
        if each.scale != scale:
            raise ValueError(
                f"criterion {each.name!r} has the scale {each.scale[0]}..{each.scale[-1]} and "
                f"{criteria[0].name!r} {scale[0]}..{scale[-1]}: judge by them apart"
            )
    return scale


def key(chat_template: str) -> str:
    """A short name of the point-wise texts in a chat template, which changes where they do. One for
    all conditions, since weights that are fitted in one serve the others, as in the paper."""
    item = ITEM.format(words=Words(), prompt="{prompt}", response="{response}")
    texts = "\0".join((item, QUESTION, *FORMS.values(), PREFIX, chat_template))
    return f"pointwise-{hashlib.sha256(texts.encode()).hexdigest()[:12]}"
