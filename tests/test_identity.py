"""A run is what it computes from: every setting is declared, contents count and places do not."""

import gzip
import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest
import tiny_models
from etils import epath
from ml_collections import ConfigDict

from hs2jax import config_rules, configs, identity, locks, survey, workdir
from hs2jax.data import corpora, files
from hs2jax.models.hf import fingerprint, hub
from hs2jax.training import recipe

KINDS = [kind for kind in configs.SETTINGS if kind not in ("recipe", *configs.BASED)]


def another(value):
    """A value of the same type that is not this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return "another" if isinstance(value, str) else (*value, "another")


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_declared_and_counts_as_declared(kind, monkeypatch, tmp_path):
    """A folder takes the free ones, and names the others with what they were and are."""
    monkeypatch.setattr(survey, "survey", lambda spec, **_: survey.Survey(spec, None))
    monkeypatch.setattr(identity, "fingerprint", lambda name: {"weights": name})
    config = configs.defaults(kind)
    several = [key for key, x in configs.SETTINGS[kind].items() if x.identity == "models"]
    config.update(dict.fromkeys(several, "a=one"))
    assert config_rules.flat(config).keys() == {"kind", *configs.SETTINGS[kind]}
    first = identity.of(config)
    record = {"identity": first, "sums": {}, "free": {}, "environment": {}}
    workdir.write_json(tmp_path / "run.json", record)
    for key, setting in configs.SETTINGS[kind].items():
        assert setting.identity in ("value", "sums", "free", "data", "model", "models", "file")
        special = {"models": "a=two", "data": "ratings:another"}
        value = special.get(setting.identity) or another(setting.default)
        changed = ConfigDict(config.to_dict())
        changed.update_from_flattened_dict({key: value})
        found = identity.differences(first, identity.of(changed))
        if setting.identity in ("sums", "free"):
            assert not found
            assert identity.free(changed, setting.identity)[key] == str(value)
            workdir.check(tmp_path, changed)
        else:
            assert found
            assert all(each.startswith(key) for each in found)
            with pytest.raises(ValueError, match=f"another run .*{re.escape(found[0])}"):
                workdir.check(tmp_path, changed)


ROWS = [
    {"prompt": f"Question {i}", "response": f"Answer {i}", "ratings": {"help": i}} for i in range(4)
]


def written(path, rows=ROWS, opener=open, **layout):
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row, **layout) + "\n" for row in rows)
    return path


def test_data_count_by_their_groups_in_their_order(tmp_path):
    def found(path, selector=""):
        return survey.survey(f"ratings:{path}{selector}").digest

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


# Under one name -----------------------------------------------------------------------------------


def exchanged(here):
    saved(here / "model", seed=1)


def with_another_template(here):
    saved(here / "model", chat_template=tiny_models.CHATML.replace("assistant", "helper"))


def reordered(here):
    written(here / "rows.jsonl", ROWS[::-1])


def tabled(here, rows=ROWS[1:]):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), here / "rows.parquet")


def edited(here):
    written(here / "criteria.json", [{"name": "wit", "definition": "It is dull."}])


def trained_again(here):
    saved(here / "run" / "model", seed=1)


def trained_on(here):
    (here / "going" / "best" / "2").write_bytes(b"better")


MODEL, ROWS_OF, FILE = "HERE/model", "ratings:HERE/rows.jsonl", "HERE/criteria.json"
TABLE = "ratings:HERE/rows.parquet"
# A kind, its settings, what is done to what they name, and the one thing that then differs.
EXCHANGES = (
    ("train_policy", {"model.name": MODEL}, exchanged, "model.name (weights)"),
    ("train_policy", {"model.name": MODEL}, with_another_template, "model.name (tokenizer)"),
    ("train_reward_model", {"data.validation": ROWS_OF}, reordered, "data.validation (set 1)"),
    ("annotate", {"model.name": MODEL, "data": ROWS_OF}, exchanged, "model.name (weights)"),
    ("annotate", {"model.name": MODEL, "data": ROWS_OF}, reordered, "data (set 1)"),
    ("sample", {"model.name": MODEL}, with_another_template, "model.name (tokenizer)"),
    ("sample", {"data": ROWS_OF}, reordered, "data (set 1)"),
    ("rescale", {"ratings": ROWS_OF}, reordered, "ratings (set 1)"),
    ("weigh", {"proposal": MODEL}, exchanged, "proposal (weights)"),
    ("steer", {"policies": f"a={MODEL}"}, exchanged, "policies a (weights)"),
    ("judge", {"reward_model": MODEL}, exchanged, "reward_model (weights)"),
    ("judge", {"criteria": FILE}, edited, "criteria (content)"),
    ("judge", {"criteria": f"{FILE}/wit"}, edited, "criteria (content)"),
    ("judge", {"weights": FILE}, edited, "weights (content)"),
    ("judge", {"task": "emotions", "data": FILE}, edited, "data (content)"),
    ("judge", {"data": "hf://datasets/a/b/criteria.json"}, edited, "data (content)"),
    ("expo", {"trained": "HERE/run"}, trained_again, "trained (weights)"),
    ("expo", {"trained": "HERE/going"}, trained_on, "trained (best)"),
)


@pytest.mark.parametrize(("kind", "settings", "change", "what"), EXCHANGES)
def test_what_is_exchanged_under_its_name_is_named(kind, settings, change, what, here, monkeypatch):
    monkeypatch.setattr(files, "_fetch", lambda path: epath.Path(here / path.rpartition("/")[2]))
    config = configs.defaults(kind)
    config.update_from_flattened_dict(
        {key: value.replace("HERE", str(here)) for key, value in settings.items()}
        | ({"model.name": ""} if kind.startswith("train") and "model.name" not in settings else {})
    )
    before = identity.of(config)
    assert identity.of(config) == before
    change(here)
    (difference,) = identity.differences(before, identity.of(config))
    assert difference.startswith(f"{what}: ")


READ = (
    ("evaluate", {"data": ROWS_OF}, reordered, lambda config: [*corpora.read(config.data)]),
    ("evaluate", {"data": TABLE}, tabled, lambda config: [*corpora.read(config.data)]),
    ("judge", {"criteria": FILE}, edited, lambda config: files.read_object(config.criteria)),
    ("sample", {"model.name": MODEL}, exchanged, lambda config: hub.open_model(config.model.name)),
)


@pytest.mark.parametrize(("kind", "settings", "change", "read"), READ)
def test_what_is_exchanged_while_a_run_is_at_work_is_not_read(kind, settings, change, read, here):
    """As the later sets of an evaluation; once the run has ended its files are anybody's."""
    config = configs.defaults(kind)
    config.update_from_flattened_dict(
        {key: value.replace("HERE", str(here)) for key, value in settings.items()}
    )

    @locks.released
    def verb(config, folder):
        identity.of(config)
        read(config)
        change(here)
        with pytest.raises(ValueError, match=rf"{here}/.* has changed since this run began"):
            read(config)

    verb(config, here)
    read(config)


@pytest.fixture
def here(tmp_path):
    """A model, rows, criteria, and runs: `run`, which is finished, and `going`."""
    saved(tmp_path / "model")
    written(tmp_path / "rows.jsonl")
    tabled(tmp_path, ROWS)
    written(tmp_path / "criteria.json", [{"name": "wit", "definition": "It is funny."}])
    shutil.copytree(tmp_path / "model", tmp_path / "run" / "model")
    (tmp_path / "run" / "result.json").write_text("{}")
    (tmp_path / "going" / "best").mkdir(parents=True)
    (tmp_path / "going" / "best" / "1").write_bytes(b"good")
    return tmp_path


def test_a_stage_whose_input_changed_is_known_as_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "fingerprint", lambda name: {"weights": name})
    monkeypatch.setattr(hub, "resolve", Path)
    rows, made = written(tmp_path / "rows.jsonl"), []

    @locks.released
    def verb(config, place):
        """Copy the data, as a stage that computes something would not."""
        if workdir.claim(place, config) is None:
            made.append(place.name)
            path = config.data.partition(":")[2]
            shutil.copy(path, place / "annotated.jsonl")
            workdir.finish(place, config, {}, [])
        return []

    stages, data = ("first", "second", "third"), f"ratings:{rows}"
    of = ConfigDict({"kind": "recipe", "stages": stages})
    for name in stages:
        of[name] = configs.defaults("annotate")
        of[name].update_from_flattened_dict({"model.name": "m", "data": data})
        data = f"ratings:{{{name}}}/annotated.jsonl"
    for _ in range(2):
        recipe.run(of, tmp_path / "run", lambda kind: verb)
    assert made == ["first", "second", "third"]
    written(rows, ROWS[:3])
    with pytest.raises(ValueError, match=r"run/first holds another run \(different: data \(set 1"):
        recipe.run(of, tmp_path / "run", lambda kind: verb)
    shutil.rmtree(tmp_path / "run" / "first")
    with pytest.raises(ValueError, match=r"run/second holds another run \(different: data \(set 1"):
        recipe.run(of, tmp_path / "run", lambda kind: verb)
    shutil.rmtree(tmp_path / "run" / "second")
    written(rows, [*ROWS[:3], ROWS[3]])
    shutil.rmtree(tmp_path / "run" / "first")
    recipe.run(of, tmp_path / "run", lambda kind: verb)  # As it was: the third one stands.
    assert made[3:] == ["first", "first", "second"]
