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
from hs2jax.identity import content_key
from hs2jax.inference import progress_of
from hs2jax.judging import written
from hs2jax.judging.judge import Judge, Reading, not_finite
from hs2jax.judging.prompts import Request
from hs2jax.models.checksum import checksum
from hs2jax.store import Store

VERSION = 5  # To be raised when the way of reading changes.
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
        **how,
    ) -> Iterator[Reading | str]:
        """Yield the reading of each request, in order, or the reason why there is none: see
        `Judge.ask`, which takes `how`.

        name, total: for progress. Requests are only taken as they are needed.
        """

        def ask(requests: Sequence[Request]) -> list[dict | str]:
            found = self.judge.ask(requests, states=states, skip=True, **how)
            return [each if isinstance(each, str) else each._asdict() for each in found]

        condition, about = how.get("condition", "forced"), [states]
        if condition != "forced":
            about += [condition, how.get("place"), written.LONGEST[condition]]
        with progress_of(name, total, "item") as show:
            for part in in_parts(requests, CHUNK):
                texts = [[about, request._replace(source="")] for request in part]
                found = self.recall(texts, part, ask)
                show(len(part))
                yield from (x if isinstance(x, str) else Reading(**x) for x in found)

    def recall(self, texts: Sequence, things: Sequence, make: Callable[[list], list]) -> list:
        """Return a value for each of some things, by the texts that it follows from, of those that
        were kept; `make` is called with the other things, and what it returns is kept."""
        keys = [content_key(self._key, each) for each in texts]
        self._store.share(keys)
        missing = {k: thing for k, thing in zip(keys, things, strict=True) if k not in self._store}
        made = {}
        if missing:
            made = dict(zip(missing, make(list(missing.values())), strict=True))
            self._store.add(made)
        return [made[key] if key in made else self._store.get(key) for key in keys]


def is_whole(
    found: Sequence[Reading | str], record: Record, source: str = "", n=1, *, skip: bool = False
) -> bool:
    """Tell whether all readings of something are there and finite; else count it, as n, in the
    record, by the first reason. source: its row. Raises ValueError with it for what is not finite,
    unless `skip`."""
    reasons = [each for each in found if isinstance(each, str)]
    if reasons:
        record.leave_out(reasons[0], n)
    elif bad := [each.logits for each in found if not np.isfinite(each.logits).all()]:
        text = f"{source}: {not_finite(bad[0])}"
        if not skip:
            raise ValueError(text)
        record.skip("not finite", rows=n, example=text)
    else:
        return True
    return False


def nothing_read(what: str, record: Record) -> ValueError:
    """Make the error where nothing is left, with the reasons."""
    reasons = record.left_out()
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return ValueError(f"the judge could read {what}: {counted}")


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
