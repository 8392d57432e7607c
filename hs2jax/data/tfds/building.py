"""The builder of all data sets: columns, where source files are, and rows that become examples."""

import json
import logging
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from hs2jax.data import files, rows
from hs2jax.data.groups import FieldError, check_integer, check_unicode, mistyped
from hs2jax.data.tfds import catalogue

log = logging.getLogger(__name__)

SPLIT_FIELD = {"train": "train", "val": "validation"}  # Of rows that name their split.
INTEGERS = 2**31  # Whether a rating is in its range is for the reader to say, not the builder.
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
    field is there and of its kind; anything else that is wrong with a row is found when it is read,
    by the same checks as for JSONL, where it can be skipped and counted.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Only needed without a network: the files of the hub's repository, under the same names, "
        "in a folder of it that is named after the data set. A folder that is given as manual_dir "
        "may also hold the files of one data set itself."
    )

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        cls.BUILDER_CONFIGS = [
            tfds.core.BuilderConfig(name=name.partition("/")[2], description=source.about)
            for name, source in catalogue.SOURCES.items()
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
            split: self._generate_examples(self._locate(file, split, dl_manager), split, published)
            for split, (file, published) in self._source.files.items()
        }

    def _generate_examples(
        self, path: epath.Path, split: str, published: int
    ) -> Iterator[tuple[int, dict]]:
        """Every row of the split, with its number as the key. Raises DataError."""
        kinds, count = self._kinds, 0
        for number, line in files.lines(path, str(path)):
            try:
                row = files.decode(line)
                if "split" in kinds and SPLIT_FIELD[rows.split(row)] != split:
                    continue
                example = {n: value_of(rows.present(row, n), n, kind) for n, kind in kinds.items()}
            except FieldError as error:
                raise error.at(str(path), number) from None
            count += 1
            yield number, example
        level = logging.INFO if count == published else logging.WARNING
        name = f"{self.info.full_name}[{split}]"
        log.log(level, "%s: %d rows of %s; %d are published", name, count, path, published)

    def _locate(self, file: str, split: str, dl_manager) -> epath.Path:
        """The file of a split: in the manual folder, else fetched. Raises FileNotFoundError."""
        names, folders = [file, file.removesuffix(".gz"), f"{split}.jsonl"], []
        try:
            manual = epath.Path(dl_manager.manual_dir)
            folders.append(manual / self.name)
            # Data sets share names of files, so that those of another one may lie in a folder for
            # all. Only who names a folder says what is in it.
            if manual != epath.Path(dl_manager.download_dir) / "manual":
                folders.append(manual)
        except AssertionError:  # There is none, or it is empty.
            pass
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


def value_of(found: object, field: str, kind: str):
    """A field as it is stored. Raises FieldError where it is not of its kind."""
    if kind == "integer":
        return check_integer(found, field, -INTEGERS, INTEGERS)
    if kind == "json" and isinstance(found, list | dict | None):
        return json.dumps(found)
    if kind == "turn" and isinstance(found, dict):
        parts = ("role", "content")
        return {p: value_of(found.get(p), f"{field}.{p}", "text") for p in parts}
    if kind.endswith("s") and isinstance(found, list):
        return [value_of(item, f"{field}[{i}]", kind[:-1]) for i, item in enumerate(found)]
    if kind == "note" and found is None:
        return ""
    if kind not in ("text", "note") or not isinstance(found, str):
        expected = {"json": "a list or an object", "turn": "a message"}
        raise mistyped(
            field, expected.get(kind, "a list" if kind.endswith("s") else "a text"), found
        )
    return check_unicode(found, field)


# TFDS takes a builder's description, citation and tags from its folder.
BUILDERS = {
    name: type(name, (Builder,), {"name": name, "pkg_dir_path": epath.Path(__file__).parent / name})
    for name in catalogue.REPOSITORIES
}
