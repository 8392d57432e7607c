"""The judge against transformers: lm_head applied to every hidden state that it hands out, as it is
and behind the final norm."""

import families
import numpy as np
import pytest
import tiny
from families import ONE_OF_EACH, VARIANTS
from test_judge import REQUESTS

from hs2jax.judging import score_tokens
from hs2jax.judging.judge import Judge
from hs2jax.language_model import LanguageModel
from hs2jax.models.hf import hub

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


def their_logits(model, ids, tokens) -> np.ndarray:
    """[2, L + 1, S]: of the last position, by each state as it is and behind the final norm; the
    last state of `transformers` is normed already."""
    with torch.no_grad():
        out = model(torch.tensor(np.asarray(ids)[None]), output_hidden_states=True)
        states = torch.stack([state[0, -1] for state in out.hidden_states])
        normed = torch.cat([model.model.norm(states[:-1]), states[-1:]])
        return model.lm_head(torch.stack([states, normed]))[..., np.asarray(tokens)].numpy()


def assert_agree(judge, theirs, requests, relative):
    """Each question by itself there, packed with shared items here."""
    for asked, reading in zip(
        score_tokens.encode(judge.model.tokenizer, requests), judge.ask(requests), strict=True
    ):
        for q, rest in enumerate(asked.encoded.responses):
            ids = np.concatenate([asked.encoded.prompt, rest])
            expected = their_logits(theirs, ids, asked.tokens)
            largest = np.abs(expected).max(axis=-1, keepdims=True).clip(1)
            difference = np.abs(reading.logits[q] - expected)
            assert (difference / (largest if relative else 1)).max() < 1e-4


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_logits_of_every_layer_agree_in_every_family(tmp_path, name):
    words = tiny.tokenizer()
    sizes = {"vocab_size": len(words), "max_position_embeddings": 2048}
    theirs = families.build(VARIANTS[name], pad_token_id=None, **sizes)
    ours = hub.load(families.save(VARIANTS[name], theirs, tmp_path))
    judge = Judge(LanguageModel(ours.config, dict(ours.params), words))
    assert_agree(judge, theirs, REQUESTS, relative=False)


def test_logits_of_every_layer_agree_on_smollm2(tmp_path):
    # Its states reach 20,000, where a step of float32 is 0.002, and raw logits some hundreds: each
    # layer is held to 1e-4 of its largest logit.
    judge = tiny.smollm2(Judge.load)
    model = judge.model
    hub.save(tmp_path, config=model.config, params=model.params, tokenizer=model.tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert_agree(judge, theirs, REQUESTS, relative=True)
