"""A policy's run, killed and started again, ends with the same bits as one that was left alone."""

import random
import signal
import time

import tiny
from test_policy_training import sampled_rows, write
from test_resume import compare, finish, latest, saved_state, start

# Rows too short for a group's five responses, so that groups lie in several micro-batches.
CONFIG = """
from hs2jax.training import defaults

def get_config():
    config = defaults.policy()
    config.model.name = {base!r}
    config.model.remat = False
    config.data.train = "sampled:{data}[:-4]"
    config.data.validation = "sampled:{data}[-4:]"
    config.data.row_length = 96
    config.objective.kind = "steerlm2"
    config.optimizer.learning_rate = 1e-3
    config.lora.rank = 2
    config.batch_size = 4
    config.micro_rows = 2
    config.epochs = 6
    config.evaluate_every = 4
    config.checkpoint_every = 1
    return config
"""


def test_killed_and_started_again_ends_with_the_same_bits(tmp_path):
    tiny.language_model(tmp_path / "base")
    data = write(tmp_path / "groups.jsonl", sampled_rows(17, samples=5))
    config, cache = tmp_path / "config.py", tmp_path / "cache"
    config.write_text(CONFIG.format(base=str(tmp_path / "base"), data=data))
    finish(start(config, tmp_path / "undisturbed", cache))

    rng, workdir, seen = random.Random(0), tmp_path / "killed", []
    for _ in range(3):
        process = start(config, workdir, cache)
        steps, wanted = 0, rng.randint(1, 4)
        for line in process.stderr:
            steps += "killed step" in line
            if steps >= wanted:
                break
        time.sleep(rng.uniform(0.0, 0.1))
        assert process.poll() is None, "the run was over before it was killed; make it longer"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        seen.append(latest(workdir))
    assert seen == sorted(set(seen)), f"the kills hit the steps {seen}"
    finish(start(config, workdir, cache))

    undisturbed, disturbed = saved_state(tmp_path / "undisturbed"), saved_state(workdir)
    assert disturbed[0] == undisturbed[0]
    compare(disturbed[1], undisturbed[1])
    for name, a, b in zip(
        ("weights", "metrics", "items"), disturbed[2:], undisturbed[2:], strict=True
    ):
        assert a == b, f"the {name} differ"
