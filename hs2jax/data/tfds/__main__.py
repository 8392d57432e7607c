"""Builds a data set: python -m hs2jax.data.tfds helpsteer2/preference --manual_dir=FOLDER"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from hs2jax.data.groups import DataError
from hs2jax.data.tfds import catalogue, reading, statistics


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds what has not been built yet, says where it is, and checks it if asked to."""
    names = [catalogue.full_name(d, c) for d, of in catalogue.DATASETS.items() for c in of.configs]
    parser = argparse.ArgumentParser(prog="python -m hs2jax.data.tfds", description=__doc__)
    parser.add_argument("name", help=f"one of {', '.join(names)}")
    parser.add_argument("--manual_dir", help="folder of files that are here; else the hub's")
    parser.add_argument("--data_dir", help="where it goes; else TFDS_DATA_DIR, else TFDS's default")
    parser.add_argument(
        "--check", action="store_true", help="compare rows and ratings with what is published"
    )
    options = parser.parse_args(arguments)
    try:
        builder = reading.make(options.name, options.data_dir)
        if options.manual_dir and not Path(options.manual_dir).is_dir():
            raise FileNotFoundError(f"there is no folder {options.manual_dir} (--manual_dir)")
        if builder.is_prepared() and options.manual_dir:
            raise ValueError(
                f"{options.name} was built before, in {builder.data_dir}, so the files of "
                "--manual_dir would not be read: delete that folder to build it anew, or leave out "
                "--manual_dir"
            )
        if builder.is_prepared():
            print("It was built before; delete its folder to build it anew.")
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=options.manual_dir,
                try_download_gcs=False,  # TFDS's bucket does not hold these.
            )
        )
        published = catalogue.find(options.name)[2].rows
        for split, info in builder.info.splits.items():
            print(
                f"{builder.info.full_name}[{split}]: {info.num_examples:,} rows "
                f"({published[split]:,} are published)"
            )
        print(f"in {builder.data_dir}")
        compared = statistics.check(options.name, options.data_dir) if options.check else []
    except (DataError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for quantity, published, found in compared:
        print(f"{quantity:45} published {published:12,.4f}  found {found:12,.4f}")
    off = [each.quantity for each in compared if not each.agrees]
    if off:
        print(f"error: not as published: {', '.join(off)}", file=sys.stderr)
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
