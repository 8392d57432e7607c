"""Data and models of a bucket are those of a local folder, fetched once for each version."""

import itertools

import fsspec
import pytest
import stages
import tiny
from command import fail
from fsspec.implementations.memory import MemoryFileSystem

from hs2jax import buckets, faults
from hs2jax.data import corpora
from hs2jax.models.hf import hub


class Store(MemoryFileSystem):
    """A bucket's stand-in, with generations; what is below b/private wants a token."""

    protocol, cachable, store, pseudo_dirs = "gs", False, {}, [""]
    generations, fetched, allowed = {}, [], {"anon": 1, None: 1}
    count = itertools.count()

    def __init__(self, token=None, **options):
        super().__init__(**options)
        self.token = token

    @classmethod
    def put(cls, name: str, content: bytes) -> None:
        cls().pipe_file(name, content)
        cls.generations[f"/{name}"] = next(cls.count)

    def _with_generation(self, info):
        return info | {"generation": self.generations.get(info["name"])}

    def find(self, path, *args, detail=False, **options):
        if self.token not in self.allowed:
            raise PermissionError("no such token here")
        if "private" in path and self.token == "anon":
            raise PermissionError("Anonymous caller does not have storage.objects.list access")
        found = super().find(path, *args, detail=True, **options)
        return {name: self._with_generation(info) for name, info in found.items()}

    def info(self, path, **options):
        return self._with_generation(super().info(path, **options))

    def get_file(self, name, target, **options):
        self.fetched.append(name)
        return super().get_file(name, target, **options)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    for name, new in (("store", {}), ("generations", {}), ("fetched", []), ("pseudo_dirs", [""])):
        monkeypatch.setattr(Store, name, new)
    monkeypatch.setenv("HS2JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, token: Store(token))
    buckets._system.cache_clear()
    yield Store
    buckets._system.cache_clear()


def prompts(spec: str) -> list:
    return [(each.prompt, each.responses) for each in corpora.read(spec)]


def test_data_are_those_of_the_local_file_and_fetched_once(bucket, tmp_path):
    local = stages.pairs(tmp_path / "pairs.jsonl", 6)
    content = (tmp_path / "pairs.jsonl").read_bytes()
    for place in ("b/pairs.jsonl", "b/deep/1.jsonl", "b/deep/2.jsonl", "b/deep/x/3.jsonl"):
        bucket.put(place, content)
    assert prompts("preference:gs://b/pairs.jsonl") == prompts(local)
    assert prompts("preference:gs://b/pairs.jsonl[:2]") == prompts(local)[:2]
    assert bucket.fetched == ["b/pairs.jsonl"]
    assert prompts("preference:gs://b/deep/*.jsonl") == prompts(local) * 2
    assert prompts("preference:gs://b/deep/*/*.jsonl") == prompts(local)
    bucket.put("b/pairs.jsonl", content.splitlines(keepends=True)[0])
    assert prompts("preference:gs://b/pairs.jsonl") == prompts(local)[:1]
    bucket.put("b/list.json", b'{"train": [' + b",".join(content.splitlines()) + b"]}")
    assert prompts("preference:gs://b/list.json/train") == prompts(local)


def test_a_token_is_used_only_where_one_is_wanted(bucket, monkeypatch):
    bucket.put("b/private/pairs.jsonl", b"{}")
    assert buckets.fetch("gs://b/private/pairs.jsonl").read_bytes() == b"{}"
    bucket.put("b/public.jsonl", b"{}")
    with monkeypatch.context() as patch:
        patch.delitem(bucket.allowed, None)
        assert buckets.fetch("gs://b/public.jsonl").read_bytes() == b"{}"
        with pytest.raises(
            FileNotFoundError, match=r"without token: Anonymous caller.*; with a token"
        ):
            buckets.fetch("gs://b/private/pairs.jsonl")
    with pytest.raises(FileNotFoundError, match=r"gs://b/none: nothing is there. .* auth"):
        buckets.fetch("gs://b/none")
    with pytest.raises(FileNotFoundError, match=r"without token: Anonymous caller"):
        buckets.fetch("gs://b/private/none")
    with pytest.raises(FileNotFoundError, match=r"gs://b/\*.csv: nothing is there"):
        list(corpora.read("preference:gs://b/*.csv"))


def test_what_changes_while_it_is_fetched_is_not_kept(bucket, tmp_path, monkeypatch):
    bucket.put("b/x", b"old")

    def get_file(self, name, target, **options):
        MemoryFileSystem.get_file(self, name, target)
        bucket.put("b/x", b"new")

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "get_file", get_file)
        with pytest.raises(OSError, match="was changed while it was fetched"):
            buckets.fetch("gs://b/x")
    assert not any((tmp_path / "cache").rglob("x"))
    assert buckets.fetch("gs://b/x").read_bytes() == b"new"


def test_a_model_is_loaded_as_from_its_folder(bucket, tmp_path):
    tiny.language_model(tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"not wanted")
    for path in (tmp_path / "model").iterdir():
        bucket.put(f"b/models/model/{path.name}", path.read_bytes())
    found, wanted = hub.load("gs://b/models/model"), hub.load(tmp_path / "model")
    assert found.config == wanted.config == hub.config_of("gs://b/models/model")
    assert not any(name.endswith(".bin") for name in bucket.fetched)
    assert hub.resolve("gs://b/models/model/").name == "model"
    with pytest.raises(FileNotFoundError, match=r"gs://b/models has none of a$"):
        buckets.fetch("gs://b/models", ["a"])


def test_without_the_extra_one_line_says_so():
    buckets._system.cache_clear()
    try:
        import gcsfs  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError) as error:
            buckets.fetch("gs://b/x")
        assert faults.told(error.value).endswith('pip install "hs2jax[gs]"')
    said = fail("run", "--config=quickstart", "--workdir=gs://b/run")
    assert "mounted (gcsfuse)" in said
