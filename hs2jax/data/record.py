"""The record of a run's data: nothing is dropped or cut without being counted here."""

import dataclasses
from collections.abc import Iterable

from hs2jax.data.groups import Group

MAX_EXAMPLES = 10
# Why groups are left out once they are read, by the field that counts them.
TOO_LONG, REFUSED = "too long", "refused by the chat template"
POSING = "a text reads as the chat template's own"
REASONS = {"too_long": TOO_LONG, "refused": REFUSED, "posing": POSING}


@dataclasses.dataclass
class Record:
    """Counts, filled by the corpora (rows, groups, skipped) and by the loader (the rest)."""

    rows: int = 0  # Rows read. Every one is in a group or is counted in `skipped`.
    groups: int = 0
    pairs: int = 0
    ties: int = 0  # Comparisons left out because neither response is better.
    # Pairs left out because the model reads the same tokens of both responses.
    indistinct: int = 0
    # By reason, rows left out because they or their partners are malformed.
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    # The first few error texts, which name file, line and field; of refused groups too.
    skipped_examples: list[str] = dataclasses.field(default_factory=list)
    truncated: int = 0  # Prompts cut from the left.
    too_long: int = 0  # Groups left out because they do not fit.
    refused: int = 0  # Groups left out because the chat template refuses them.
    posing: int = 0  # Groups left out because a text would be read as the chat template's own.
    # Assistant turns within prompts that the template writes otherwise than where they are last.
    unlearned_turns: int = 0
    unwritten: int = 0  # Groups with a text that the chat template leaves out or changes.
    # Rows with a column that its format does not read, by "COLUMN in FILE".
    unread: dict[str, int] = dataclasses.field(default_factory=dict)
    unknown: dict[str, int] = dataclasses.field(default_factory=dict)  # Ratings, by attribute.
    strengths: dict[str, int] = dataclasses.field(default_factory=dict)  # Rows, by how they say it.
    # Of each attribute that is rated: its n, low, high and mean.
    ratings: dict[str, dict] = dataclasses.field(default_factory=dict)
    # Rows with a conversation within a text, by its kind.
    transcripts: dict[str, int] = dataclasses.field(default_factory=dict)
    # By reason, questions which of two is better that a judge gave no verdict on.
    without_verdict: dict[str, int] = dataclasses.field(default_factory=dict)
    tokens: int = 0  # Tokens that belong to a conversation.
    padding: int = 0  # Those that only fill up rows.

    def skip(self, reason: str, rows: int = 1, example: str | None = None) -> None:
        """Count rows left out for a reason, and keep the example if there are few yet."""
        self.skipped[reason] = self.skipped.get(reason, 0) + rows
        if example is not None:
            self.keep(example)

    def leave_out(self, reason: str, n: int = 1) -> None:
        """Count groups, or other things, that are left out once they are read."""
        field = next((field for field, text in REASONS.items() if text == reason), None)
        if field is None:
            self.skip(reason, n)
        else:
            setattr(self, field, getattr(self, field) + n)

    def count(self, group: Group) -> None:
        """Count a group, and what its ratings are."""
        self.groups += 1
        for name, value in (pair for rating in group.ratings for pair in rating.items()):
            found = self.ratings.setdefault(
                name, {"n": 0, "low": value, "high": value, "mean": 0.0}
            )
            found["n"] += 1
            found["mean"] += (value - found["mean"]) / found["n"]
            found["low"], found["high"] = min(found["low"], value), max(found["high"], value)

    def note(self, notes: Iterable[tuple[str, str]], file: str) -> None:
        """Count what rows of a file say beside their group: see `fields.Row`."""
        for kind, name in notes:
            counts = getattr(self, kind)
            name = f"{name} in {file}" if kind == "unread" else name
            counts[name] = counts.get(name, 0) + 1

    def add(self, other: "Record") -> None:
        """Count what was left out of groups that were read."""
        for name in ("refused", "posing", "unlearned_turns", "unwritten"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.skip_as(other)

    def skip_as(self, other: "Record") -> None:
        """Count what was left out of another file, which stands beside the data."""
        for reason, rows in other.skipped.items():
            self.skip(reason, rows)
        self.keep(*other.skipped_examples)

    def keep(self, *examples: str) -> None:
        """Keep error texts while there are few."""
        self.skipped_examples = [*self.skipped_examples, *examples][:MAX_EXAMPLES]

    @property
    def padding_fraction(self) -> float:
        """Padding as a fraction of all positions; 0 where nothing has been laid out."""
        return self.padding / max(self.tokens + self.padding, 1)

    def to_dict(self) -> dict:
        """Give all of it, ready for JSON."""
        return {**dataclasses.asdict(self), "padding_fraction": self.padding_fraction}

    def left_out(self) -> dict[str, int]:
        """Count what was left out, by reason."""
        counts = {text: getattr(self, field) for field, text in REASONS.items()}
        return {name: count for name, count in {**counts, **self.skipped}.items() if count}

    def __str__(self) -> str:
        """What was read and what was left out, in a line."""
        counts = {"ties": self.ties, "indistinct pairs": self.indistinct}
        counts |= {"changed by the chat template": self.unwritten}
        counts |= {"truncated": self.truncated, **self.left_out()}
        counted = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        text = f"{self.rows} rows, {self.groups} groups, {self.pairs} pairs"
        text += f" ({counted})" if counted else ""
        for name, of in self.ratings.items():
            unknown = f", {self.unknown[name]} unknown" if name in self.unknown else ""
            text += f"; {name} {of['low']:g} to {of['high']:g}, mean {of['mean']:.3g}{unknown}"
        for words in ("strengths", "unread", "transcripts"):
            if counts := getattr(self, words):
                by_name = (f"{name} ({n} rows)" for name, n in counts.items())
                text += f"; {words}: {', '.join(by_name)}"
        tokens = f", {self.tokens:,} tokens, {self.padding_fraction:.1%} padding"
        return text + tokens * bool(self.tokens)
