"""The builder of all data sets, known to `tfds.builder` once this is imported, and their rows."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from hs2jax.data import files, rows, tables
from hs2jax.data.groups import FieldError, check_integer, check_unicode, mistyped
from hs2jax.data.tfds import catalogue

SPLIT_FIELD = {"train": "train", "val": "validation"}  # Of rows that name their split.
INTEGERS = 2**31  # Whether a rating is in its range is for the reader to say, not the builder.
CHUNK = 100  # Rows read at once: array_record is slow one at a time.
TEXT = tfds.features.Text()
FEATURES = {
    "text": TEXT,
    "note": TEXT,  # Empty where there is none (null).
    "json": TEXT,  # A list or object, of remarks whose form varies, or null, as JSON.
    "integer": tfds.features.Scalar(np.int64),
    "texts": tfds.features.Sequence(TEXT),
    "integers": tfds.features.Sequence(np.int64),
    "turns": tfds.features.Sequence({"role": TEXT, "content": TEXT}),
}


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder of a data set of the catalogue, from files in the manual folder or from the hub.

    Rows keep their order, since neighbours of HelpSteer2 belong together. A builder sees that each
    field is there and of its kind; the reader checks the rest, as it does for JSONL.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Only needed without a network: the files of the hub's repository, under the same names, "
        "in the folder or in one of the data set's name in it."
    )

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        cls.BUILDER_CONFIGS = [
            tfds.core.BuilderConfig(name=name.partition("/")[2])
            for name in catalogue.SOURCES
            if name.startswith(f"{cls.name}/")
        ]

    def __init__(self, *, file_format: str | None = None, **options):
        # The default of tensorflow_datasets, TFRecord, needs TensorFlow.
        super().__init__(file_format=file_format or "array_record", **options)

    @property
    def _source(self) -> catalogue.Source:
        config = self.builder_config
        return catalogue.SOURCES[f"{self.name}/{config.name}" if config else self.name]

    @property
    def _kinds(self) -> dict[str, str]:
        columns = self._source.columns.items()
        return {name: kind for kind, names in columns for name in names.split()}

    def _info(self) -> tfds.core.DatasetInfo:
        repository, _, license = catalogue.REPOSITORIES[self.name]
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({n: FEATURES[k] for n, k in self._kinds.items()}),
            homepage=f"https://huggingface.co/datasets/{repository}",
            license=license,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {
            split: self._generate_examples(self._locate(file, split, dl_manager), split)
            for split, (file, _) in self._source.files.items()
        }

    def _generate_examples(self, path: epath.Path, split: str) -> Iterator[tuple[int, dict]]:
        """Every row of the split, with its number as the key. Raises DataError."""
        kinds = self._kinds
        for number, line in tables.lines(path, str(path)):
            try:
                row = tables.decode(line)
                if "split" in kinds and SPLIT_FIELD[rows.split(row)] != split:
                    continue
                example = {n: value_of(rows.present(row, n), n, kind) for n, kind in kinds.items()}
            except FieldError as error:
                raise error.at(str(path), number) from None
            yield number, example

    def _locate(self, file: str, split: str, dl_manager) -> epath.Path:
        """The file of a split: in the manual folder, else fetched. Raises FileNotFoundError."""
        names, folders = [file, file.removesuffix(".gz"), f"{split}.jsonl"], []
        with contextlib.suppress(AssertionError):  # There is none, or it is empty.
            manual = epath.Path(dl_manager.manual_dir)
            folders.append(manual / self.name)
            # Data sets share names of files, so that those of another one may lie in a folder for
            # all. Only who names a folder says what is in it.
            if manual != epath.Path(dl_manager.download_dir) / "manual":
                folders.append(manual)
        for path in (folder / name for folder in folders for name in names):
            if path.exists():
                return path
        repository, revision, _ = catalogue.REPOSITORIES[self.name]
        try:
            return files.locate(f"hf://datasets/{repository}@{revision}/{file}")
        except FileNotFoundError as error:
            looked = f" None of {', '.join(names)} is in {folders[-1]}." if folders else ""
            raise FileNotFoundError(
                f"{error}.{looked} Or say in which folder they are: "
                f"python -m hs2jax.data.tfds {self.name} --manual_dir=FOLDER"
            ) from error


# TFDS registers each by its name, and takes its description, citation and tags from its folder.
for _name in catalogue.REPOSITORIES:
    type(_name, (Builder,), {"name": _name, "pkg_dir_path": epath.Path(__file__).parent / _name})


def value_of(found: object, field: str, kind: str):
    """A field as it is stored. Raises FieldError where it is not of its kind."""
    match kind, found:
        case "integer", _:
            return check_integer(found, field, -INTEGERS, INTEGERS)
        case "json", list() | dict() | None:
            return json.dumps(found)
        case "turn", dict():
            parts = ("role", "content")
            return {p: value_of(found.get(p), f"{field}.{p}", "text") for p in parts}
        case "texts" | "integers" | "turns", list():
            return [value_of(item, f"{field}[{i}]", kind[:-1]) for i, item in enumerate(found)]
        case "note", None:
            return ""
        case "text" | "note", str():
            return check_unicode(found, field)
    expected = {"text": "a text", "note": "a text", "json": "a list or an object"}
    raise mistyped(
        field, expected.get(kind, "a list" if kind.endswith("s") else "a message"), found
    )


def make(name: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
    """Make the builder of "NAME/CONFIG" for a folder, by default TFDS_DATA_DIR or TFDS's own."""
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
    """Read the rows of "tfds:NAME/CONFIG[SPLIT]" with their indices, from 0, as they were before
    they were built."""
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
