"""A judge's readings, kept on disk, so that a killed run goes on.

Each is kept under a hash of what it follows from: the model to the last bit, its dtype and chat
template, and the texts. So another model or prompt never meets it, and data may change.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hs2jax.data.conversations import in_parts
from hs2jax.data.record import Record
from hs2jax.inference import progress_of
from hs2jax.judging import written
from hs2jax.judging.judge import Judge, Reading
from hs2jax.judging.prompts import Request
from hs2jax.models.checksum import checksum
from hs2jax.workdir import Store, content_key

VERSION = 3  # To be raised when the way of reading changes.
CHUNK = 64  # Requests that are read, and kept, at a time.


class Readings:
    """The readings of one judge, kept in a file."""

    def __init__(self, judge: Judge, path: Path):
        self.judge = judge
        self._key, self._store = judge_key(judge), Store(path)

    def stream(
        self,
        requests: Iterable[Request],
        name: str,
        *,
        total: int | None = None,
        states: bool = False,
        record: Record | None = None,
        condition: str = "forced",
    ) -> Iterator[Reading | None]:
        """Yield the reading of each request, in order; None where it is too long or, in a condition
        where the judge writes (see `Judge.ask`), where it wrote no score: counted in `record`.

        name, total: for progress. Requests are only taken as they are needed.
        """

        def ask(places: Sequence[int]) -> list[dict | None]:
            asked = [part[i] for i in places]
            found = self.judge.ask(asked, states=states, skip=True, condition=condition)
            return [reading and reading._asdict() for reading in found]

        about = [states, condition, written.LONGEST.get(condition)]
        with progress_of(name, total, "item") as show:
            for part in in_parts(requests, CHUNK):
                texts = [[about, request._replace(source="")] for request in part]
                found = self.recall(texts, ask)
                if record is not None and condition == "forced":
                    record.too_long += found.count(None)
                elif record is not None and None in found:
                    record.skip(written.NO_SCORE, rows=found.count(None))
                show(len(part))
                yield from (each and Reading(**each) for each in found)

    def recall(self, follows_from: Sequence, make: Callable[[Sequence[int]], Sequence]) -> list:
        """Return a value for each of what they follow from, of those that were kept; the others are
        made now, `make(their places)`, and kept."""
        keys = [content_key(self._key, each) for each in follows_from]
        self._store.share(keys)
        missing = {key: i for i, key in enumerate(keys) if key not in self._store}
        made = {}
        if missing:
            made = dict(zip(missing, make(list(missing.values())), strict=True))
            self._store.add(made)
        return [made[key] if key in made else self._store.get(key) for key in keys]


def judge_key(judge: Judge) -> str:
    """Hash all that makes a judge's readings besides the texts, to 32 hexadecimal digits."""
    model = judge.model
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    vocabulary = json.dumps(model.tokenizer.get_vocab(), sort_keys=True)
    return content_key(
        VERSION,
        checksum(model.params),
        dataclasses.asdict(model.config),
        model.tokenizer.chat_template,
        backend.to_str() if backend else vocabulary,  # Added tokens and BOS included.
        str(np.dtype(model.dtype)),
    )
