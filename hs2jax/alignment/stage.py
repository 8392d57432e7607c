"""The beginning and the end that every verb of this room has, and the loading of its models."""

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from hs2jax import configs, locks, workdir
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.evaluation import scores
from hs2jax.identity import content_key
from hs2jax.inference import NAMED, progress_of
from hs2jax.language_model import LanguageModel
from hs2jax.models import sharding
from hs2jax.models.checksum import checksum
from hs2jax.reward_model import RewardModel
from hs2jax.store import Store
from hs2jax.training.checkpoint import SPENT

log = logging.getLogger(__name__)

KEPT = "kept.sqlite"


class Run:
    """A verb at work in its folder.

    Attributes:
        config, workdir: what it does and where.
        record: what became of the data. records: instead of it, several by name.
        result: what else result.json should say.
        kept: what was computed so far; a run that is killed goes on from it.
    """

    def __init__(self, config, folder: Path):
        self.config, self.workdir = config, folder
        self.record, self.records, self.result = Record(), {}, {}
        self.kept = Store(folder / KEPT)
        self.mesh = sharding.mesh_of(config.mesh)

    def load(self, kind: type, name: str, template: str = "", *, masters: bool = False):
        """Load a model of a kind, RewardModel or LanguageModel; masters: see `RewardModel.load`."""
        own = self.config if "dtype" in self.config else self.config.model
        dtype = configs.dtype(own.dtype)
        where = {"mesh": self.mesh, "dtype": dtype, "masters": masters}
        return kind.load(name, template=template, **where)

    def rate(
        self, model: RewardModel, groups: Sequence[Group], record: Record | None = None, **options
    ) -> Iterator[np.ndarray | None]:
        """Yield the model's outputs [responses, K] of each group; None where one is left out, which
        the record counts. options: see `scores.stream`."""
        skip = self.config.on_error == "skip"
        settings = {"skip": skip, "leave_out": skip, "record": record or self.record}
        cache = scores.store_of(model)
        with progress_of(self.config.kind, len(groups)) as show:
            for each in scores.stream(model, groups, cache, progress=show, **settings | options):
                yield each.outputs

    def each(
        self,
        what: str,
        groups: Sequence[Group],
        keys: Sequence[str],
        size: int,
        compute: Callable[[Sequence[Group], Sequence[int]], Iterable],
        *,
        alone: bool = False,
    ) -> list:
        """Compute a value of each group, `size` groups at a time, and keep it under its key.

        compute(some groups, their numbers) gives their values, as JSON has them. A chunk of which
        something is missing is computed as a whole, so that rounding is the same again. alone: but
        for that; it gives pairs of a group's number and its value, as they come, and they are kept
        so; of several processes the first one's.
        A value {"refused": why} is not kept: it is None in what is returned, and counted, where
        config.on_error is "skip". Raises ValueError for it where not, and for values that are not
        finite; the others of their chunk are kept.
        """
        left_out: dict[int, str] = {}
        self.kept.share(keys)
        for start in range(0, len(groups), size):
            numbers = range(start, min(start + size, len(groups)))
            missing = [i for i in numbers if keys[i] not in self.kept]
            if not missing:
                continue
            asked = missing if alone else numbers
            found = compute([groups[i] for i in asked], asked)
            bad, no = [], {}
            for values in ({i: x} for i, x in found) if alone else [zip(asked, found, strict=True)]:
                values = dict(values)
                why = {i: x["refused"] for i, x in values.items() if x and "refused" in x}
                workdir.settle(self.workdir)
                bad += self.kept.add({keys[i]: x for i, x in values.items() if i not in why})
                no |= why
            if alone:
                self.kept.share([keys[i] for i in asked])
                no = workdir.from_first(no)
            for i, why in no.items():
                left_out[i] = why = f"{groups[i].source}: {why}"
                if self.config.on_error != "skip":
                    raise ValueError(f"{why} (config.on_error=skip leaves such rows out)")
                self.record.skip("refused by the server", example=why)
            if bad:
                sources = [groups[keys.index(key)].source for key in bad]
                raise ValueError(
                    f"{', '.join(sources[:NAMED])}: {what} are not finite numbers. Are the model's "
                    "parameters whole, and does its dtype suffice?"
                )
            log.info("%s: %d of %d", what, numbers.stop, len(groups))
        return [None if i in left_out else self.kept.get(key) for i, key in enumerate(keys)]

    def write(self, name: str, rows: Iterable[Mapping]) -> None:
        """Write rows to a file of the folder, whole or not at all."""
        if workdir.is_first():
            workdir.write_rows(self.workdir / name, rows)


def verb(work: Callable[..., list[dict]]) -> Callable[..., list[dict]]:
    """Make verb(config, workdir) -> rows of work(config, run) -> rows: it checks, claims or
    resumes, works and finishes.

    Raises ValueError or FileNotFoundError for a config that cannot be, naming the key.
    """

    @locks.released
    @functools.wraps(work)
    def run(config, folder: Path | str) -> list[dict]:
        folder, started = Path(folder), time.monotonic()
        configs.check(config)
        spent = [KEPT] if config.get("keep_checkpoints") else [KEPT, *SPENT]
        if (done := workdir.claim(folder, config, spent)) is not None:
            return done
        run = Run(config, folder)
        rows = work(config, run)
        records = run.records or {"data": run.record.to_dict()}
        result = {"records": records, "seconds": time.monotonic() - started, **run.result}
        return workdir.finish(folder, config, result, rows, spent)

    return run


def identity(model: LanguageModel) -> str:
    """Hash what a language model's log-probabilities follow from, beside the groups."""
    parts = (model.tokenizer.chat_template, model.read, str(np.dtype(model.dtype)))
    return content_key(checksum(model.params), *parts)


def wanted(config, model: str, outputs: Sequence[str]) -> tuple[str, ...]:
    """config.attributes, or all outputs of a reward model where it names none.

    Raises ValueError for one that the model does not rate.
    """
    if unknown := [name for name in config.attributes if name not in outputs]:
        said = f"rates {', '.join(outputs)}" if outputs else "has no reward head"
        raise ValueError(f"config.attributes: {model} {said}, and not {', '.join(unknown)}")
    return tuple(config.attributes) or tuple(outputs)
