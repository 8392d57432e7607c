"""Samples against transformers: which tokens may be drawn, and greedy decoding of every family."""

import itertools
import json
import os

import families
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_models
from families import ONE_OF_EACH, VARIANTS

from hs2jax.data.groups import Group
from hs2jax.language_model import LanguageModel
from hs2jax.models import next_token

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (0, 0.3), (20, 1.0), (20, 0.7), (1, 0.5)])
def test_the_tokens_that_may_be_drawn_are_those_that_transformers_leaves(top_k, top_p):
    temperature = 0.7
    logits = np.random.default_rng(0).normal(0, 2, (64, 300)).astype(np.float32)
    left = torch.from_numpy(logits) / temperature
    if top_k:
        left = transformers.TopKLogitsWarper(top_k)(None, left)
    if top_p < 1:
        left = transformers.TopPLogitsWarper(top_p)(None, left)
    expected = torch.isfinite(left).numpy()

    # Each token of each row, as if it had just been drawn.
    weights = jnp.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    if top_k:
        weights = jnp.where(next_token.among_highest(jnp.asarray(logits), top_k), weights, 0)
    found = np.array(weights > 0)
    if top_p < 1:
        table = next_token._table(weights)
        enough = top_p * next_token._total(table)
        for token in range(300):
            over = next_token.above(table, weights[:, token], jnp.full(64, token))
            found[:, token] &= next_token._total(jnp.where(over, table, 0)) < enough
    assert found.tolist() == expected.tolist()
    assert 64 <= found.sum() < found.size


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "Llama, one key head, tied", "Gemma 3, untied"])
def test_greedy_decoding_of_every_family(tmp_path, name):
    theirs = families.build(VARIANTS[name])
    families.save(VARIANTS[name], theirs, tmp_path)
    tiny_models.chat_tokenizer().save_pretrained(tmp_path)
    ours = LanguageModel.load(tmp_path)
    # Windows are of 8 tokens: shorter than one prompt and longer than none of the answers.
    prompts = [[{"role": "user", "content": text}] for text in ("Hi", "Where do the birds go?")]
    found = ours.sample(prompts, temperature=0, max_new_tokens=24)
    for prompt, (one,) in zip(prompts, found, strict=True):
        assert one.tokens.tolist() == greedy(theirs, ours.tokenizer, prompt, 24)


def greedy(theirs, tokenizer, prompt, longest: int) -> list[int]:
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        ends = dict.fromkeys(("eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
        how = {"attention_mask": torch.ones_like(ids), "do_sample": False} | ends
        whole = theirs.generate(ids, max_new_tokens=longest, **how)
    return whole[0, ids.shape[1] :].tolist()


@pytest.fixture(scope="module")
def model():
    return tiny.smollm2(LanguageModel.load)


@pytest.fixture(scope="module")
def questions(real_data):
    lines = (real_data / "mt_bench" / "question.jsonl").read_text(encoding="utf-8").splitlines()
    return [[{"role": "user", "content": json.loads(line)["turns"][0]}] for line in lines]


def test_greedy_decoding_of_real_prompts(tmp_path, model, questions):
    """Of every tenth of 50 prompts; with LONG=1 in the environment, of all."""
    model.save(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    prompts = sorted(questions, key=lambda prompt: len(prompt[0]["content"]))[:50]
    assert len(prompts) == 50
    prompts = prompts[:: 1 if os.environ.get("LONG") else 10]
    found = model.sample(prompts, temperature=0, max_new_tokens=16, rows=4)
    for prompt, (one,) in zip(prompts, found, strict=True):
        assert one.tokens.tolist() == greedy(theirs, model.tokenizer, prompt, 16)


def test_real_samples_depend_on_neither_rows_nor_company_and_are_scored_alike(model, questions):
    settings = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 16, "seed": 3}
    prompts = sorted(questions, key=lambda prompt: len(prompt[0]["content"]))[:2]
    found = model.sample(prompts, 4, **settings)
    texts = [[one.text for one in of] for of in found]
    again = model.sample(prompts, 4, rows=3, **settings)
    assert [[one.text for one in of] for of in again] == texts
    assert len(set(itertools.chain(*texts))) > 4
    # And the scorer says of them what the sampler does.
    groups = []
    for prompt, of in zip(prompts, found, strict=True):
        tokens = tuple(tuple(one.tokens.tolist()) for one in of)
        groups.append(Group(tuple(prompt), tuple(one.text for one in of), tokens=tokens))
    for of, tables in zip(found, model.log_probability_groups(groups), strict=True):
        for one, table in zip(of, tables, strict=True):
            np.testing.assert_allclose(one.log_probabilities, table, atol=1e-4)
