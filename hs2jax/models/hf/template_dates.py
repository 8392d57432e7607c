"""Chat templates that write today's date, made to write one fixed date.

Llama 3.2's and Mistral's templates ask `transformers` for the date, so the tokens of a conversation
would depend on the day: a resumed run would train on other tokens and a score could not be made
again.
"""

import datetime
import re
from typing import Any

# What Llama 3.1's and 3.2's own templates write where they are given no date.
DATE = datetime.datetime(2024, 7, 26)
CALL = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<form>[^"'\\]*)(?P=quote)\s*\)""")
# Where a template may name the function without calling it: in a comment, or to see if it is there.
HARMLESS = re.compile(r"{#.*?#}|strftime_now\s+is\s+(?:not\s+)?defined", re.DOTALL)


def fix_dates(template: str) -> str:
    """The template with each `strftime_now("FORMAT")` replaced by the text of DATE in that format.

    Raises ValueError where `strftime_now` is used in any other way.
    """
    fixed = CALL.sub(lambda call: f'"{DATE.strftime(call["form"])}"', template)
    left = HARMLESS.sub("", fixed)
    if "strftime_now" in left:
        start = left.index("strftime_now")
        raise ValueError(
            f"the chat template uses {left[start : start + 60]!r}, which depends on the day and is "
            'not supported: only strftime_now("FORMAT") is, with the format as a plain text. Write '
            "a fixed date in its place, in chat_template.jinja or tokenizer_config.json"
        )
    return fixed


def fix_tokenizer(tokenizer: Any) -> bool:
    """Fix the dates of the tokenizer's chat templates; returns whether there were any.

    Raises ValueError as `fix_dates` does.
    """
    before = tokenizer.chat_template
    if isinstance(before, dict):
        tokenizer.chat_template = {name: fix_dates(text) for name, text in before.items()}
    elif before is not None:
        tokenizer.chat_template = fix_dates(before)
    return tokenizer.chat_template != before
