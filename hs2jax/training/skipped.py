"""What is known of a step that was skipped, since its loss or gradient is not finite."""

from collections.abc import Mapping, Sequence

import jax

from hs2jax.data.loader import Prepared
from hs2jax.inference import places_not_finite
from hs2jax.models.sharding import path_name, to_host
from hs2jax.training import trainable

SHOWN = 3  # Rows that a line names.


def describe(
    trained, frozen, values: Mapping, data: Prepared, numbers: Sequence[int], config, *, dtype, mesh
) -> dict:
    """Describe it: "rows", the sources of all groups of its batch, `numbers` of the data; "first",
    {source: where its states are first not finite} of some; "gradients", the names of parameters
    whose own is not; and the step's numbers.

    trained, frozen: parameters; the former may be those of a step later. values: of `step.make`.
    """
    sources = [data.groups[number].source for number in numbers]
    places = places_not_finite(
        trainable.join(trained, frozen),
        [data.examples[number].encoded for number in numbers],
        config,
        dtype=dtype,
        mesh=mesh,
    )
    bad, paths = to_host(values["bad_gradients"]), jax.tree.leaves_with_path(trained)
    return {
        "rows": sources,
        "first": {sources[i]: where for i, where in sorted(places.items())},
        "gradients": [
            path_name(path) for (path, _), is_bad in zip(paths, bad, strict=True) if is_bad
        ],
        **{name: str(float(values[name])) for name in ("loss", "gradient_norm")},
    }


def in_words(note: Mapping) -> str:
    """Say in a line what `describe` found."""
    where = [f"{source} ({where})" for source, where in note["first"].items()]
    if not where:
        where = [f"the gradient of {', '.join(note['gradients'])}, of {', '.join(note['rows'])}"]
    more = f" and {len(where) - SHOWN} more" if len(where) > SHOWN else ""
    return f"loss {note['loss']}, by {', '.join(where[:SHOWN])}{more}"
