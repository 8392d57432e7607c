"""The record of a run's data: nothing is dropped or cut without being counted here."""

import dataclasses

MAX_EXAMPLES = 10


@dataclasses.dataclass
class Record:
    """Counts, filled by the corpora (rows, groups, skipped) and by the loader (the rest).

    Attributes:
        rows: rows read. Every one is in a group or is counted in `skipped`.
        groups: groups read from them.
        pairs, ties: preference pairs, and comparisons left out because neither response is better.
        skipped: rows left out because they or their partners are malformed, by reason.
        skipped_examples: the first few of their error texts, which name file, line and field.
        truncated: prompts cut from the left.
        too_long: groups left out because they do not fit.
        refused: groups left out because the chat template refuses them; the first few of its error
            texts are among `skipped_examples`.
        unlearned_turns: assistant turns within prompts that no likelihood learns, because the chat
            template writes them otherwise there than where they are the last.
        tokens, padding: tokens that belong to a conversation, and those that only fill up rows.
    """

    rows: int = 0
    groups: int = 0
    pairs: int = 0
    ties: int = 0
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    skipped_examples: list[str] = dataclasses.field(default_factory=list)
    truncated: int = 0
    too_long: int = 0
    refused: int = 0
    unlearned_turns: int = 0
    tokens: int = 0
    padding: int = 0

    def skip(self, reason: str, rows: int = 1, example: str | None = None) -> None:
        """Count rows left out for a reason, and keep the example if there are few yet."""
        self.skipped[reason] = self.skipped.get(reason, 0) + rows
        if example is not None:
            self._keep(example)

    def skip_as(self, other: "Record") -> None:
        """Count what was left out of another file, which stands beside the data."""
        for reason, rows in other.skipped.items():
            self.skip(reason, rows)
        self.skipped_examples += other.skipped_examples
        del self.skipped_examples[MAX_EXAMPLES:]

    def refuse(self, example: str) -> None:
        """Count a group that the chat template refuses."""
        self.refused += 1
        self._keep(example)

    def _keep(self, example: str) -> None:
        if len(self.skipped_examples) < MAX_EXAMPLES:
            self.skipped_examples.append(example)

    @property
    def padding_fraction(self) -> float:
        """Padding as a fraction of all positions; 0 where nothing has been laid out."""
        return self.padding / max(self.tokens + self.padding, 1)

    def to_dict(self) -> dict:
        """Give all of it, ready for JSON."""
        return {**dataclasses.asdict(self), "padding_fraction": self.padding_fraction}
