"""Checkpoints: all of orbax that the project uses.

A run's latest checkpoint has three items: `params`, `rest` (optimizer and counters) and `meta`
(JSON: the loader's place, the best step so far). Saving goes on in the background; a checkpoint
appears under its name only when it is whole, so a run may be killed at any moment.
"""

from pathlib import Path

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints of one folder, of which the latest are kept.

    `read_only` is for looking into the folder of a run that may be going on.
    """

    def __init__(self, folder: Path | str, *, keep: int = 1, read_only: bool = False):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self.folder = Path(folder).absolute()
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    @property
    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state, meta: dict) -> None:
        """Begin to save."""
        state = dict(state)
        items = {"params": ocp.args.StandardSave(state.pop("params"))}
        if state:
            items["rest"] = ocp.args.StandardSave(state)
        self._manager.save(step, args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta)))

    def restore(self, step: int, like):
        """Restore the state of a step onto the shardings of `like` (arrays or ShapeDtypeStructs),
        and its meta. With only "params" in `like`, nothing else is read."""
        rest = {name: x for name, x in like.items() if name != "params"}
        items = {"params": ocp.args.StandardRestore(_abstract(like["params"]))}
        if rest:
            items["rest"] = ocp.args.StandardRestore(_abstract(rest))
        restored = self._manager.restore(
            step, args=ocp.args.Composite(**items, meta=ocp.args.JsonRestore())
        )
        state = {"params": restored["params"], **(restored["rest"] if rest else {})}
        return state, restored["meta"]

    def read_meta(self, step: int) -> dict:
        """Read the meta of a step alone."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))[
            "meta"
        ]

    def forget_after(self, step: int) -> None:
        """Delete checkpoints of later steps, which a run that goes on from `step` makes anew."""
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)

    def forget_before(self, step: int) -> None:
        """Delete checkpoints of earlier steps."""
        for earlier in self._manager.all_steps():
            if earlier < step:
                self._manager.delete(earlier)

    def wait(self) -> None:
        """Wait until what is being saved is there under its name."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()


def _abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
