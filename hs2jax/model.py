"""The half of a reward model and of a language model that is the same: loading and saving."""

import dataclasses
import difflib
import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hs2jax import inference
from hs2jax.data import chat, templates
from hs2jax.models.config import Config
from hs2jax.models.hf import hub
from hs2jax.models.hf.weights import Tensor, gathered

log = logging.getLogger(__name__)


@dataclasses.dataclass(repr=False)
class Model:
    """A decoder with its tokenizer.

    mesh: where the parameters live, None for the default device. dtype: of the computation; heads
    and softmax are always float32. The decoder's weights lie in it too, in half of float32's memory
    where it is bfloat16, or in float32 where they were loaded with `masters`: what is trained, or
    saved as it was, needs that. template: name of the chat template that the tokenizer holds,
    "own" for its own. read: how the end of a turn is found, where scores are read, see
    `data.chat.encode`. name: as it was loaded.
    """

    config: Config
    params: dict[str, Any]
    tokenizer: Any
    _: dataclasses.KW_ONLY
    mesh: jax.sharding.Mesh | None = None
    dtype: Any = jnp.float32
    template: str = "own"
    read: str = "end_of_turn"
    name: str = ""

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.params)
        count, outputs = sum(leaf.size for leaf in leaves), getattr(self, "outputs", ())
        facts = [self.config.family, f"{count / 1e6:,.1f}M parameters"]
        facts += [f"outputs {', '.join(outputs)}"] if outputs else []
        where = {device.device_kind for leaf in leaves[:1] for device in leaf.devices()}
        facts += [f"{jnp.dtype(self.dtype).name} on {', '.join(where)}"]
        return f"{type(self).__name__}({self.name or 'unnamed'}: {', '.join(facts)})"

    def not_finite(self, what: str, named: Sequence[tuple[str, chat.Encoded]], params=None) -> str:
        """Say that `what` of the model is not finite, see `inference.not_finite`."""
        params = params or self.params
        params = params if "decoder" in params else {"decoder": params}
        where = {"dtype": self.dtype, "mesh": self.mesh}
        return inference.not_finite(f"the model's {what}", params, named, self.config, **where)

    def warn_of(self, what: str, computed: Iterable[tuple[str, chat.Encoded, np.ndarray]]) -> None:
        """Warn where `what` the model gave is not finite. computed: sources, tokens, numbers."""
        if bad := [(name, one) for name, one, x in computed if not np.isfinite(x).all()]:
            log.warning("%s", self.not_finite(what, bad))

    def _export(self, folder, decoder, **others) -> None:
        """Write a folder that `transformers` loads."""
        if any(x.dtype != jnp.float32 for x in jax.tree.leaves(decoder)):
            log.info(
                "%s: what was not trained lay in %s and is saved so; of a checkpoint in float32, "
                "load(..., masters=True) keeps all digits",
                *(self.name, jnp.dtype(self.dtype).name),
            )
        decoder = gathered(decoder, self.config)
        if decoder is not None:
            own = {
                name: getattr(self, name) for name in ("config", "tokenizer", "template", "read")
            }
            hub.save(folder, params=decoder, **own, **others)


def check_names(given: Iterable[str], method: str, *takes: Callable) -> None:
    """See that keywords that are handed on are keywords of one of the functions they go to.

    Raises TypeError that names the method that was called, and the nearest keyword."""
    known = {name: each for f in takes for name, each in inspect.signature(f).parameters.items()}
    known = [name for name, each in known.items() if each.kind is each.KEYWORD_ONLY]
    for name in set(given) - set(known):
        near = max(known, key=lambda x: difflib.SequenceMatcher(None, x, name).ratio())
        raise TypeError(f"{method}() takes no {name!r}; the nearest that it takes is {near!r}")


def default_dtype():
    """The type of computations where none is asked for: float32 on CPU and bfloat16 elsewhere."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def open_model(name, template: str) -> tuple[hub.Loaded, dict[str, Tensor]]:
    """Open a model by name, as `hub.open_model` does, with one of `data.templates`; "" is what
    belongs to the checkpoint. Raises ValueError where there is no tokenizer, or one that
    `chat.check_tokenizer` refuses."""
    opened, tensors = hub.open_model(name)
    tokenizer, read = opened.tokenizer, opened.read
    if tokenizer is None:
        raise ValueError(f"{name}: there is no tokenizer beside the model")
    if template:
        tokenizer.chat_template, read = templates.choose(template)
    try:
        chat.check_tokenizer(tokenizer, read)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return dataclasses.replace(opened, template=template or opened.template, read=read), tensors


def load(name, *, template: str, mesh, dtype, masters: bool) -> tuple[hub.Loaded, dict[str, Any]]:
    """Load a model by name onto the mesh: (it, the keywords of `Model`). template and errors: see
    `open_model`; no weights are read before. masters: see `Model`."""
    dtype = dtype or default_dtype()
    held = {} if masters else {"dtype": dtype}
    loaded = hub.assembled(*open_model(name, template), mesh, **held)
    return loaded, {
        "mesh": mesh,
        "dtype": dtype,
        "template": loaded.template,
        "read": loaded.read,
        "name": str(name),
    }
