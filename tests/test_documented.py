"""Every command and flag in the documents is one of the command line, with settings that its config
has."""

import re
import shlex
from pathlib import Path

import pytest

from hs2jax import config_rules, configs, flags

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "README.md", *ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md")]
FILES += [
    *ROOT.glob("hs2jax/**/*.j2"),
    *ROOT.glob("configs/*.py"),
    *ROOT.glob("colab/*.ipynb"),
    *ROOT.glob("hs2jax/**/*.py"),
]
FILES = sorted(path for path in FILES if " --" in path.read_text(encoding="utf-8"))
COMMAND = re.compile(r"hs2jax ([a-z]+)( [^`\n]*)")
KEYS = {key for settings in configs.SETTINGS.values() for key in settings}
PARTS = {".".join(key.split(".")[:n]) for key in KEYS for n in range(1, key.count(".") + 1)}


def commands(text: str) -> list[tuple[str, list[str]]]:
    """The verb of each command that has a flag, and its words."""
    found = []
    for verb, rest in COMMAND.findall(re.sub(r"\\\n\s*", " ", text)):
        rest = re.split(r" && |\.\.\.|  +\(|\) |\\n", rest)[0]  # What is said behind a command.
        rest = re.sub(r"\[--.*?\]|\[:ARG\]|\[--config.KEY=VALUE", "", rest)
        rest = (
            rest if rest.count("'") % 2 == rest.count('"') % 2 == 0 else re.split("[\"']", rest)[0]
        )
        if verb in flags.VERBS and " --" in rest:
            found.append((verb, shlex.split(rest)))
    return found


def check(verb: str, words: list[str]) -> None:
    own = {name for name, verbs, *_ in flags.FLAGS if verb in verbs} | {"help"}
    file, rest = flags.config_named(words)
    given = [re.match(r"--([\w.]+)", word)[1] for word in rest if word.startswith("--")]
    assert {name for name in given if not name.startswith("config.")} <= own
    keys, config = KEYS, None
    name = Path(file.partition(":")[0]).stem
    if (flags.PRESETS / f"{name}.py").exists():
        argument = file[len(file.partition(":")[0]) :]
        config = flags.load(name + argument * (Path(argument[1:]).suffix != ".csv"))  # A reader's.
        assert flags.KINDS[config.kind][0] == verb or verb in ("sweep", "plan")
        keys = config_rules.flat(config).keys()
    for key in (name.removeprefix("config.") for name in given if name.startswith("config.")):
        assert key in keys or any(other.startswith(f"{key}.") for other in keys), key


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_settings_are_there(path):
    text = path.read_text(encoding="utf-8")
    for verb, words in commands(text):
        try:
            check(verb, words)
        except AssertionError as error:
            raise AssertionError(f"hs2jax {verb} {shlex.join(words)}: {error}") from error
    if path.suffix == ".md":
        named = re.findall(r"(?:--)?config\.([a-z_]+(?:\.[a-z0-9_]+)*)", text)
        files = {"json", "py"}
        assert {key for key in named if key not in files} <= KEYS | PARTS


def test_commands_are_found_and_faults_in_them_seen():
    assert len(commands((ROOT / "README.md").read_text())) > 8
    found = commands("`hs2jax train --config=own_data --data=pairs.csv \\\n  --workdir=x` and")
    assert found == [("train", ["--config=own_data", "--data=pairs.csv", "--workdir=x"])]
    for verb, *words in (
        ("train", "--confg=own_data"),
        ("run", "--config=own_data"),
        ("score", "--config=own_data"),
        ("train", "--config=own_data", "--config.lr=1"),
    ):
        with pytest.raises(AssertionError):
            check(verb, words)
