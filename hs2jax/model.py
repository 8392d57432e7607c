"""The half of a reward model and of a language model that is the same: loading and saving."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from hs2jax.data import templates
from hs2jax.models.config import Config
from hs2jax.models.hf import hub
from hs2jax.models.hf.weights import gathered


@dataclasses.dataclass
class Model:
    """A decoder with its tokenizer.

    mesh: where the parameters live, None for the default device. dtype: of the computation; heads
    and softmax are always float32. template: name of the chat template that the tokenizer holds,
    "own" for its own. read: how the end of a turn is found, where scores are read, see
    `data.chat.encode`.
    """

    config: Config
    params: dict[str, Any]
    tokenizer: Any
    _: dataclasses.KW_ONLY
    mesh: jax.sharding.Mesh | None = None
    dtype: Any = jnp.float32
    template: str = "own"
    read: str = "end_of_turn"

    def _export(self, folder, decoder, **others) -> None:
        """Write a folder that `transformers` loads."""
        decoder = gathered(decoder, self.config)
        if decoder is not None:
            own = {
                name: getattr(self, name) for name in ("config", "tokenizer", "template", "read")
            }
            hub.save(folder, params=decoder, **own, **others)


def default_dtype():
    """The type of computations where none is asked for: float32 on CPU and bfloat16 elsewhere."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def load(name, *, template: str, mesh, dtype) -> tuple[hub.Loaded, dict[str, Any]]:
    """Load a model by name onto the mesh: (it, the keywords of `Model`).

    template: one of `data.templates`; "" is what belongs to the checkpoint. Raises ValueError where
    there is no tokenizer.
    """
    loaded = hub.load(name, mesh)
    if loaded.tokenizer is None:
        raise ValueError(f"{name}: there is no tokenizer beside the model")
    read = loaded.read
    if template:
        loaded.tokenizer.chat_template, read = templates.choose(template)
    return loaded, {
        "mesh": mesh,
        "dtype": dtype or default_dtype(),
        "template": template or loaded.template,
        "read": read,
    }
