"""Log-probabilities of responses against transformers' logits, for every family."""

import families
import numpy as np
import pytest
import tiny_models
from families import ONE_OF_EACH, VARIANTS
from tiny import talk

from hs2jax.data import packing
from hs2jax.language_model import LanguageModel

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

CLOSE = 1e-4
VISIBLE = 10 * CLOSE

# The second prompt's windows (of 8 tokens) end before its responses begin.
PAIRS = (
    ("Hi", "Yes."),
    ("Where do the birds go?", "South, I think."),
    ("Where do the birds go?", "No"),
    ("Where do", "South"),
)


def save(variant, theirs, folder):
    families.save(variant, theirs, folder)
    tiny_models.chat_tokenizer().save_pretrained(folder)
    return folder


def their_log_probabilities(theirs, tokenizer, prompt, response) -> np.ndarray:
    render = tokenizer.apply_chat_template
    header = render(talk(prompt, response)[:1], tokenize=False, add_generation_prompt=True)
    whole = render(talk(prompt, response), tokenize=False).removesuffix("\n")
    start = len(tokenizer(header)["input_ids"])  # Of bytes: nothing merges.
    ids = torch.tensor([tokenizer(whole)["input_ids"]])
    with torch.no_grad():
        table = torch.log_softmax(theirs(ids).logits.float(), dim=-1)
    return table[0, start - 1 : -1].gather(1, ids[0, start:, None])[:, 0].numpy()


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "Llama, one key head, tied", "Gemma 3, untied"])
def test_log_probabilities_agree_in_every_layout(tmp_path, name):
    theirs = families.build(VARIANTS[name])
    ours = LanguageModel.load(save(VARIANTS[name], theirs, tmp_path))
    expected = [their_log_probabilities(theirs, ours.tokenizer, *pair) for pair in PAIRS]
    assert np.ptp(np.concatenate(expected)) > 1000 * CLOSE
    for layout in packing.LAYOUTS:
        found = ours.log_probability([talk(*pair) for pair in PAIRS], layout=layout)
        for one, tokens in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.tokens, tokens, rtol=CLOSE, atol=CLOSE)


def test_another_soft_cap_would_be_seen(tmp_path):
    theirs = families.build(VARIANTS["Gemma 2"])
    folder = save(VARIANTS["Gemma 2"], theirs, tmp_path)
    families.edit(folder, {"final_logit_softcapping": 4.4})
    ours = LanguageModel.load(folder)
    expected = their_log_probabilities(theirs, ours.tokenizer, *PAIRS[1])
    (found,) = ours.log_probability([talk(*PAIRS[1])])
    assert np.abs(found.tokens - expected).max() > VISIBLE


def test_of_a_tied_reward_model_the_language_model_is_loaded(tmp_path):
    variant = VARIANTS["Llama, one key head, tied"]
    head, theirs = families.build(variant, head=True), families.build(variant)
    theirs.model.load_state_dict(head.model.state_dict())
    ours = LanguageModel.load(save(variant, head, tmp_path))
    (found,) = ours.log_probability([talk(*PAIRS[1])])
    expected = their_log_probabilities(theirs, ours.tokenizer, *PAIRS[1])
    np.testing.assert_allclose(found.tokens, expected, rtol=CLOSE, atol=CLOSE)
