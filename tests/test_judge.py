"""The judge on tiny random models: one pass, whatever the rows, and no more than it needs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from hs2jax.data.record import Record
from hs2jax.judging import judge as judging
from hs2jax.judging import lager, prompts, readings, score_tokens, weights_file
from hs2jax.judging.criteria import Criterion
from hs2jax.judging.judge import Judge, forward
from hs2jax.judging.layer_weights import Fit
from hs2jax.judging.prompts import Request
from hs2jax.judging.readings import Readings, is_whole
from hs2jax.language_model import LanguageModel
from hs2jax.models import decoder, sharding

ANSWERS = ("1", "2", "3", "4", "5")
CRITERIA = [
    Criterion("helpfulness", "Whether it helps."),
    Criterion("verbosity", "How long it is.", ("Tiny.", "Short.", "Even.", "Long.", "Endless.")),
]
TALKS = [
    ("What is the capital of France?", "Paris."),
    ("How do I bake bread?", "Mix flour and water, and let the dough rise."),
    ("Write a poem about the sea.", "The waves come in.\n\n\nThe waves go out."),
]


def request_of(talk, criteria=CRITERIA) -> Request:
    return prompts.pointwise(*talk, criteria, source=f"about {talk[0]}")


def small_judge(seed=0, mesh=None, words=None, **changes) -> Judge:
    config = tiny.config(**({"max_seq_len": 2048} | changes))
    params = tiny.parameters(config, seed)
    if mesh is not None:
        params = jax.device_put(params, sharding.shardings(params, mesh))
    return Judge(LanguageModel(config, params, words or tiny.tokenizer(), mesh=mesh))


JUDGE = small_judge()
SPOKEN = [tiny.talk(*talk) for talk in TALKS]
REQUESTS = [request_of(talk) for talk in TALKS]


def assert_same(found, expected, atol=2e-5):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.logits, b.logits, atol=atol)


def test_a_reading_is_what_the_unembedding_says_of_every_state():
    # By the model's own forward pass of each question alone, all states and all logits kept.
    model = JUDGE.model
    apply = jax.jit(decoder.Decoder(model.config).apply)
    for asked, reading in zip(
        score_tokens.encode(model.tokenizer, REQUESTS), JUDGE.ask(REQUESTS), strict=True
    ):
        assert reading.logits.shape == (2, 2, model.config.num_layers + 1, 5)
        for q, rest in enumerate(asked.encoded.responses):
            ids = jnp.asarray(np.concatenate([asked.encoded.prompt, rest]))[None]
            at = jnp.arange(ids.shape[1])[None]
            hidden, out = apply({"params": model.params}, ids, at, None, decoder.Probe(at))
            states = out["probe"][:, 0, -1]
            raw = jnp.concatenate([states[:-1], hidden[0, -1:]]) @ model.params["embed"].T
            np.testing.assert_allclose(reading.logits[q, 0], raw[:, asked.tokens], atol=2e-5)
            normed = decoder.normalize(model.config, states, model.params["norm"])
            expected = (normed @ model.params["embed"].T)[:, asked.tokens]
            np.testing.assert_allclose(reading.logits[q, 1], expected, atol=2e-5)
            # And the last one is what the model itself would say next.
            np.testing.assert_allclose(reading.logits[q, 0, -1], reading.logits[q, 1, -1])


@functools.cache
def alone():
    return [JUDGE.ask([request])[0] for request in REQUESTS]


@settings(max_examples=16)
@given(order=st.permutations(range(3)), tokens=st.sampled_from([1, 2048]))
def test_readings_do_not_depend_on_company_or_order(order, tokens):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "TOKENS", tokens)
        found = JUDGE.ask([REQUESTS[i] for i in order])
    assert_same(found, [alone()[i] for i in order])


def test_eight_devices_read_as_one():
    judge = small_judge(mesh=sharding.make_mesh(fsdp=4, tensor=2), num_heads=4, num_kv_heads=2)
    assert_same(judge.ask(REQUESTS), JUDGE.ask(REQUESTS))


def test_states_give_the_same_logits():
    judge = Judge(dataclasses.replace(JUDGE.model, dtype=jnp.bfloat16))
    assert_same(half := judge.ask(REQUESTS, states=True), judge.ask(REQUESTS))
    assert np.abs(half[0].logits - JUDGE.ask(REQUESTS)[0].logits).max() > 1e-3
    found = JUDGE.ask(REQUESTS, states=True)
    assert_same(found, JUDGE.ask(REQUESTS))
    assert found[0].states.shape == (2, 4, 32)
    # They are the residual stream: the first is the embedding of the last token before the answer.
    asked = score_tokens.encode(JUDGE.model.tokenizer, REQUESTS[:1])[0]
    last = asked.encoded.responses[0][-1]
    np.testing.assert_array_equal(found[0].states[0, 0], JUDGE.model.params["embed"][last])


def sizes(jaxpr) -> set[tuple[int, ...]]:
    """The shapes of all arrays that a program makes, in its loops too."""
    found = set()
    for equation in jaxpr.eqns:
        found |= {tuple(v.aval.shape) for v in equation.outvars}
        for inner in jax.core.jaxprs_in_params(equation.params):
            found |= sizes(inner)
    return found


@pytest.mark.parametrize("states", [False, True])
def test_no_logits_of_the_vocabulary_and_no_layers_states_are_made(states):
    V, T, layers, D = 977, 64, 3, 32
    config = tiny.config(vocab_size=V)
    names = ("tokens", "segment_ids", "branch_ids", "positions")
    batch = {name: jnp.zeros((2, T), jnp.int32) for name in names}
    batch["end_positions"] = jnp.zeros((2, 4), jnp.int32)
    params = tiny.parameters(config)

    def run(p, b):
        return forward(p, b, p["embed"][:5], config, dtype=jnp.float32, states=states)

    made = sizes(jax.make_jaxpr(run)(params, batch).jaxpr)
    assert not [shape for shape in made if V in shape]
    assert not [shape for shape in made if layers + 1 in shape[:1] and T in shape]
    assert not [shape for shape in made if shape[:1] == (layers,) and T in shape]
    wanted = (layers, 2, 4, D) if states else (layers, 2, 2, 4, 5)
    assert wanted in made


def test_a_judge_scores_conversations():
    found = JUDGE.score(SPOKEN, criterion=CRITERIA[1])
    logits = np.stack([reading.logits[1] for reading in JUDGE.ask(REQUESTS)])
    expected = lager.aggregate(logits, np.arange(1, 6), "lager_wo", lager.PRESETS["recommended"])
    np.testing.assert_allclose([each.score for each in found], expected, atol=1e-5)
    for each in found:
        assert list(each.distribution) == [1, 2, 3, 4, 5]
        assert abs(sum(each.distribution.values()) - 1) < 1e-5
        mean = sum(value * p for value, p in each.distribution.items())
        assert abs(mean - each.score) < 1e-5
    last = np.eye(4, dtype=np.float32)[3]
    weighted = JUDGE.score(SPOKEN, criterion=CRITERIA[1], weights=last)
    expected = lager.aggregate(logits, np.arange(1, 6), "e_score", lager.PRESETS["recommended"])
    np.testing.assert_allclose([each.score for each in weighted], expected, atol=1e-5)
    assert JUDGE.score(SPOKEN, criterion="verbosity")[0] != JUDGE.score(SPOKEN)[0]
    assert JUDGE.score([]) == []


def test_a_judge_takes_a_file_of_its_own_weights_only(tmp_path):
    preset, path = lager.PRESETS["recommended"], tmp_path / "weights.json"
    fitted = Fit(np.float32([0.1, 0.2, 0.3, 0.4]), 1.0, 0.9, 5, 3, "converged", 0)
    weights_file.save(path, fitted, JUDGE, preset, range(1, 6), "three talks")
    found = JUDGE.score(SPOKEN, criterion=CRITERIA[0], weights=path)
    expected = JUDGE.score(SPOKEN, criterion=CRITERIA[0], weights=fitted.weights)
    assert [each.score for each in found] == [each.score for each in expected]
    with pytest.raises(ValueError, match="checksum is"):
        small_judge(seed=1).score(SPOKEN, weights=path)


def test_what_does_not_fit_is_told_counted_and_kept_as_that(tmp_path):
    judge, record = small_judge(max_seq_len=500), Record()
    long = request_of(("word " * 600, "Yes."))
    with pytest.raises(ValueError, match=r"about word .* tokens, and the model has 500 positions"):
        judge.ask([long])
    found = judge.ask([REQUESTS[0], long, REQUESTS[1]], skip=True)
    assert [is_whole([each], record) for each in found] == [True, False, True]
    assert record.too_long == 1
    assert_same([found[0], found[2]], JUDGE.ask(REQUESTS[:2]))
    for _ in range(2):
        again = list(stream(judge, [REQUESTS[0], long], tmp_path))
        assert [isinstance(each, str) for each in again] == [False, True]


# Score tokens -----------------------------------------------------------------------------------


def digits() -> PreTrainedTokenizerFast:
    """A tokenizer that has the numbers up to 10 as tokens; the others read digit by digit."""
    words = tiny.tokenizer()
    words.add_tokens([str(i) for i in range(11)])
    return words


def asked(words, answers, prefix="Score: "):
    return score_tokens.encode(words, [Request("Hello ", ("a?", "b?"), prefix, answers)])[0]


@pytest.mark.parametrize("make", [tiny.tokenizer, tiny.bos_tokenizer, digits])
@pytest.mark.parametrize("prefix", ["Score: ", "Score:", ""])
def test_rows_and_answers_are_what_the_tokenizer_makes_of_the_whole_text(make, prefix):
    words, answers = make(), tuple(map(str, range(1, 10)))
    found = asked(words, answers, prefix)
    for question, rest in zip(("a?", "b?"), found.encoded.responses, strict=True):
        row = [*found.encoded.prompt.tolist(), *rest.tolist()]
        turn = [{"role": "user", "content": f"Hello {question}"}]
        text = words.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        for answer, token in zip(answers, found.tokens.tolist(), strict=True):
            ids = words(f"{text}{prefix}{answer}", add_special_tokens=False)["input_ids"]
            assert ids[: len(row) + 1] == [*row, token]
        assert row.count(words.bos_token_id) == text.count(words.bos_token)


def test_a_scale_whose_numbers_begin_alike_is_refused_with_the_reason():
    scale = tuple(map(str, range(11)))
    with pytest.raises(ValueError, match="'1' and '10' begin with the same token"):
        asked(tiny.tokenizer(), scale)
    words = tiny.tokenizer()
    words.chat_template = None
    with pytest.raises(ValueError, match=r"no chat template.*use an instruction-tuned model"):
        asked(words, ANSWERS)
    assert len(set(asked(digits(), scale).tokens.tolist())) == 11


# Kept readings ----------------------------------------------------------------------------------


def counting(monkeypatch) -> list[int]:
    """How many requests each call of `Judge.ask` has, from now on."""
    calls, real = [], Judge.ask

    def ask(self, requests, **options):
        calls.append(len(requests))
        return real(self, requests, **options)

    monkeypatch.setattr(Judge, "ask", ask)
    monkeypatch.setattr(readings, "CHUNK", 2)
    return calls


def stream(judge, requests, folder, **options):
    return Readings(judge, folder / "readings.sqlite").stream(requests, "test", **options)


def test_a_reading_is_made_once(tmp_path, monkeypatch):
    calls = counting(monkeypatch)
    begun = stream(JUDGE, REQUESTS, tmp_path)
    first = [next(begun), next(begun)]
    begun.close()  # As if killed here.
    assert calls == [2]
    found = list(stream(JUDGE, REQUESTS, tmp_path))
    assert calls == [2, 1]
    assert_same(found, JUDGE.ask(REQUESTS), atol=2e-5)
    np.testing.assert_array_equal(found[0].logits, first[0].logits)
    calls.clear()
    new = request_of(("Is it new?", "Yes."))
    moved = [r._replace(source="elsewhere") for r in REQUESTS]
    found = list(stream(JUDGE, [new, *moved, new], tmp_path))
    assert calls == [1]  # What has been added, once.
    assert_same(found[1:4], JUDGE.ask(REQUESTS), atol=2e-5)


def nudge(model):
    norm = model.params["norm"]
    model.params["norm"] = norm.at[0].set(jnp.nextafter(norm[0], 2.0))


OTHERS = {
    "parameter": nudge,
    "template": lambda model: setattr(model.tokenizer, "chat_template", tiny.CHATML + "\n"),
    "tokenizer": lambda model: model.tokenizer.add_tokens(["Paris is"]),
    "dtype": lambda model: setattr(model, "dtype", jnp.bfloat16),
    "text": lambda request: request._replace(item=request.item + " "),
    "answers": lambda request: request._replace(answers=("1", "2", "3")),
    "states": None,
}


@pytest.mark.parametrize("what", OTHERS)
def test_nothing_kept_serves_another_model_or_text(tmp_path, monkeypatch, what):
    calls, judge, requests = counting(monkeypatch), small_judge(), REQUESTS
    list(stream(judge, requests, tmp_path))
    if what in ("text", "answers"):
        requests = [OTHERS[what](request) for request in requests]
    elif what != "states":
        OTHERS[what](judge.model)
    calls.clear()
    list(stream(judge, requests, tmp_path, states=what == "states"))
    assert calls == [2, 1]
