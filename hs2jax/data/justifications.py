"""The words of the Pairwise Justifier: a language model is shown two responses, says why, and then
which is better (HelpSteer2-Preference, arXiv 2410.01257, its third kind of reward model).

Published: the question, the annotators' elaboration with their statement behind it as the answer,
and the likelihood of the answer alone as the loss. Not published where we could read it, and so
ours: line ends between the parts, `@User:` and `@Assistant:` for prompts of several turns, and what
of a row is left out (`group`).
"""

import re
from collections.abc import Mapping, Sequence

from hs2jax.data import rows, strengths
from hs2jax.data.fields import Row
from hs2jax.data.groups import FieldError, Group

WAYS = ("statements", "written")  # How a verdict is had: see `evaluation.justifier`.
STATEMENTS = tuple(f"@Response {a} is better than @Response {b}." for a, b in ((1, 2), (2, 1)))
QUESTION = "Between @Response 1 and @Response 2, which is better?"
# Lines of a text that pose as the question's own are marked as quoted.
POSING = re.compile(
    r"^(?=\s*(?:@(?:Response\s*[12]|User|Assistant):|Between @Response))", re.IGNORECASE | re.M
)
QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|`[^`\n]*`|^[ \t]*>.*$", re.M)
STATEMENT = re.compile(
    r"(?:^|[.!?:]\s)[\s*_#-]*(?:[A-Z]\w*,\s+)?@?Response\s*([12])\s+is\s+"
    r"(?:(?!(?:not|no|never|hardly|neither)\b)\w+\s+){0,2}(better|worse)\s+than\s+"
    r"@?Response\s*([12])\b(?![^.!?]*\?)"
)
NAMED = re.compile(r"\b(response\s*)([12])\b", re.I)
PLACED = re.compile(r"\b(?:former|latter|(?:first|second) (?:response|answer|one))\b", re.I)
CUT = "the text was cut before its verdict"
NO_STATEMENT = "no statement of a better response stands in the last line"


def question(prompt: Sequence[Mapping], first: str, second: str) -> str:
    """Ask which of two responses to a prompt is better."""
    if len(prompt) == 1:
        asked = [POSING.sub("> ", prompt[0]["content"])]
    else:
        asked = [f"@{x['role'].title()}:\n{POSING.sub('> ', x['content'])}" for x in prompt]
    shown = [f"@Response {i}:\n{POSING.sub('> ', x)}" for i, x in enumerate((first, second), 1)]
    return "\n\n".join((*asked, *shown, QUESTION))


def verdict(text: str, finished: bool = True) -> int | str:
    """Read which response a judge prefers, 1 or 2, by the last statement of the text's last line;
    or why there is none. What it quotes, denies or asks is none. finished: the judge ended it."""
    if not finished:
        return CUT
    last = QUOTED.sub("", text).rstrip().rpartition("\n")[2]
    said = [x.groups() for x in STATEMENT.finditer(last) if x[1] != x[3]]
    if not said:
        return NO_STATEMENT
    better, how, worse = said[-1]
    return int(better if how == "better" else worse)


def exchanged(text: str) -> str:
    """Call the first response the second, and the second the first."""
    return NAMED.sub(lambda found: found[1] + "21"[int(found[2]) - 1], text)


def group(row: Row, swapped: bool = False) -> Group:
    """Make the question about the two responses of a row of HelpSteer2-Preference, and, as the
    answer, the row's elaboration, where it has one, and its statement in a line of its own.

    swapped: with the second response first. Raises FieldError for a tie, for a statement that does
    not name the better response by the row's strength, and, swapped, for words such as "the
    latter", which would then say the opposite.
    """
    strength = strengths.signed(row, "preference_strength")
    prompt = rows.marked_turns(row, "prompt")
    shown = rows.response_columns(row, "response_1", "response_2")
    if not strength:
        raise FieldError("preference_strength", "is 0, and a tie has no better response", "a tie")
    answer = rows.text(row, "preference_statement").strip()
    if not rows.is_blank(row.get("preference_elaboration")):
        answer = f"{rows.text(row, 'preference_elaboration').strip()}\n\n{answer}"
    if (found := verdict(answer)) != (2 if strength > 0 else 1):
        what = f"expected a last line '{STATEMENTS[strength > 0]}', or slightly or much better; "
        what += found if isinstance(found, str) else f"it says that @Response {found} is better"
        raise FieldError("preference_statement", what, "no statement of the better response")
    if swapped:
        if word := PLACED.search(answer):
            what = f"names a response by its place, '{word[0]}', which swapping makes wrong"
            raise FieldError("preference_elaboration", what, "a response named by its place")
        shown, answer = shown[::-1], exchanged(answer)
    return Group(rows.user_turn(question(prompt, *shown)), (answer,))
