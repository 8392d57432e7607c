"""Every fault that a user can cause is one line that says what to do, whatever its class."""

import errno
import os
import subprocess
import sys

import jax
import pytest
from command import hs2jax

from hs2jax import cli, faults

OUT_OF_MEMORY = RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.")
FULL = ValueError("RESOURCE_EXHAUSTED: Error writing /a/b: No space left on device [OS error 28]")
BACKEND = RuntimeError("Unable to initialize backend 'tpu': no device\n(JAX_PLATFORMS='')")


FAULTS = (
    (OUT_OF_MEMORY, "train", "out of memory|micro_batch_size, config.model.remat=True, config.opt"),
    (MemoryError(), "judge", "out of memory|bfloat16 as dtype|more devices"),
    (FULL, "train", "No space left on device|/a/b|the disk is full|same command"),
    (BACKEND, "score", "no device|JAX_PLATFORMS|XLA_FLAGS, which is '"),
    (OSError(errno.ENOSPC, "No space", "/a/b"), "run", "/a/b: the disk is full|same command"),
    (OSError(errno.EDQUOT, "Quota", "/a/b"), "run", "/a/b: the quota is used up"),
    (PermissionError(errno.EACCES, "Permission denied", "/a"), "train", "/a: Permission"),
    (ModuleNotFoundError("No module named 'a.b'", name="a.b"), "train", "pip install a"),
    (
        ImportError("Please install gcsfs to access Google Storage"),
        "score",
        "hs2jax[gs]",
    ),
    (ModuleNotFoundError("No module", name="torch"), "judge", 'pip install "hs2jax[parity]"'),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "report", "not UTF-8"),
    (ValueError("two\nlines"), "report", "two lines"),
    (KeyError("x"), "report", "KeyError: 'x'|--traceback"),
    (NotImplementedError("sums\nof x"), "report", "NotImplementedError: sums of x|--traceback"),
)


@pytest.mark.parametrize(("error", "verb", "words"), FAULTS)
def test_a_fault_is_one_line(error, verb, words):
    said = faults.told(error, verb)
    assert "\n" not in said
    for word in words.split("|"):
        assert word in said


def test_a_verb_ends_with_that_line_and_with_traceback_shows_the_rest(monkeypatch):
    def raising(*_):
        raise KeyError("x")

    monkeypatch.setattr(cli, "report", raising)
    line = f"hs2jax report: {faults.told(KeyError('x'), 'report')}\n"
    assert hs2jax("report", "--workdir=nowhere") == (1, "", line)
    monkeypatch.setenv("HS2JAX_TRACEBACK", "")  # Which --traceback sets, and the test takes back.
    done = hs2jax("report", "--workdir=nowhere", "--traceback")
    assert done.err.startswith("Traceback")
    assert "in raising" in done.err
    assert done.err.endswith(line)


# What JAX reads when it is imported, and when it looks for devices.
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("JAX_ENABLE_X64", "maybe", "'maybe'|JAX_ENABLE_X64"),
        ("JAX_PLATFORMS", "cuda", "'cuda'|Unset JAX_PLATFORMS|pip install \"hs2jax[cuda]\""),
        ("XLA_FLAGS", "--xla_gpu_ftz=true --colour=red", "XLA_FLAGS is '--xla_gpu|: --colour=red"),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=x", "XLA_FLAGS|value x for flag"),
    ],
)
def test_what_jax_cannot_be_told_is_one_line(name, value, words, tmp_path):
    command = [sys.executable, "-m", "hs2jax.cli", "score", "--model=x", "--data=x", "--output=x"]
    done = subprocess.run(
        command, env=os.environ | {name: value}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words.split("|")), done.stderr


@pytest.mark.parametrize(("arguments", "code"), [(["help", "train"], 0), (["nothing"], 2)])
def test_what_nobody_reads_is_no_fault(arguments, code):
    """As behind `| head`, whether Python writes at once or when it ends."""
    for at_once in ("1", ""):
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "hs2jax.cli", *arguments]
        env = os.environ | {"PYTHONUNBUFFERED": at_once}
        done = subprocess.run(command, env=env, stdout=write, stderr=subprocess.PIPE, text=True)
        os.close(write)
        assert done.returncode == code
        assert done.stderr.strip() == ("hs2jax: there is no verb 'nothing'" if code else "")


def test_a_thread_that_waits_does_not_keep_a_command_from_ending():
    program = (
        "import sys, threading, time; from hs2jax import cli; sys.argv = ['hs2jax', 'nothing']; "
        "threading.Thread(target=time.sleep, args=(600,)).start(); cli.command()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=300)
    assert done.returncode == 2
    assert done.stdout.startswith(b"The command line")


def test_a_verb_first_says_what_it_computes_with(caplog):
    with caplog.at_level("INFO", "hs2jax"):
        hs2jax("score", "--model=nowhere", "--data=preference:nowhere", "--output=nowhere")
    first = caplog.records[0].getMessage()
    assert first.startswith("hs2jax 0.")
    assert f"jax {jax.__version__}, {jax.device_count()} x cpu (cpu), float32" in first
