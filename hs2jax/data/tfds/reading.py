"""Rows of a data set that has been built, as they were before."""

import os
from collections.abc import Iterator

import numpy as np

from hs2jax.data.tfds import catalogue

CHUNK = 100  # Rows read at once: array_record is slow one at a time.


def make(name: str, data_dir: str | None = None):
    """Make the builder of "NAME/CONFIG" for a folder, by default TFDS_DATA_DIR or TFDS's own."""
    import tensorflow_datasets as tfds  # Slow to import.

    name, _ = catalogue.find(name)
    return tfds.builder(name, data_dir=data_dir or os.environ.get("TFDS_DATA_DIR"))


def open_built(path: str):
    """Find the builder and the split of "tfds:NAME/CONFIG[SPLIT]".

    Raises FileNotFoundError unless the data set has been built.
    """
    name, _, split = path.removeprefix(catalogue.PREFIX).removesuffix("]").partition("[")
    found = make(name)
    if not found.is_prepared():
        raise FileNotFoundError(
            f"the data set {name} has not been built in {found.data_dir}: build it with "
            f"python -m hs2jax.data.tfds {name} (--manual_dir=FOLDER where its files are at hand, "
            "--data_dir=FOLDER or TFDS_DATA_DIR for where it goes)"
        )
    return found, split


def lines(path: str) -> Iterator[tuple[int, dict]]:
    """Read the rows of "tfds:NAME/CONFIG[SPLIT]" with their indices, from 0."""
    built, split = open_built(path)
    source = built.as_data_source(split=split)
    for start in range(0, len(source), CHUNK):
        indices = range(start, min(start + CHUNK, len(source)))
        for index, row in zip(indices, source.__getitems__(list(indices)), strict=True):
            yield index, {name: _plain(value) for name, value in row.items()}


def _plain(value):
    """A value of a data source as JSON has it: texts come as bytes, lists as arrays, and a list of
    objects as an object of lists."""
    match value:
        case bytes():
            return value.decode()
        case np.ndarray() | np.generic():
            return _plain(value.tolist())
        case list():
            return [_plain(item) for item in value]
        case dict():
            items = zip(*map(_plain, value.values()), strict=True)
            return [dict(zip(value, item, strict=True)) for item in items]
    return value
