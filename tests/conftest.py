"""Eight simulated devices for every test; tiny models and tokenizers; where real data lies."""

import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little. Without LLVM's optimisations and with the emitters that are
# quick to compile, a step of training takes a tenth of the time to compile, an operation a third.
# LONG=1 compiles as users and the README's commands do. Of a flag given twice the last one counts.
# jaxlib from 0.11 on has no other emitters, and ends at a flag that it does not know.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        "" if os.environ.get("LONG") else "--xla_backend_optimization_level=0",
        ""
        if os.environ.get("LONG") or tuple(map(int, version("jaxlib").split(".")[:2])) > (0, 10)
        else "--xla_cpu_use_fusion_emitters=false",
        os.environ.get("XLA_FLAGS", ""),
    ]
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Programs that one test file, worker or child process has compiled serve the others.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.01")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis
import jax
import pytest

from hs2jax import stopping

stopping._insisting = True  # Signals that a test sends to itself do not end the others.
hypothesis.settings.register_profile("hs2jax", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("hs2jax")


# Files that take longest. With `--dist loadfile` they begin first, so that no worker is left with
# one of them at the end; pytest-xdist's own order, by the number of tests, has them last.
LONGEST = ("test_hosts", "test_training", "test_configs", "test_invariance_real", "test_resume")
LONGEST += ("test_judge_processes", "test_processes", "test_trainable", "test_sweep", "test_sample")
LONGEST += ("test_merge", "test_policy_training", "test_judge_run", "test_families")
LONGEST += ("test_faults_at_writes", "test_parity_families", "test_parity_sampler")


def pytest_configure(config):
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONGEST)
    for item in items:
        if item.get_closest_marker("long") and not os.environ.get("LONG"):
            item.add_marker(pytest.mark.skip(reason="long: LONG=1 in the environment runs it"))


@pytest.fixture(scope="session", autouse=True)
def _scores_of_their_own(tmp_path_factory):
    """Tests neither use nor leave scores where a user's are kept."""
    folder = tmp_path_factory.mktemp("scores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hs2jax.evaluation.scores.default_folder", lambda: folder)
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_programs_of_other_modules():
    """Compiled programs go with the module that needed them. Kept, they took 7 GB and tens of
    thousands of the 65,530 maps of memory that Linux gives a process, without which XLA ends in a
    segmentation fault."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real human data; tests that need it are skipped where it is absent."""
    root = Path(__file__).parent.parent
    folder = Path(os.environ.get("HS2JAX_TEST_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; name its folder in HS2JAX_TEST_DATA")
    return folder
