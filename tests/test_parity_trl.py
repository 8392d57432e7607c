"""Files of TRL's own shapes, made by its functions and by `datasets`, become the tokens that its
reward trainer makes of them, up to the token that is read here: the end of the turn."""

import json

import numpy as np
import pytest
import tiny

from hs2jax.data import chat, corpora, guess
from hs2jax.data.groups import DataError

pytest.importorskip("trl")
pytestmark = pytest.mark.parity

TOKENIZER = tiny.tokenizer()
ASKED = [
    tiny.talk("Is 7 odd?", "Yes."),
    [
        {"role": "system", "content": "Be brief."},
        *tiny.talk("Hi", "Hello"),
        *tiny.talk("8?", "No."),
    ],
]
FORGETS = {"role": "assistant", "content": "I forgot, naïvely."}
WRITERS = ("to_json", "to_parquet", "save_to_disk")


@pytest.fixture(scope="module")
def shapes():
    """Data sets of TRL's kinds, by name."""
    from datasets import Dataset
    from trl import extract_prompt, maybe_unpair_preference_dataset

    rows = [{"chosen": talk, "rejected": [*talk[:-1], FORGETS]} for talk in ASKED]
    implicit = Dataset.from_list(rows)
    explicit = implicit.map(extract_prompt)
    tools = json.dumps([{"type": "function", "function": {"name": "f"}}])
    return {
        "implicit": implicit,
        "explicit": explicit,
        "margin": explicit.map(lambda row, i: {"margin": i + 1.0}, with_indices=True),
        "unpaired": maybe_unpair_preference_dataset(explicit),
        "tools": explicit.add_column("tools", [tools] * 2),
        "template": explicit.add_column("chat_template_kwargs", [{"enable_thinking": False}] * 2),
    }


def written(data, folder, writer):
    getattr(data, writer)(str(folder / "data"))
    return f"{folder}/data"


def trained_on(row) -> list[list[int]]:
    """The token ids of TRL's `RewardTrainer`."""
    from trl.data_utils import _tokenize

    asked = row.get("prompt", [])
    return [_tokenize(TOKENIZER, asked + row[x])["input_ids"] for x in ("chosen", "rejected")]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("shape", ["implicit", "explicit", "margin"])
def test_pairs_become_the_tokens_of_its_trainer(shapes, tmp_path, shape, writer):
    data = shapes[shape]
    seen = guess.look(written(data, tmp_path, writer))
    assert (seen.spec.split(":")[0], seen.strengths) == ("preference", shape == "margin")
    groups = list(corpora.read(seen.spec))
    for row, group, found in zip(data, groups, chat.encode(TOKENIZER, groups), strict=True):
        assert group.strength == -row.get("margin", 1.0)
        for response, theirs in zip(found.responses, trained_on(row), strict=True):
            ours = [*found.prompt, *response]
            np.testing.assert_array_equal(ours, theirs[: len(ours)])
            assert TOKENIZER.decode(theirs[len(ours) :]) == "\n"


@pytest.mark.parametrize("writer", WRITERS)
def test_unpaired_preferences_are_ratings_by_a_map(shapes, tmp_path, writer):
    path = written(shapes["unpaired"], tmp_path, writer)
    groups = list(corpora.read(f"ratings{{response=completion,good=label}}:{path}"))
    assert [group.responses[0] for group in groups] == [
        *(talk[-1]["content"] for talk in ASKED),
        *[FORGETS["content"]] * 2,
    ]
    assert [group.ratings[0]["good"] for group in groups] == [1, 1, 0, 0]
    assert [list(group.prompt) for group in groups] == [talk[:-1] for talk in ASKED] * 2


@pytest.mark.parametrize("shape", ["tools", "template"])
def test_what_its_trainer_gives_to_the_template_is_refused(shapes, tmp_path, shape):
    with pytest.raises(DataError, match="looks like an input to the model"):
        list(corpora.read(f"preference:{written(shapes[shape], tmp_path, 'to_json')}"))
