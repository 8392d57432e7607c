"""What all builders share: columns, where source files are, and rows that become examples."""

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import huggingface_hub
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from hs2jax.data import files, jsonl, rows
from hs2jax.data.groups import DataError, FieldError, show
from hs2jax.data.tfds import catalogue

log = logging.getLogger(__name__)

SPLIT_FIELD = {"train": "train", "val": "validation"}  # Of rows that name their split.
TURN = ("role", "content")
INTEGERS = 2**31  # Whether a rating is in its range is for the reader to say, not the builder.


class Column(NamedTuple):
    """A published field: its kind (see `feature`) and what it means."""

    kind: str
    about: str
    value_range: str | None = None


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds a data set of the catalogue, from files in the manual folder or from the hub.

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
    HOMEPAGE: str
    LICENSE: str

    def __init__(self, *, file_format: str | None = None, **options):
        # The default of tensorflow_datasets, TFRecord, needs TensorFlow.
        super().__init__(file_format=file_format or "array_record", **options)

    def columns(self) -> dict[str, Column]:
        """The published fields."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {name: feature(column) for name, column in self.columns().items()}
            ),
            homepage=self.HOMEPAGE,
            license=self.LICENSE,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        _, _, source = catalogue.find(self._full_name)
        return {
            split: self._generate_examples(self._locate(file, split, dl_manager), split)
            for split, file in source.files.items()
        }

    @property
    def _full_name(self) -> str:
        return catalogue.full_name(self.name, getattr(self.builder_config, "name", ""))

    def _generate_examples(self, path: epath.Path, split: str) -> Iterator[tuple[int, dict]]:
        """Every row of the split, with its number as the key. Raises DataError."""
        columns = self.columns()
        count = 0
        for number, row in _rows(path):
            try:
                if "split" in columns and SPLIT_FIELD[rows.split(row)] != split:
                    continue
                example = {name: value(row, name, column) for name, column in columns.items()}
            except FieldError as error:
                raise DataError(str(path), number, error.field, error.what, error.reason) from None
            count += 1
            yield number, example
        published = catalogue.find(self._full_name)[2].rows[split]
        log.log(
            logging.INFO if count == published else logging.WARNING,
            f"{self._full_name}[{split}]: {count:,} rows of {path}; {published:,} are published",
        )

    def _locate(self, file: str, split: str, dl_manager) -> epath.Path:
        """The file of a split: in the manual folder, else fetched. Raises FileNotFoundError."""
        names = [file]
        if file.endswith(".parquet"):
            names += [f"{split}.jsonl.gz", f"{split}.jsonl"]
        else:
            names.append(file.removesuffix(".gz"))
        try:
            manual = epath.Path(dl_manager.manual_dir)
        except AssertionError:  # There is none, or it is empty.
            manual = None
        folders = [manual / self.name] if manual else []
        # Data sets share names of files, so that those of another one may lie in a folder for all.
        # Only who names a folder says what is in it.
        if manual and manual != epath.Path(dl_manager.download_dir) / "manual":
            folders.append(manual)
        for folder in folders:
            for name in names:
                if (folder / name).exists():
                    self._compare(folder / name, file)
                    return folder / name
        try:
            return self._fetch(file)
        except (OSError, ValueError) as error:
            repository = catalogue.DATASETS[self.name].repository
            where = f"in {' or '.join(map(str, folders))}" if manual else "in a manual folder"
            raise FileNotFoundError(
                f"{self._full_name} needs {' or '.join(names)}, which is not {where}, and the hub "
                f"did not give it ({error}). Fetch {file} from the hub's data set {repository}, "
                "put it into a folder under this name and say which: "
                f"python -m hs2jax.data.tfds {self._full_name} --manual_dir=FOLDER"
            ) from error

    def _fetch(self, file: str) -> epath.Path:
        """A file of the hub, at the catalogue's revision. Raises ValueError for a wrong one."""
        repository, revision, _ = catalogue.DATASETS[self.name]
        path = huggingface_hub.hf_hub_download(
            repository, file, repo_type="dataset", revision=revision, etag_timeout=5
        )
        known, found = self._checksum(file), _sha256(path)
        if known not in (None, found):
            raise ValueError(f"{path} has SHA-256 {found}, expected {known}: delete it")
        return epath.Path(path)

    def _compare(self, path: epath.Path, file: str) -> None:
        """Warns where a file at hand, of the published name, is not the published one."""
        known = self._checksum(file) if path.name == Path(file).name else None
        if known is not None and known != (found := _sha256(path)):
            repository, revision, _ = catalogue.DATASETS[self.name]
            log.warning(
                f"{path} has SHA-256 {found}, but {file} of {repository} has {known} at revision "
                f"{revision}: it is another version, or of another data set"
            )

    def _checksum(self, file: str) -> str | None:
        """The SHA-256 of a file of the hub, where it is known."""
        repository, revision, _ = catalogue.DATASETS[self.name]
        known = (self.url_infos or {}).get(
            f"https://huggingface.co/datasets/{repository}/resolve/{revision}/{file}"
        )
        return None if known is None else known.checksum


def _sha256(path: Path | str) -> str:
    return hashlib.sha256(epath.Path(path).read_bytes()).hexdigest()


def feature(column: Column) -> tfds.features.FeatureConnector:
    """How a column is stored.

    Kinds: "text"; "texts", a list; "note", a text that is empty where there is none (null);
    "integer"; "integers", a list; "turns", a list of messages; "json", a text that is the field as
    JSON, for lists of what annotators wrote, whose items vary; "object", the same for an object (or
    null) of remarks.
    """
    documentation = tfds.features.Documentation(column.about, column.value_range)
    match column.kind:
        case "text" | "note" | "json" | "object":
            return tfds.features.Text(doc=documentation)
        case "texts":
            return tfds.features.Sequence(tfds.features.Text(), doc=documentation)
        case "integer":
            return tfds.features.Scalar(np.int64, doc=documentation)
        case "integers":
            return tfds.features.Sequence(np.int64, doc=documentation)
        case "turns":
            turn = {part: tfds.features.Text() for part in TURN}
            return tfds.features.Sequence(turn, doc=documentation)
    raise ValueError(f"no kind of column is named '{column.kind}'")


def value(row: dict, name: str, column: Column):
    """The field as it is stored. Raises FieldError where it is absent or of another kind."""
    match column.kind:
        case "text":
            return _text(rows.present(row, name), name)
        case "texts":
            return [_text(item, f"{name}[{i}]") for i, item in enumerate(_list(row, name))]
        case "note":
            found = rows.present(row, name)
            return "" if found is None else _text(found, name)
        case "integer":
            return rows.integer(row, name, -INTEGERS, INTEGERS)
        case "integers":
            return [
                rows.check_integer(item, f"{name}[{i}]", -INTEGERS, INTEGERS)
                for i, item in enumerate(_list(row, name))
            ]
        case "turns":
            return [_turn(item, f"{name}[{i}]") for i, item in enumerate(_list(row, name))]
        case "json":
            return json.dumps(_list(row, name))
        case "object":
            found = rows.present(row, name)
            if found is not None and not isinstance(found, dict):
                raise FieldError(name, f"expected an object, found {show(found)}", "wrong type")
            return json.dumps(found)
    raise ValueError(f"no kind of column is named '{column.kind}'")


def _text(found: object, field: str) -> str:
    if not isinstance(found, str):
        raise FieldError(field, f"expected a text, found {show(found)}", "wrong type")
    try:
        found.encode()
    except UnicodeEncodeError as error:
        what = f"expected Unicode, found a broken byte at character {error.start + 1}"
        raise FieldError(field, what, "broken Unicode") from None
    return found


def _turn(found: object, field: str) -> dict[str, str]:
    if not isinstance(found, dict) or not found.keys() >= set(TURN):
        what = f"expected an object with 'role' and 'content', found {show(found)}"
        raise FieldError(field, what, "wrong type")
    return {part: _text(found[part], f"{field}.{part}") for part in TURN}


def _list(row: dict, field: str) -> list:
    found = rows.present(row, field)
    if not isinstance(found, list):
        raise FieldError(field, f"expected a list, found {show(found)}", "wrong type")
    return found


def _rows(path: epath.Path) -> Iterator[tuple[int, dict]]:
    """The rows of a .jsonl, .jsonl.gz or .parquet file, numbered from 1."""
    for number, line in files.lines(path, str(path)):
        try:
            yield number, jsonl.decode(line)
        except FieldError as error:
            raise DataError(str(path), number, error.field, error.what, error.reason) from None
