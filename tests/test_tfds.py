"""Builders build from the published forms without TensorFlow, and give what was in the files."""

import dataclasses
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import tensorflow_datasets as tfds

import hs2jax.data.tfds
from hs2jax.data import corpora
from hs2jax.data.groups import DataError, FieldError
from hs2jax.data.record import Record
from hs2jax.data.tfds import __main__ as command
from hs2jax.data.tfds import building, catalogue

FOLDER = Path(hs2jax.data.tfds.__file__).parent
NAMES = list(catalogue.SOURCES)
SPLIT_FIELD = {"train": "train", "validation": "val"}


def dummy(name):
    """The manual folder of a data set's dummy rows."""
    return FOLDER / name.partition("/")[0] / "dummy_data"


def dummy_file(name, split):
    """The file that holds the dummy rows of a split."""
    file, _ = catalogue.find(name)[1].files[split]
    return dummy(name) / (
        f"{split}.jsonl" if file.endswith(".parquet") else file.removesuffix(".gz")
    )


def rows_of(name, split):
    """The rows of a split, as they are published."""
    rows = [json.loads(line) for line in dummy_file(name, split).read_text().splitlines()]
    return [row for row in rows if "split" not in row or row["split"] == SPLIT_FIELD[split]]


def build(name, manual, data_dir):
    options = tfds.download.DownloadConfig(manual_dir=str(manual), try_download_gcs=False)
    builder = tfds.builder(name, data_dir=str(data_dir))
    builder.download_and_prepare(download_config=options)
    return builder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder where every data set has been built from its dummy rows."""
    folder = tmp_path_factory.mktemp("built")
    for name in NAMES:
        build(name, dummy(name), folder)
    return folder


@pytest.fixture(autouse=True)
def data_dir(built, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(built))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Builds a HelpSteer2 config from given rows, in a folder of its own; the JSONL file."""

    def from_rows(rows, name="helpsteer2/ratings"):
        manual = tmp_path / "manual"
        for file, _ in catalogue.find(name)[1].files.values():
            path = manual / file.removesuffix(".gz")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "own"))
        build(name, manual, tmp_path / "own")
        return manual / catalogue.find(name)[1].files["train"][0].removesuffix(".gz")

    return from_rows


def ratings_rows(n, **fields):
    five = dict.fromkeys(["helpfulness", "correctness", "coherence", "complexity", "verbosity"], 2)
    return [{"prompt": f"p{i // 2}", "response": f"r{i}", **five, **fields} for i in range(n)]


@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_every_row_comes_back_and_groups_are_those_of_the_jsonl_file(name, built):
    builder = tfds.builder(name, data_dir=str(built))
    _, source = catalogue.find(name)
    assert list(builder.info.splits) == list(source.files)
    for split in source.files:
        rows = rows_of(name, split)
        assert builder.info.splits[split].num_examples == len(rows) > 0
        remarks = source.columns.get("json", "").split()
        found = [again for _, again in building.lines(f"tfds:{name}[{split}]")]
        for again in found:
            again |= {field: json.loads(again[field]) for field in remarks}
        assert found == rows
        selector = f"[{SPLIT_FIELD[split]}]" if "split" in rows[0] else ""
        published = corpora.read(f"{source.format}:{dummy_file(name, split)}{selector}")
        groups = list(corpora.read(f"tfds:{name}[{split}]"))
        assert groups == [
            dataclasses.replace(group, source=own.source)
            for group, own in zip(published, groups, strict=True)
        ]
        assert groups[0].source == f"tfds:{name}[{split}]:0"


def test_selectors():
    train = list(corpora.read("tfds:helpsteer2"))
    assert [g.source for g in train] == [f"tfds:helpsteer2/ratings[train]:{i}" for i in (0, 2, 4)]
    validation = list(corpora.read("tfds:helpsteer2/ratings[validation]"))
    assert list(corpora.read("tfds:helpsteer2[val]")) == validation
    assert list(corpora.read("tfds:helpsteer2[1:]")) == train[1:]
    assert list(corpora.read("tfds:helpsteer2/ratings[train][:70%]")) == train[:2]
    assert list(corpora.read("tfds:helpsteer2[val][-1:] + tfds:helpsteer2[:1]")) == [
        *validation[-1:],
        train[0],
    ]


def test_a_set_that_is_not_built_is_refused_with_the_command_that_builds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"tfds helpsteer2/ratings .*--manual_dir"):
        corpora.read("tfds:helpsteer2")


def test_what_the_reader_refuses_is_built_and_refused_alike(own):
    rows = ratings_rows(600)
    rows[1]["helpfulness"] = 5
    rows[4]["response"] = " "
    rows[7]["prompt"] = "of no other row"
    path = own(rows)
    records = {}
    for spec in (f"helpsteer2:{path}", "tfds:helpsteer2"):
        records[spec] = Record()
        groups = list(corpora.read(spec, on_error="skip", record=records[spec]))
        kept = [("r2", "r3"), *((f"r{i}", f"r{i + 1}") for i in range(8, 600, 2))]
        assert [g.responses for g in groups] == kept  # In their order.
        records[spec].skipped_examples = []
    assert len(set(map(str, records.values()))) == 1
    with pytest.raises(DataError, match=r"tfds:helpsteer2/ratings\[train\], index 1, field 'help"):
        list(corpora.read("tfds:helpsteer2"))
    with pytest.raises(DataError, match=r"index 7, field 'prompt': expected the prompt of index 6"):
        list(corpora.read("tfds:helpsteer2[3:]"))


def test_a_field_of_another_kind_is_refused():
    wrong = {
        "text": [None, 3, "half \ud800"],
        "note": [3],
        "json": ["[]", 3],
        "integer": ["3", True, 2.5, None],
        "integers": [3, [3, 2.5]],
        "texts": ["x", [None]],
        "turns": ["Hello", [{"role": "user"}], [{"role": "user", "content": None}]],
    }
    assert wrong.keys() == building.FEATURES.keys()
    for kind, values in wrong.items():
        for value in values:
            with pytest.raises(FieldError, match="here"):
                building.value_of(value, "here", kind)
    assert building.value_of(None, "here", "note") == ""  # As the reader of JSONL takes it.


@pytest.mark.parametrize(("field", "value"), [("split", "test"), ("preference_strength", "3")])
def test_a_row_of_another_form_stops_the_build_and_is_named(field, value, own, tmp_path):
    name = "helpsteer2/preference"
    rows = rows_of(name, "train")
    rows[1] = {**rows[1], field: value}
    with pytest.raises(DataError, match=rf"manual.*\.jsonl, line 2, field '{field}"):
        own(rows, name)
    del rows[1][field]
    with pytest.raises(DataError, match=rf"line 2, field '{field}'.*missing"):
        own(rows, name)
    assert not building.make(name, str(tmp_path / "own")).is_prepared()


def test_command(tmp_path, capsys):
    options = ["helpsteer2/preference", f"--data_dir={tmp_path}"]
    assert command.main([*options, f"--manual_dir={dummy('helpsteer2')}"]) == 0
    assert "helpsteer2/preference/1.0.0[train]: 3 rows" in capsys.readouterr().out
    assert command.main([*options, f"--manual_dir={dummy('helpsteer2')}"]) == 1
    assert "--manual_dir would not be read" in capsys.readouterr().err
    assert command.main(options) == 0
    assert "built before" in capsys.readouterr().out
    assert command.main(["helpsteer4"]) == 1
    assert "no data set 'helpsteer4'" in capsys.readouterr().err


def test_builders_are_found_by_name_and_no_tensorflow_is_imported(tmp_path):
    program = f"""
import sys
import hs2jax.data.corpora
assert "tensorflow_datasets" not in sys.modules
import tensorflow_datasets as tfds
import hs2jax.data.tfds.building
builder = tfds.builder("helpsteer2")
assert builder.info.full_name == "helpsteer2/ratings/1.0.0"
manual = {str(dummy("helpsteer2"))!r}
options = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
builder.download_and_prepare(download_config=options)
assert len(list(hs2jax.data.corpora.read("tfds:helpsteer2"))) == 3
assert tfds.builder("mnist").name == "mnist"
assert "tensorflow" not in sys.modules
"""
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


# Where builders find their files ------------------------------------------------------------------


def test_files_of_another_set_in_the_default_folder_are_not_taken(tmp_path, monkeypatch):
    """HelpSteer and HelpSteer2 share names of files."""

    def absent(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", absent)
    shutil.copytree(dummy("helpsteer"), tmp_path / "downloads" / "manual")
    builder = tfds.builder("helpsteer2", data_dir=str(tmp_path))
    options = tfds.download.DownloadConfig(try_download_gcs=False)
    with pytest.raises(FileNotFoundError, match=r"None of train\.jsonl\.gz.*--manual_dir"):
        builder.download_and_prepare(download_config=options)


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


def test_the_hub_gives_what_is_not_at_hand(tmp_path, monkeypatch):
    asked = []

    def download(repository, file, *, repo_type, revision, **options):
        asked.append((repository, file, repo_type, revision))
        return str(dummy("helpsteer") / file.removesuffix(".gz"))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    builder = build("helpsteer", tmp_path, tmp_path / "data")
    assert builder.info.splits["train"].num_examples == len(rows_of("helpsteer", "train"))
    repository, revision, _ = catalogue.REPOSITORIES["helpsteer"]
    assert asked == [
        (repository, file, "dataset", revision)
        for file in ("train.jsonl.gz", "validation.jsonl.gz")
    ]


def test_neither_here_nor_on_the_hub(tmp_path, capsys):
    options = ["helpsteer3", f"--data_dir={tmp_path / 'data'}"]
    assert command.main([*options, f"--manual_dir={tmp_path / 'absent'}"]) == 1
    assert "no folder" in capsys.readouterr().err
    (tmp_path / "other.txt").write_text("")
    assert command.main([*options, f"--manual_dir={tmp_path}"]) == 1
    said = capsys.readouterr().err
    for part in ("preference/train.jsonl.gz", str(tmp_path), "nvidia/HelpSteer3", "--manual_dir"):
        assert part in said
