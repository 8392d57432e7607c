"""Every fault that a user can cause is one line that says what to do, whatever its class."""

import errno

import jax
import pytest
from command import hs2jax

from hs2jax import cli, faults

OUT_OF_MEMORY = RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.")
FULL = ValueError("RESOURCE_EXHAUSTED: Error writing /a/b: No space left on device [OS error 28]")
BACKEND = RuntimeError("Unable to initialize backend 'tpu': no device\n(JAX_PLATFORMS='')")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OUT_OF_MEMORY, "out of memory|config.micro_batch_size|config.model.remat=True"),
        (MemoryError(), "out of memory"),
        (FULL, "No space left on device|/a/b|the disk is full|same command"),
        (BACKEND, "'tpu'|no device|JAX_PLATFORMS"),
        (OSError(errno.ENOSPC, "No space", "/a/b"), "/a/b: the disk is full|same command"),
        (OSError(errno.EDQUOT, "Quota", "/a/b"), "/a/b: the quota is used up"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "/a: Permission denied"),
        (ModuleNotFoundError("No module named 'gcsfs'", name="gcsfs"), "pip install gcsfs"),
        (b"\xff".decode, "not UTF-8"),
        (KeyError("x"), "KeyError: 'x'|--traceback"),
        (NotImplementedError("sums\nof x"), "NotImplementedError: sums of x|--traceback"),
    ],
)
def test_a_fault_is_one_line(error, words, monkeypatch):
    if callable(error):
        with pytest.raises(UnicodeDecodeError) as found:
            error()
        error = found.value

    def raising(*_):
        raise error

    monkeypatch.setattr(cli, "report", raising)
    done = hs2jax("report", "--workdir=nowhere")
    assert done.code == 1
    assert done.err == f"hs2jax report: {faults.told(error)}\n"
    for word in words.split("|"):
        assert word in done.err


def test_a_verb_first_says_what_it_computes_with(caplog):
    with caplog.at_level("INFO", "hs2jax"):
        hs2jax("score", "--model=nowhere", "--data=preference:nowhere", "--output=nowhere")
    first = caplog.records[0].getMessage()
    assert first.startswith("hs2jax 0.")
    assert f"jax {jax.__version__}, {jax.device_count()} x cpu (cpu), float32" in first
