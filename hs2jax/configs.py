"""Configs of every kind of run: made with its defaults, and checked before anything is loaded.

A config is an ml_collections.ConfigDict; `settings` lists what each kind has.
"""

import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict, FieldReference

from hs2jax import config_rules as rules
from hs2jax.config_refusals import refusals
from hs2jax.settings import BASED, SETTINGS


def defaults(kind: str, where: str = "config") -> ConfigDict:
    """Make a config of a kind. It is locked, but for a recipe's and a sweep's, which get configs.

    Raises ValueError for another kind.
    """
    if kind not in tuple(SETTINGS):
        raise ValueError(f"{where}.kind is {kind!r}; expected one of {', '.join(SETTINGS)}")
    values = {key: each.default for key, each in SETTINGS[kind].items()}
    config = rules.nested(unflatten_dict({"kind": kind, **values}, sep="."))
    return config if kind in ("recipe", *BASED) else config.lock()


def inputs(config: ConfigDict) -> dict[str, str]:
    """List the data, models and files that a config names, by their dotted keys."""
    flat, read = rules.flat(config), ("data", "model", "models", "file")
    known = SETTINGS.get(config.get("kind"), {}).items()
    return {key: flat[key] for key, x in known if x.identity in read and flat.get(key)}


def dtype(name: str):
    """Return the dtype that a setting names, None for ""."""
    return getattr(jnp, name) if name else None


# One check ----------------------------------------------------------------------------------------


def check(config: ConfigDict, where: str = "config", *, reading: bool = True) -> None:
    """Check a config of any kind, before anything is loaded.

    where: how its keys are named, as in "config.STAGE". reading: its data must be there. Raises
    ValueError, or FileNotFoundError for data, naming the key, its value, and what is expected.
    """
    kind = config.get("kind")
    settings, flat = defaults(kind, where), rules.flat(config)
    given = set(config) - {"base"} if kind in BASED else flat.keys()
    if kind != "recipe" and (unknown := given - {"kind", *SETTINGS[kind]}):
        raise ValueError(rules.unknown_key(SETTINGS[kind], min(unknown), where))
    for key, (default, rule, identity) in SETTINGS[kind].items():
        if identity == "data" and not reading:
            continue
        if key not in flat:
            raise ValueError(f"{where}.{key} is missing; its default is {default!r}")
        try:
            expected = rule(flat[key])
        except (TypeError, AttributeError):
            expected = f"a value like {default!r}"
        except (ValueError, FileNotFoundError) as error:
            kind_of_error = FileNotFoundError if isinstance(error, OSError) else ValueError
            raise kind_of_error(f"{where}.{key}: {error}") from error
        if expected:
            value = "not set" if flat[key] in ("", ()) else repr(flat[key])
            raise ValueError(f"{where}.{key} is {value}; expected {expected}")
    for refusal in refusals(config, settings):
        raise ValueError(f"{where}.{refusal}")
    if kind == "recipe":
        _check_stages(config, where)


def _check_stages(recipe: ConfigDict, where: str) -> None:
    earlier: list[str] = []
    # What several stages share is a FieldReference.
    each = recipe.items(preserve_field_references=True)
    others = {name for name, x in each if not isinstance(x, ConfigDict | FieldReference)}
    others -= {"kind", "stages"}
    if others:
        raise ValueError(
            f"there is no {where}.{min(others)}; a recipe has stages, and their configs"
        )
    for name in recipe.stages:
        stage = recipe.get(name)
        if not isinstance(stage, ConfigDict) or stage.get("kind") in (None, "recipe"):
            raise ValueError(f"{where}.{name}: a stage is a config with a kind other than recipe")
        for key, value, other in rules.references(stage):
            if other not in earlier:
                raise ValueError(
                    f"{where}.{name}.{key} is {value!r}; {{{other}}} names no earlier stage of "
                    f"{', '.join(earlier) or 'which there are none'}"
                )
        check(stage, f"{where}.{name}")
        earlier.append(name)
