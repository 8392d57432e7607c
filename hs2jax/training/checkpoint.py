"""Keep how far a run has got: its latest checkpoint and its best step.

A run may be killed at any moment and must end with the same bits. So the best step's parameters are
whole before a checkpoint (which orbax saves in the background, and names when it is whole) names
that step, and the best step that the latest checkpoint names stays until another one is named.
"""

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from hs2jax import disk, faults, identity
from hs2jax import workdir as folders
from hs2jax.models.checksum import checksum
from hs2jax.training import trainable

SPENT = ("checkpoints", "best")  # What no later step needs of a finished run's folder.


def check_room(workdir: Path, state, trained, export, *, stay: bool) -> None:
    """See that the disk holds what a run saves: states, the best step's trained parameters, and the
    export, all given as arrays or their shapes. stay: that checkpoints are kept for good. Raises
    ValueError."""
    both = trainable.nbytes(state) + trainable.nbytes(trained)
    exported = trainable.nbytes(export)
    # A checkpoint goes when the next one is there.
    if folders.is_first():
        disk.check_room(workdir, max(2 * both, both + exported), exported + both * stay)


class Checkpoints:
    """The checkpoints of one folder, of which the latest are kept: of each step a state, a tree of
    arrays, and its meta, which is JSON.

    run: its identity. Raises ValueError where something is there that is not the run's own, as
        copied by hand, and that would be taken for it and deleted in its time.
    named: the last step that must be whole; what came later is made anew.
    read_only: for looking into the folder of a run that may be going on.
    """

    def __init__(self, folder: Path | str, *, run=None, named=math.inf, keep=1, read_only=False):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self.folder = Path(folder).absolute()
        with faults.naming(self.folder):
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        self.latest: int | None = self._manager.latest_step()
        self._saving, self._run = False, run
        for place, why in () if read_only else self._foreign(named):
            raise ValueError(
                f"{place} {why}: as this run goes on it would be deleted; move it elsewhere"
            )

    def _foreign(self, named: float) -> Iterator[tuple[Path, str]]:
        """Find what is no checkpoint of this run, each replaced by the next one, and say why."""
        for place in sorted(self.folder.iterdir()):
            if place.is_dir() and not re.match(r"\d+$|\.|.*orbax-checkpoint-tmp", place.name):
                yield place, "is not named by a step"
        newer = None
        for step in sorted(self._manager.all_steps(), reverse=True):
            place = self.folder / str(step)
            try:
                meta = self.read_meta(step)
            except ValueError:
                # A run may have been killed as it deleted it.
                if step <= named and not (newer and newer.get("replaces") == step):
                    yield place, "cannot be read"
                continue
            if "run" not in meta:
                yield place, "was saved by an earlier version"
            elif meta["step"] != step:
                yield place, f"is a checkpoint of step {meta['step']}"
            elif meta["run"] != self._run:
                what = "; ".join(identity.differences(meta["run"], self._run))
                yield place, f"is of another run (different: {what})"
            elif newer and newer.get("replaces") != step:
                yield place, f"is older than {newer['step']}, from which the run goes on"
            newer = meta

    def save(self, step: int, state, meta: dict) -> None:
        """Begin to save."""
        meta = meta | {"step": step, "run": self._run, "replaces": self.latest}
        items = {"state": ocp.args.StandardSave(state), "meta": ocp.args.JsonSave(meta)}
        self._saving, self.latest = True, step
        with faults.naming(self.folder):
            self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, step: int, like):
        """Restore the state of a step, in the places of `like` (arrays or ShapeDtypeStructs)."""
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        return self._read(step, "state", ocp.args.StandardRestore(like))

    def read_meta(self, step: int) -> dict:
        return self._read(step, "meta", ocp.args.JsonRestore())

    def _read(self, step: int, name: str, how):
        """Read what was saved of a step. Raises ValueError that names it."""
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{name: how}))[name]
        except Exception as error:
            raise ValueError(
                f"{self.folder / str(step)} cannot be read ({' '.join(str(error).split())[:200]}); "
                f"copy it here again whole, or remove {' and '.join(SPENT)} of "
                f"{self.folder.parent}: then the same command begins anew"
            ) from error

    def keep_only(self, first: int, last: int) -> None:
        """Delete the checkpoints of steps before `first` and after `last`."""
        for step in self._manager.all_steps():
            if not first <= step <= last:
                self._manager.delete(step)
        self.latest = self._manager.latest_step()

    def wait(self) -> None:
        """Wait until what is being saved is there under its name."""
        self._saving = False
        with faults.naming(self.folder):
            self._manager.wait_until_finished()

    def check(self) -> None:
        """Raise what went wrong in the background, as soon as it has."""
        if self._saving and not self._manager.is_saving_in_progress():
            self.wait()

    def close(self) -> None:
        self.wait()
        self._manager.close()


class RunState:
    """The state of a run that is not on the devices.

    Attributes:
        step: how many batches were learned from. saved: of the newest checkpoint, 0 without.
        restored: the step of the checkpoint that this process goes on from, None at a start.
        evaluated: tells that the evaluation of that step, if one is due, was made.
        best: {"step", "values", "frozen"} of the best step so far, None before there is one.
        seconds: how long the run has taken, all its processes together.
        stopped: {"steps", "why"} where it was stopped after so many skipped steps, or None.
    """

    def __init__(self, workdir: Path, frozen, *, started: float):
        """frozen: the parameters that are not trained. started: when this process began, in s."""
        self._workdir, self._frozen = workdir, checksum(frozen, rounded=True)
        run = folders.read_json(workdir / "run.json")["identity"]
        self._latest = Checkpoints(workdir / "checkpoints", run=run)
        # Two: the one that the latest checkpoint names, and one newer than that checkpoint.
        named = self._latest.latest or 0
        self._best = Checkpoints(workdir / "best", run=run, named=named, keep=2)
        self.restored = self._latest.latest
        self.step = self.saved = self.restored or 0
        self.best, self._began, self._meta, self.stopped = None, started, {}, None
        self.evaluated = True
        self._best.keep_only(0, self.step)  # What comes later is made anew.
        if self.restored is not None:
            self._meta = self._latest.read_meta(self.step)
            self.best, self.evaluated = self._meta["best"], self._meta["evaluated"]
            self.stopped = self._meta["stopped"]
            self._began -= self._meta["seconds"]
            self.need(*[f"best/{self.best['step']}/state"] if self.best else [])

    def need(self, *names: str) -> None:
        """See that what a run goes on with beside its checkpoint is there, and that rows are whole.

        Raises FileNotFoundError and ValueError.
        """
        for path in (self._workdir / name for name in names if self.restored is not None):
            if not path.exists():
                raise FileNotFoundError(
                    f"{path} is not there, without which the checkpoint of step {self.step} is of "
                    "no use; copy it too, or give another --workdir"
                )
            if path.suffix == ".jsonl":
                folders.read_rows(path, torn=path.name == "metrics.jsonl")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def restore(self, like, batches=None):
        """Restore the state, in the places of `like`, and the place of the iterator `batches`."""
        if batches is not None:
            batches.set_state(self._meta["loader"])
        return self._latest.restore(self.step, like)

    def save_best(self, params, values: dict) -> None:
        """Begin to save the parameters of a new best step. `save` must be next, to name it."""
        folders.settle(self._workdir)  # A folder that is gone must not come again.
        self.best = {"step": self.step, "frozen": self._frozen, "values": values}
        self._latest.wait()  # One at a time: on several hosts two would meet at the same barriers.
        self._best.save(self.step, params, self.best)

    def save(
        self, state, batches=None, evaluated: bool = True, stopped: dict | None = None
    ) -> None:
        """Begin to save what the run goes on from after a kill. stopped: why it does not."""
        self._best.wait()  # It must not be named before it is there.
        folders.settle(self._workdir)
        place = None if batches is None else batches.get_state()
        meta = {"loader": place, "best": self.best, "frozen": self._frozen}
        meta |= {"seconds": self.seconds, "evaluated": evaluated, "stopped": stopped}
        self._latest.save(self.step, state, meta)
        self.saved = self.step

    def wait(self) -> None:
        """Wait until what is being saved is there."""
        self._best.wait()
        self._latest.wait()

    def check(self) -> None:
        """Raise what went wrong in the background. To be called at every step."""
        self._latest.check()
        self._best.check()

    def restore_best(self, like):
        """End saving, and restore the trained parameters of the best step in the places of
        `like`."""
        self._latest.close()
        self._best.keep_only(self.best["step"], self.best["step"])  # Which that one names.
        params = self._best.restore(self.best["step"], like)
        self._best.close()
        return params
