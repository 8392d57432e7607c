"""Build a data set: python -m hs2jax.data.tfds helpsteer2/preference --manual_dir=FOLDER"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from hs2jax.data.groups import DataError
from hs2jax.data.tfds import building, catalogue


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what has not been built yet, and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m hs2jax.data.tfds", description=__doc__)
    parser.add_argument("name", help=f"one of {', '.join(catalogue.SOURCES)}")
    parser.add_argument("--manual_dir", help="folder of files that are here; else the hub's")
    parser.add_argument("--data_dir", help="where it goes; else TFDS_DATA_DIR, else TFDS's default")
    options = parser.parse_args(arguments)
    try:
        builder = building.make(options.name, options.data_dir)
        if options.manual_dir and not Path(options.manual_dir).is_dir():
            raise FileNotFoundError(f"there is no folder {options.manual_dir} (--manual_dir)")
        if builder.is_prepared():
            print(f"It was built before; delete {builder.data_dir} to build it anew.")
            if options.manual_dir:
                raise ValueError("the files of --manual_dir would not be read")
        # TFDS's bucket does not hold these.
        settings = {"manual_dir": options.manual_dir, "try_download_gcs": False}
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**settings))
    except (DataError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    files = catalogue.find(options.name)[1].files
    for split, info in builder.info.splits.items():
        rows = f"{info.num_examples:,} rows ({files[split][1]:,} are published)"
        print(f"{builder.info.full_name}[{split}]: {rows}")
    print(f"in {builder.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
