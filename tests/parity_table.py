"""How far our numbers are from those of transformers' torch classes, for every family.

    python tests/parity_table.py

prints a Markdown table of the largest differences. tests/README.md keeps one that was printed.
"""

import functools
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import families
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.torch
import torch
import transformers

from hs2jax.models.decoder import Decoder, Probe
from hs2jax.models.heads import logits, reward
from hs2jax.models.hf import hub

LENGTHS = (families.LONGEST, 57, 3 * families.WINDOW, 5, 1)


class Measured(NamedTuple):
    """Largest differences (`difference`, of inner states `state_difference`), and whether the
    exported files hold the same bytes as those that were loaded."""

    states: float
    logits: float
    scores: float
    same_bytes: bool


def difference(ours, theirs) -> float:
    """The largest |a - b| / (1 + |b|): below x, `numpy.allclose` holds with atol and rtol of x."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, f"{ours.shape} against {theirs.shape}"
    return float(np.max(np.abs(ours - theirs) / (1 + np.abs(theirs))))


def state_difference(ours, theirs) -> float:
    """The largest difference of hidden states, each against its token's largest number.

    In SmolLM2 that is up to 20,000, where one step of float32 is 0.002: both sides are that far
    from the same sums in float64.
    """
    largest = np.max(np.abs(theirs), axis=-1, keepdims=True).clip(1)
    return float(np.max(np.abs(np.asarray(ours) - theirs) / largest))


@functools.partial(jax.jit, static_argnames="config")
def run(params, ids, config):
    """(hidden [B, T, D], states [L + 1, B, T, D]) of our decoder for ids [B, T]."""
    position = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    hidden, out = Decoder(config).apply({"params": params}, ids, position, None, Probe(position))
    return hidden, out["probe"]


def random_ids(rows: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, families.PAD, (rows, families.LONGEST))


def language_models(ours: hub.Loaded, theirs, ids) -> tuple[float, float]:
    """The differences of (hidden states of every layer, logits) for ids [B, T]."""
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), output_hidden_states=True)
    hidden, states = map(np.asarray, run(ours.params, jnp.asarray(ids), ours.config))
    expected_states = [state.numpy() for state in expected.hidden_states]
    # transformers' last hidden state has been through the final norm; ours has not.
    by_layer = (
        state_difference(*pair) for pair in zip(states[:-1], expected_states[:-1], strict=True)
    )
    return (
        max(*by_layer, difference(hidden, expected_states[-1])),
        difference(logits(ours.params, hidden, ours.config), expected.logits.numpy()),
    )


def reward_models(ours: hub.Loaded, theirs) -> float:
    """The difference of the scores of a batch padded on the right."""
    ids = random_ids(len(LENGTHS))
    for row, length in zip(ids, LENGTHS, strict=True):
        row[length:] = families.PAD
    expected = their_scores(theirs, ids)
    hidden, _ = run(ours.params, jnp.asarray(ids), ours.config)
    scores = reward(ours.head, hidden, jnp.array(LENGTHS)[:, None] - 1)[:, 0]
    return difference(scores, expected)


def their_scores(model, ids) -> np.ndarray:
    """Scores [B, outputs] of a torch model for ids [B, T], where the pad id is padding."""
    ids = torch.tensor(ids)
    with torch.no_grad():
        return model(ids, attention_mask=(ids != families.PAD).long()).logits.numpy()


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """(dtype, shape, bytes) of every tensor of a checkpoint, by name."""
    found = {}
    for path in folder.glob("*.safetensors"):
        for name, x in safetensors.torch.load_file(path).items():
            data = x.contiguous().view(torch.uint8).numpy().tobytes()
            found[name] = (str(x.dtype), tuple(x.shape), data)
    return found


def export(ours: hub.Loaded, folder: Path, dtype: str = "float32") -> Path:
    more = {"head": ours.head, "outputs": ours.outputs or None, "dtype": dtype}
    hub.save(folder, config=ours.config, params=ours.params, **more)
    return folder


def build(variant: families.Variant) -> dict:
    """The variant as a language model and as a reward model."""
    return {"causal": families.build(variant), "classifier": families.build(variant, head=True)}


def measure(variant: families.Variant, folder: Path, models: dict) -> Measured:
    """Saves, loads, compares and exports what `build` has made."""
    ours = {x: hub.load(families.save(variant, models[x], folder / x)) for x in models}
    same = [
        tensors(export(loaded, folder / f"{name}-exported")) == tensors(folder / name)
        for name, loaded in ours.items()
    ]
    return Measured(
        *language_models(ours["causal"], models["causal"], random_ids(2)),
        reward_models(ours["classifier"], models["classifier"]),
        all(same),
    )


def main() -> None:
    print(
        f"transformers {transformers.__version__}, torch {torch.__version__}, "
        f"jax {jax.__version__} on {jax.default_backend()}, float32\n"
    )
    print("| family and variant | hidden states | logits | scores | exported bytes |")
    print("| --- | --- | --- | --- | --- |")
    for name, variant in families.VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            found = measure(variant, Path(folder), build(variant))
        numbers = " | ".join(f"{x:.1e}" for x in found[:3])
        print(f"| {name} | {numbers} | {'equal' if found.same_bytes else 'DIFFER'} |", flush=True)


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    main()
