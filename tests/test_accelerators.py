"""What a notebook sees first: short names, and a device that is there and not used."""

import re
from types import SimpleNamespace

import pytest
from command import hs2jax as command

import hs2jax
from hs2jax import accelerators


def test_what_a_person_holds_has_a_short_name():
    from hs2jax.judging.judge import Judge
    from hs2jax.language_model import LanguageModel
    from hs2jax.reward_model import RewardModel

    assert (hs2jax.Judge, hs2jax.LanguageModel) == (Judge, LanguageModel)
    assert hs2jax.RewardModel is RewardModel
    with pytest.raises(AttributeError, match="has no attribute 'Reward'"):
        _ = hs2jax.Reward


@pytest.mark.parametrize(("kind", "name"), [("tpu", "TPU"), ("cuda", "GPU")])
def test_a_device_that_is_not_used_is_told(tmp_path, monkeypatch, kind, name):
    trace = tmp_path / "device"
    monkeypatch.setattr(accelerators, "TRACES", {kind: (str(trace),)})
    config = SimpleNamespace(jax_platforms=None)
    jax = SimpleNamespace(config=config, default_backend=lambda: "cpu")
    monkeypatch.setattr(accelerators, "jax", jax)
    assert accelerators.unused() is None
    trace.touch()
    assert f"has a {name}" in accelerators.unused()
    assert f"hs2jax[{kind}]" in accelerators.unused()
    config.jax_platforms = "cpu"
    assert accelerators.unused() is None


def test_the_command_says_its_version_and_helps():
    assert command("--version").out.startswith("hs2jax 0.")
    assert command("help", "score").out == command("score", "--help").out
    assert re.search(r"--truncate +Cut", command("help", "score").out)
