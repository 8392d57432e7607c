"""Rows of a data set that has been built, as lines of JSON, so that one reader serves both."""

import importlib
import json
import os
from collections.abc import Iterator

import numpy as np

from hs2jax.data.jsonl import Line
from hs2jax.data.tfds import catalogue

CHUNK = 100  # Rows read at once: array_record is slow one at a time.


def make(name: str, data_dir: str | None = None):
    """The builder of "NAME/CONFIG" in a folder: the given one, TFDS_DATA_DIR, or TFDS's default."""
    dataset, config, _ = catalogue.find(name)
    made = importlib.import_module(catalogue.module(dataset)).Builder
    return made(config=config or None, data_dir=data_dir or os.environ.get("TFDS_DATA_DIR"))


def prepared(name: str, data_dir: str | None = None):
    """The builder of "NAME/CONFIG". Raises FileNotFoundError where it has not been built."""
    found = make(name, data_dir)
    if not found.is_prepared():
        raise FileNotFoundError(
            f"the data set {name} has not been built in {found.data_dir}: build it with "
            f"python -m hs2jax.data.tfds {name} (--manual_dir=FOLDER where its files are at hand, "
            "--data_dir=FOLDER or TFDS_DATA_DIR for where it goes)"
        )
    return found


def check(path: str) -> None:
    """Raises FileNotFoundError unless the data set of "tfds:NAME/CONFIG[SPLIT]" has been built."""
    dataset, config, _ = catalogue.parse_path(path)
    prepared(catalogue.full_name(dataset, config))


def rows(built, split: str) -> Iterator[dict]:
    """The rows of a split, in its order, as TFDS gives them."""
    source = built.as_data_source(split=split)
    for start in range(0, len(source), CHUNK):
        yield from source.__getitems__(list(range(start, min(start + CHUNK, len(source)))))


def lines(path: str) -> Iterator[Line]:
    """The rows of "tfds:NAME/CONFIG[SPLIT]" with their indices, from 0."""
    dataset, config, split = catalogue.parse_path(path)
    built = prepared(catalogue.full_name(dataset, config))
    for index, row in enumerate(rows(built, split)):
        yield index, json.dumps(_plain(row)).encode()


def _plain(row: dict) -> dict:
    """A row of a data source in JSON's types: texts come as bytes, lists as arrays."""
    return {name: _plain_value(value) for name, value in row.items()}


def _plain_value(value):
    match value:
        case bytes():
            return value.decode()
        case np.ndarray() | np.generic():
            return _plain_value(value.tolist())
        case list():
            return [_plain_value(item) for item in value]
        case dict():  # A list of objects comes as an object of lists.
            columns = {name: _plain_value(column) for name, column in value.items()}
            return [
                dict(zip(columns, item, strict=True))
                for item in zip(*columns.values(), strict=True)
            ]
    return value
