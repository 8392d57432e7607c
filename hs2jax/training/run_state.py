"""Keep how far a run has got: its latest checkpoint, its best step, what it does not train.

A run may be killed between any two writes and must end with the same bits. So the order is fixed:
the best step's parameters are whole before a checkpoint names that step, and the best step that
the latest checkpoint names stays until another one is named.
"""

import time
from pathlib import Path

from hs2jax import workdir as folders
from hs2jax.models.checksum import checksum
from hs2jax.training import trainable
from hs2jax.training.checkpoint import Checkpoints


class RunState:
    """The state of a run that is not on the devices.

    Attributes:
        step: how many batches were learned from.
        restored: the step of the checkpoint that this process goes on from, None at a start.
        best: {"step", "values", "frozen"} of the best step so far, None before there is one.
        seconds: how long the run has taken, all its processes together.
    """

    def __init__(self, workdir: Path, config, frozen, *, started: float):
        """frozen: the parameters that are not trained. started: when this process began, in s.

        Raises ValueError where a run goes on and `frozen` is not what it began with.
        """
        self._workdir, self._config, self._frozen = workdir, config, checksum(frozen)
        self._latest = Checkpoints(workdir / "checkpoints")
        # Two: the one that the latest checkpoint names, and one newer than that checkpoint.
        self._best = Checkpoints(workdir / "best", keep=2)
        self.restored = self._latest.latest
        self.step = self.restored or 0
        self.best, self._began, self._meta = None, started, None
        self._best.forget_after(self.step)
        if self.restored is not None:
            self._meta = self._latest.read_meta(self.step)
            trainable.check_frozen(self._frozen, self._meta["frozen"], config.model.name, workdir)
            self.best = self._meta["best"]
            self._began = started - self._meta["seconds"]

    @property
    def seconds(self) -> float:
        return time.time() - self._began

    def restore(self, like, batches):
        """Restore the state, in the places of `like`, and the place of the iterator `batches`."""
        state, _ = self._latest.restore(self.step, like)
        batches.set_state(self._meta["loader"])
        return state

    def save_best(self, params, values: dict) -> None:
        """Begin to save the parameters of a new best step. `save` must be next, to name it."""
        self.best = {"step": self.step, "frozen": self._frozen, "values": values}
        self._latest.wait()  # One at a time: on several hosts two would meet at the same barriers.
        self._best.save(self.step, {"params": params}, self.best)

    def save(self, state, batches) -> None:
        """Begin to save what the run goes on from after a kill."""
        self._best.wait()  # It must not be named before it is there.
        folders.settle(self._workdir, self._config)
        meta = {"loader": batches.get_state(), "best": self.best, "frozen": self._frozen}
        self._latest.save(self.step, state, meta | {"seconds": self.seconds})

    def wait(self) -> None:
        """Wait until the latest checkpoint is whole, and end saving it."""
        self._latest.close()

    def restore_best(self, like):
        """Restore the trained parameters of the best step, in the places of `like`."""
        self._best.forget_before(self.best["step"])  # The latest checkpoint names this one.
        state, _ = self._best.restore(self.best["step"], {"params": like})
        self._best.close()
        return state["params"]
