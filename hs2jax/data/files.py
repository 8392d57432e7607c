"""Find the files of a data spec."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import huggingface_hub
from etils import epath

from hs2jax import buckets, session
from hs2jax.data.groups import DataError, FieldError
from hs2jax.data.tables import decode, text_lines

T = TypeVar("T")

MINI = Path(__file__).parent / "mini"
HUB = "hf://"
HUB_FILE = re.compile(
    r"hf://datasets/([^/@]+/[^/@]+)(?:@(refs/(?:convert/\w+|pr/\d+)|[^/]+))?/(.+)"
)


def locate(path: str) -> epath.Path:
    """Find the file of a spec: "mini/NAME" is bundled with the package; "gs://BUCKET/PATH" is
    fetched from a bucket and "hf://datasets/OWNER/NAME/PATH", or NAME@REVISION, from the hub,
    unless they have been before. A "/" in a revision is written "%2F", but in the hub's own
    refs/pr/NUMBER and refs/convert/NAME. Raises FileNotFoundError where they do not give it.
    """
    if path.startswith(buckets.SCHEME):
        file, suffix, chosen = path.partition(".json/")  # A list in a file, by its name.
        return epath.Path(buckets.fetch(file + suffix.rstrip("/"))) / chosen
    if path.startswith(HUB):
        return _fetch(path)
    if path.startswith("mini/"):
        return epath.Path(MINI / path[len("mini/") :])
    if "://" in path:
        raise ValueError(f"'{path}' is not read from; fetch the file, and give its path")
    return epath.Path(path).expanduser()


def expand(path: str) -> list[str]:
    """Return the path, or, sorted, all that match it where it has a "*", which stands for any part
    of the name of a file or folder. Raises FileNotFoundError where nothing is there, and ValueError
    for a path that cannot be understood.
    """
    if "*" not in path:
        file = locate(path)
        if not file.exists() and not file.parent.is_file():  # Of which it is a list, by its name.
            raise FileNotFoundError(f"there is no file {file}")
        if file.is_dir() and not (file / "state.json").exists():  # Of `datasets.save_to_disk`.
            raise FileNotFoundError(_of_folder(file))
        if os.path.exists(file) and not (os.path.isfile(file) or os.path.isdir(file)):
            what = "is a pipe or device, and data are read more than once; write them to a file"
            raise FileNotFoundError(f"{file} {what}")
        return [path]
    if path.startswith(buckets.SCHEME):
        return buckets.glob(path)
    if path.startswith(HUB):
        raise ValueError(f"'{path}' has a '*': of files on the hub each must be named, joined by +")
    if "**" in path:
        raise ValueError(f"'{path}' has a '**': write a '*' for each folder, as in FOLDER/*/*.json")
    start, slash, _ = path[: path.index("*")].rpartition("/")
    start += slash
    folder = locate(start or ".")
    matches = (each for each in folder.glob(path[len(start) :]) if not each.is_dir())
    found = sorted(f"{start}{each.relative_to(folder)}" for each in matches)
    if not found:
        raise FileNotFoundError(f"no file matches {path} (in {folder})")
    return found


def read_object(path: str) -> dict:
    """Read the object in a .json file, here, in a bucket or on the hub as in a data spec.

    Raises FileNotFoundError, and DataError where the file holds no JSON object.
    """
    expand(path)
    try:
        return decode(b"".join(line for _, line in text_lines(locate(path), path)))
    except FieldError as error:
        raise DataError(path, 1, "file", error.what, error.reason) from None


def parse_rows(path: str, rows: Iterable[object], parse: Callable[[dict, str], T]) -> list[T]:
    """Parse each row of a file, given with its source, "path:number" (from 1).

    parse: raises FieldError. Raises DataError, also where there is no row.
    """
    parsed = []
    for number, row in enumerate(rows, 1):
        try:
            parsed.append(parse(decode(row), f"{path}:{number}"))
        except FieldError as error:
            raise error.at(path, number) from None
    if not parsed:
        raise DataError(path, 1, "file", "expected at least one row, found none", "empty list")
    return parsed


def _fetch(path: str) -> epath.Path:
    """Fetch a file of a data set of the hub, or find it in the hub's cache."""
    match = HUB_FILE.fullmatch(path)
    if not match:
        raise ValueError(f"'{path}' is not hf://datasets/OWNER/NAME/PATH or .../NAME@REVISION/PATH")
    repository, revision, file = match.groups()
    revision = unquote(revision or "main")
    try:
        options = {"repo_type": "dataset", "revision": revision, "etag_timeout": 5}
        found = session.public_first(huggingface_hub.hf_hub_download, repository, file, **options)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"the hub did not give {file} of the data set {repository} at revision '{revision}' "
            f"({error}). Check these names, and log in where it asks for it (hf auth login). Or "
            "fetch the file elsewhere, and give its path instead of hf://"
        ) from error
    return epath.Path(found)


def _of_folder(folder: epath.Path) -> str:
    """Say what to name instead of a folder."""
    if (folder / "dataset_dict.json").exists():
        splits = sorted(each.name for each in folder.iterdir() if each.is_dir())
        return f"{folder} holds the splits {', '.join(splits)}: name one, {folder}/{splits[0]}"
    return f"{folder} is a folder: name its files, as in {folder}/*.jsonl"
