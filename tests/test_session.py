"""What a machine denies, lacks or holds unused is told at the start."""

import logging
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from etils import epath

from hs2jax import accelerators, cli, session


@pytest.fixture
def programs():
    """Settings of JAX that a test may change."""
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_beside_the_cache(programs, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HS2JAX_CACHE", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    jax.config.update("jax_compilation_cache_dir", None)
    session.keep_programs()
    assert jax.config.jax_compilation_cache_dir.startswith(f"{tmp_path}/programs/")
    monkeypatch.setenv("HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", "~/mine")
    session.keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []
    assert not caplog.messages


def test_a_folder_that_is_denied_is_told_and_not_used(programs, tmp_path, monkeypatch, caplog):
    for name in ("JAX_ENABLE_COMPILATION_CACHE", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # To be restored.
    (tmp_path / "file").touch()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file" / "x"))
    session.keep_programs()
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path}/file/x refuses write")
    assert "compiled programs are not kept" in said
    assert not jax.config.jax_enable_compilation_cache


class Bucket(dict):
    """A place that denies one thing."""

    def __init__(self, denied: str = "", how: str = "denies"):
        self.denied, self.how, self.name, self.parent = denied, how, "", self

    def __truediv__(self, name):
        self.name = name
        return self

    def _do(self, what):
        if what == self.denied:
            if self.how == "hangs":
                time.sleep(2)
            raise PermissionError(403, "forbidden")

    def mkdir(self, **_):
        pass

    def write_text(self, text):
        self._do("write")
        self[self.name] = text

    def iterdir(self):
        self._do("list")
        return [] if self.denied == "nothing" else [SimpleNamespace(name=name) for name in self]

    def read_text(self):
        self._do("read")
        return self[self.name]

    def unlink(self):
        self._do("delete")
        del self[self.name]


@pytest.mark.parametrize("right", ["write", "list", "read", "delete"])
def test_the_missing_right_is_named_in_time(right, monkeypatch):
    monkeypatch.setattr(epath, "Path", lambda _: Bucket())
    assert session.refusal("gs://bucket") == ""
    monkeypatch.setattr(epath, "Path", lambda _: Bucket(right))
    assert session.refusal("gs://bucket").startswith(f"refuses {right} (")
    monkeypatch.setattr(epath, "Path", lambda _: Bucket("nothing"))
    assert session.refusal("gs://bucket") == "refuses list (what was written is not there)"
    monkeypatch.setattr(epath, "Path", lambda _: Bucket(right, "hangs"))
    assert session.refusal("gs://bucket", 0.05) == f"does not answer {right} within 0 s"


def test_little_room_for_temporaries_is_told(monkeypatch, caplog):
    session.warn_of_temporaries()
    assert not caplog.messages
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100e6))
    session.warn_of_temporaries()
    assert (
        caplog.messages.pop()
        == f"{tempfile.gettempdir()} has 100 MB left: make room, or set TMPDIR"
    )
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", Path("/none").stat)
    session.warn_of_temporaries()
    assert "set TMPDIR to one" in caplog.messages.pop()


def test_the_first_line_of_a_run_says_that_a_tpu_is_not_used(monkeypatch, caplog):
    """Also where the runtime image of another chip has no driver for it."""
    monkeypatch.setattr(accelerators, "TRACES", {"tpu": (), "cuda": ()})
    config = SimpleNamespace(jax_platforms=None)
    with monkeypatch.context() as patch:
        fake = SimpleNamespace(config=config, default_backend=lambda: "cpu")
        patch.setattr(accelerators, "jax", fake)
        chips = SimpleNamespace(num_available_tpu_chips_and_device_id=lambda: (4, None))
        patch.setattr(accelerators, "hardware_utils", chips)
        caplog.set_level(logging.INFO)
        cli.say_with_what({})
    assert "this machine has a TPU, but JAX does not use it" in caplog.messages[0]
    assert "the runtime image of its chip" in caplog.messages[0]
    assert "cpu" in caplog.messages[1]
