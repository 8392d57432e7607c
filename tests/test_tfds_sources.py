"""Where builders find their files: folders, the hub, and what is said of files that are others."""

import gzip
import shutil

import huggingface_hub
import pytest
import tensorflow_datasets as tfds
from test_tfds import build, dummy, dummy_file, rows_of

from hs2jax.data.tfds import __main__ as command
from hs2jax.data.tfds import building, catalogue


def test_files_of_another_set_in_the_default_folder_are_not_taken(tmp_path, monkeypatch):
    """HelpSteer and HelpSteer2 share names of files."""

    def absent(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", absent)
    manual = tmp_path / "downloads" / "manual"
    shutil.copytree(dummy("helpsteer"), manual)
    builder = tfds.builder("helpsteer2", data_dir=str(tmp_path))
    options = tfds.download.DownloadConfig(try_download_gcs=False)
    with pytest.raises(FileNotFoundError, match="helpsteer2/ratings needs"):
        builder.download_and_prepare(download_config=options)
    shutil.copytree(dummy("helpsteer2"), manual / "helpsteer2")
    builder.download_and_prepare(download_config=options)
    assert builder.info.splits["train"].num_examples == len(rows_of("helpsteer2/ratings", "train"))


def test_files_that_are_not_the_published_ones_are_warned_of(tmp_path, caplog):
    path = tmp_path / "manual" / "preference" / "preference.jsonl.gz"
    path.parent.mkdir(parents=True)
    plain = dummy_file("helpsteer2/preference", "train")
    path.write_bytes(gzip.compress(plain.read_bytes()))
    build("helpsteer2/preference", tmp_path / "manual", tmp_path / "data")
    warned = [r.getMessage() for r in caplog.records if r.name == building.__name__]
    assert any(f"{path} has SHA-256" in text and "nvidia/HelpSteer2" in text for text in warned)
    assert f"helpsteer2/preference[train]: 3 rows of {path}; 8,677 are published" in warned
    caplog.clear()
    build("helpsteer2/preference", dummy("helpsteer2"), tmp_path / "other")
    assert "SHA-256" not in caplog.text  # Nothing is known of a file that is not compressed.


def test_manual_folders(tmp_path):
    """Compressed or not, for one data set or with a folder for each."""
    for file in ("train.jsonl", "validation.jsonl"):
        path = tmp_path / "all" / "helpsteer2" / f"{file}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress((dummy("helpsteer2") / file).read_bytes()))
        shutil.copy(dummy("helpsteer") / file, tmp_path / "all" / file)
    builder = build("helpsteer2", tmp_path / "all", tmp_path / "data")
    assert builder.info.splits["train"].num_examples == len(rows_of("helpsteer2/ratings", "train"))
    builder = build("helpsteer", tmp_path / "all", tmp_path / "data")
    assert builder.info.splits["train"].num_examples == len(rows_of("helpsteer", "train"))


def test_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "manual" / "data" / "filtered-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    rows = rows_of("reward_bench", "filtered")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    source = build("reward_bench", tmp_path / "manual", tmp_path / "data").as_data_source()
    assert [row["prompt"].decode() for row in source["filtered"]] == [row["prompt"] for row in rows]


def test_the_hub_gives_what_is_not_at_hand(tmp_path, monkeypatch):
    asked = []

    def download(repository, file, *, repo_type, revision, **options):
        asked.append((repository, file, repo_type, revision))
        return str(dummy("helpsteer") / file.removesuffix(".gz"))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    builder = build("helpsteer", tmp_path, tmp_path / "data")
    assert builder.info.splits["train"].num_examples == len(rows_of("helpsteer", "train"))
    revision = catalogue.DATASETS["helpsteer"].revision
    assert asked == [
        ("nvidia/HelpSteer", file, "dataset", revision)
        for file in ("train.jsonl.gz", "validation.jsonl.gz")
    ]
    with pytest.raises(FileNotFoundError, match="SHA-256"):
        build("helpsteer2", tmp_path, tmp_path / "data")


def test_checksums_are_of_files_that_are_asked_for():
    for name in ("helpsteer2", "reward_bench", "reward_bench_2"):
        repository, revision, configs = catalogue.DATASETS[name]
        files = {file for source in configs.values() for file in source.files.values()}
        start = f"https://huggingface.co/datasets/{repository}/resolve/{revision}/"
        assert set(tfds.builder_cls(name).url_infos) == {start + file for file in files}


def test_neither_here_nor_on_the_hub(tmp_path, capsys):
    options = ["helpsteer3", f"--data_dir={tmp_path / 'data'}"]
    assert command.main([*options, f"--manual_dir={tmp_path / 'absent'}"]) == 1
    assert "no folder" in capsys.readouterr().err
    (tmp_path / "other.txt").write_text("")
    assert command.main([*options, f"--manual_dir={tmp_path}"]) == 1
    said = capsys.readouterr().err
    for part in ("preference/train.jsonl.gz", str(tmp_path), "nvidia/HelpSteer3", "--manual_dir"):
        assert part in said
