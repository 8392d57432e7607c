"""Sampling with SmolLM2 against transformers' generate, on real prompts."""

import json

import numpy as np
import pytest

from hs2jax.data.groups import Group
from hs2jax.language_model import LanguageModel

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

TOKENS = 20


@pytest.fixture(scope="module")
def ours():
    return LanguageModel.load("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def prompts(real_data):
    lines = (real_data / "mt_bench" / "question.jsonl").read_text().splitlines()[:50]
    return [[{"role": "user", "content": json.loads(line)["turns"][0]}] for line in lines]


@pytest.fixture(scope="module")
def greedy(ours, prompts):
    return [one for (one,) in ours.sample(prompts, temperature=0, max_new_tokens=TOKENS)]


def test_greedy_responses_are_identical(ours, prompts, greedy, tmp_path):
    ours.save(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(greedy) == 50
    for prompt, one in zip(prompts, greedy, strict=True):
        batch = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            whole = theirs.generate(**batch, do_sample=False, max_new_tokens=TOKENS)
        expected = whole[0, batch["input_ids"].shape[1] :].tolist()
        assert one.tokens.tolist() == expected, prompt[0]["content"]


def test_log_probabilities_and_texts_of_real_samples(ours, prompts):
    settings = {"n": 2, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 32, "seed": 1}
    found = ours.sample(prompts[:6], **settings)
    again = ours.sample(prompts[:6], **settings, rows=5)
    groups = [
        Group(
            tuple(prompt),
            tuple(one.text for one in some),
            tokens=tuple(tuple(one.tokens.tolist()) for one in some),
        )
        for prompt, some in zip(prompts, found, strict=False)
    ]
    for some, others, scored in zip(found, again, ours.log_probability_groups(groups), strict=True):
        assert [one.text for one in some] == [one.text for one in others]
        for one, expected in zip(some, scored, strict=True):
            np.testing.assert_allclose(one.log_probabilities, expected, atol=1e-4)
