"""A run is what it computes from: every setting is declared, contents count and places do not."""

import gzip
import json
import shutil

import pytest
import tiny_models
from ml_collections import ConfigDict

from hs2jax import configs, identity
from hs2jax.models.hf import fingerprint, hub

KINDS = [kind for kind in configs.SETTINGS if kind not in ("recipe", "sweep")]


def another(value):
    """A value of the same type that is not this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return "another" if isinstance(value, str) else (*value, "another")


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_declared_and_counts_as_declared(kind, monkeypatch):
    monkeypatch.setattr(identity, "groups_hash", lambda spec, skip: spec)
    monkeypatch.setattr(identity, "fingerprint", lambda name: {"weights": name})
    config = configs.defaults(kind)
    if kind == "steer":
        config.policies = "a=one"
    first = identity.of(config)
    for key, setting in configs.SETTINGS[kind].items():
        assert setting.identity in ("value", "free", "data", "model", "models", "file")
        special = {"models": "a=two", "data": "ratings:another"}
        value = special.get(setting.identity) or another(setting.default)
        changed = ConfigDict(config.to_dict())
        changed.update_from_flattened_dict({key: value})
        found = identity.differences(first, identity.of(changed))
        if setting.identity == "free":
            assert not found
            assert identity.free(changed) != identity.free(config)
        else:
            assert found
            assert all(each.startswith(key) for each in found)


ROWS = [
    {"prompt": f"Question {i}", "response": f"Answer {i}", "ratings": {"help": i}} for i in range(4)
]


def written(path, rows=ROWS, opener=open, **layout):
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row, **layout) + "\n" for row in rows)
    return path


def test_data_count_by_their_groups_in_their_order(tmp_path):
    def found(path, selector=""):
        return identity.groups_hash(f"ratings:{path}{selector}", False)

    def of_pair(rows):
        return found(written(tmp_path / "changed.jsonl", rows))

    first = found(written(tmp_path / "rows.jsonl"))
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "rows.jsonl")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    assert found(link) == first
    assert found(shutil.copy(tmp_path / "rows.jsonl", moved / "other.jsonl")) == first
    assert found(written(tmp_path / "rows.jsonl.gz", opener=gzip.open)) == first
    assert (
        found(written(tmp_path / "spaced.jsonl", indent=None, separators=(" , ", " : "))) == first
    )
    assert of_pair(ROWS[::-1]) != first
    assert of_pair(ROWS[:3]) != first
    assert of_pair([*ROWS[:3], ROWS[3] | {"ratings": {"help": 4}}]) != first
    assert found(tmp_path / "rows.jsonl", "[:2]") != first
    written(tmp_path / "rows.jsonl", ROWS[::-1])  # Under the same path.
    assert found(tmp_path / "rows.jsonl") != first


def saved(folder, seed=0, **options):
    config, tokenizer = tiny_models.TINY, tiny_models.chat_tokenizer()
    tokenizer.chat_template = options.pop("chat_template", tokenizer.chat_template)
    params = tiny_models.random_params(config, seed)
    hub.save(folder, config=config, params=params, tokenizer=tokenizer, **options)
    return str(folder)


def test_a_model_counts_by_its_tensors_config_and_tokenizer(tmp_path):
    first = fingerprint.fingerprint(saved(tmp_path / "a"))
    assert fingerprint.fingerprint(saved(tmp_path / "sharded", max_shard_bytes=2000)) == first
    (tmp_path / "a").rename(tmp_path / "moved")
    assert fingerprint.fingerprint(str(tmp_path / "moved")) == first

    def differing(other):
        return {part for part in first if first[part] != fingerprint.fingerprint(other)[part]}

    assert differing(saved(tmp_path / "seed", seed=1)) == {"weights"}
    template = tiny_models.CHATML.replace("assistant", "helper")
    assert differing(saved(tmp_path / "template", chat_template=template)) == {"tokenizer"}
    half = saved(tmp_path / "half", dtype="bfloat16")
    assert "weights" in differing(half)
    saved(tmp_path / "moved", seed=2)  # Under the same name.
    assert differing(str(tmp_path / "moved")) == {"weights"}
