"""Criteria that a response is judged by, as data: a definition, a scale and a rubric, and the words
in which a judge is told what it judges."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from hs2jax.data import files, rows, tables
from hs2jax.data.groups import FieldError, Group, check_integer, show

FOLDER = Path(__file__).parent / "criteria"
ONE_TO_FIVE = (1, 2, 3, 4, 5)
FIELDS = ("name", "definition", "levels", "scale")
FARTHEST = 1000  # Of the values of a scale from 0.


@dataclasses.dataclass(frozen=True)
class Words:
    """The words of a judge's task, and its headings for what is judged; `pair`, the task where two
    responses are compared."""

    task: str = "You are a fair judge of how an AI assistant has responded to a user."
    prompt: str = "Prompt"
    response: str = "Response"
    pair: str = (
        "You are a fair judge of which of two responses of AI assistants to a user is better."
    )


@dataclasses.dataclass(frozen=True)
class Criterion:
    """One thing to judge a response by.

    Attributes:
        name: as people and prompts say it, unique among the criteria that are used together.
        definition: what it means, a sentence.
        levels: what each value of the scale means, in its order; () for a scale without a rubric.
        scale: the integers that may be answered, increasing.
        words: that the judge is asked in, the same for all criteria of a set.
    """

    name: str
    definition: str
    levels: tuple[str, ...] = ()
    scale: tuple[int, ...] = ONE_TO_FIVE
    words: Words = Words()


# Stands for the rubric that each row of data brings itself, as in BIGGen-Bench.
ROWS_OWN = Criterion("rubric", "What the row's own rubric says.")


def bundled() -> list[str]:
    """List the names of the sets that come with hs2jax."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> tuple[Criterion, ...]:
    """Load a set of criteria by its name, or from a file of one's own.

    name: "helpsteer" (its five attributes, on 1..5), "flask" (the twelve skills of arXiv
    2307.10928), "summeval" (the four of arXiv 2007.12626), "data_selection" (LAGER's seven, arXiv
    2508.03550, on 1..9), in words of this project; "rubric" for the one that each row of data has.
    Or a .json file: a list of objects with name, definition, and, where wanted, levels (a text for
    each value of the scale) and scale (a list of increasing integers; 1 to 5 where absent); or
    {"words": {...}, "criteria": [...]} with such a list and any of the fields of `Words`.

    Raises ValueError for an unknown name, FileNotFoundError where there is no such file, and
    DataError, with file, number of the criterion and field, for what is malformed.
    """
    if name == ROWS_OWN.name:
        return (ROWS_OWN,)
    if not name.endswith(".json"):
        if name not in bundled():
            known = ", ".join([*bundled(), ROWS_OWN.name])
            raise ValueError(
                f"there are no criteria '{name}': expected one of {known}, or the path of a .json "
                "file"
            )
        name = str(FOLDER / f"{name}.json")
    files.expand(name)
    try:
        found, words = _listed(name)
    except FieldError as error:
        raise error.at(name, 1) from None
    names: dict[str, str] = {}

    def parse(row: dict, source: str) -> Criterion:
        criterion = dataclasses.replace(_criterion(row), words=words)
        # As a judge is shown them, and people read them.
        said = " ".join(criterion.name.replace("_", " ").split()).casefold()
        if said in names:
            what = f"another criterion is named {show(names[said])}, too"
            raise FieldError("name", what, "two of one name")
        names[said] = criterion.name
        return criterion

    return tuple(files.parse_rows(name, found, parse))


def find(name: str) -> Criterion:
    """Find a criterion of a set that `load` knows: "SET/NAME" as in "flask/factuality"; NAME alone
    is one of HelpSteer's. Raises ValueError with the names that there are, and as `load` does."""
    criteria, _, wanted = name.rpartition("/")
    found = load(criteria or "helpsteer")
    for criterion in found:
        if criterion.name == wanted:
            return criterion
    known = ", ".join(criterion.name for criterion in found)
    raise ValueError(
        f"there is no criterion '{wanted}' in {criteria or 'helpsteer'}: expected one of {known}; "
        f"those of other sets are SET/NAME, with the sets {', '.join(bundled())}"
    )


def of_group(group: Group) -> Criterion:
    """The criterion of a row of BIGGen-Bench (arXiv 2406.05761), from its own rubric, which `about`
    has as JSON: with "criteria" and "score1_description" to "score5_description".

    Raises ValueError where there is none, and FieldError for what is absent or not a text.
    """
    if "rubric" not in group.about:
        raise ValueError(f"{group.source}: the row has no rubric to judge by; name criteria")
    rubric = tables.decode(group.about["rubric"].encode())
    levels = tuple(rows.text(rubric, f"score{i}_description").strip() for i in ONE_TO_FIVE)
    return Criterion("rubric", rows.text(rubric, "criteria").strip(), levels)


def _listed(path: str) -> tuple[list, Words]:
    """Read the list of criteria in a file, and the words. Raises FieldError."""
    content = b"".join(line for _, line in tables.text_lines(files.locate(path), path))
    alone = content.lstrip().startswith(b"[")
    found = tables.decode(b'{"criteria": %b}' % content if alone else content)
    listed = rows.list_of(found, "criteria")
    _check_fields(found, ("criteria", "words"))
    words, known = found.get("words", {}), [field.name for field in dataclasses.fields(Words)]
    bad = not isinstance(words, dict) or not words.keys() <= set(known)
    if bad or not all(isinstance(text, str) and text.strip() for text in words.values()):
        what = f"expected an object with texts for any of {', '.join(known)}, found {words}"
        raise FieldError("words", what, "malformed words")
    return listed, Words(**words)


def _check_fields(row: dict, known: Sequence[str]) -> None:
    for name in row:
        if name not in known:
            raise FieldError(name, f"is unknown, expected {', '.join(known)}", "unknown field")


def _criterion(row: dict) -> Criterion:
    """A criterion from its object in the file. Raises FieldError."""
    _check_fields(row, FIELDS)
    scale = ONE_TO_FIVE
    if "scale" in row:
        values = enumerate(rows.list_of(row, "scale"))
        scale = tuple(check_integer(x, f"scale[{i}]", -FARTHEST, FARTHEST) for i, x in values)
        if len(scale) < 2 or list(scale) != sorted(set(scale)):
            what = f"expected at least two increasing integers, found {show(str(list(scale)))}"
            raise FieldError("scale", what, "malformed scale")
    levels = rows.texts(row, "levels") if "levels" in row else ()
    if "levels" in row and len(levels) != len(scale):
        what = f"expected {len(scale)} texts, one for each value of the scale, found {len(levels)}"
        raise FieldError("levels", what, "wrong number of levels")
    name = rows.text(row, "name")
    if "/" in name or len(name.splitlines()) > 1:
        what = f"expected a name in one line and without '/', found {show(name)}"
        raise FieldError("name", what, "malformed name")
    return Criterion(name, rows.text(row, "definition"), levels, scale)
