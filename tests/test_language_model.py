"""A response is as likely however it is computed, and as its tokens' softmax says."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import talk

from hs2jax.data import conversations, packing
from hs2jax.data.chat import Encoded
from hs2jax.data.record import Record
from hs2jax.language_model import LanguageModel
from hs2jax.models import heads, sharding
from hs2jax.models.decoder import Decoder
from hs2jax.models.log_probability import log_probabilities

TOLERANCE = {"rtol": 0, "atol": 2e-5}


def tiny_model(mesh=None, tokenizer=tiny.tokenizer, **changes) -> LanguageModel:
    of = tiny.config(**changes)
    params = tiny.parameters(of)
    if mesh is not None:
        params = jax.device_put(params, sharding.shardings(params, mesh))
    return LanguageModel(of, params, tokenizer(), name="tiny", mesh=mesh)


MODEL = tiny_model()
UNTIED = tiny_model(tied=False, final_logit_softcap=3.0)

PROMPTS = ("Where is Paris?", "How do I bake bread, and how long does it take?", "Hi")
ANSWERS = ("Yes.", "No.", "In France.", "\n\nMix flour and water, then wait.")
MANY = list(itertools.product(PROMPTS, ANSWERS))
PAIRS = st.lists(st.sampled_from(MANY), min_size=1, max_size=10)


def by_hand(model: LanguageModel, prompt: str, response: str) -> np.ndarray:
    """Log-probabilities of the tokens behind the assistant's header, from all logits."""
    text = model.tokenizer.apply_chat_template(
        talk(prompt, response)[:1], tokenize=False, add_generation_prompt=True
    )
    header = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = model.tokenizer(f"{text}{response}<|im_end|>", add_special_tokens=False)["input_ids"]
    # A token that the response's first characters have joined is the response's.
    start = next(i for i, id in enumerate(ids) if i == len(header) or id != header[i])
    return next_tokens(model, ids)[np.arange(start - 1, len(ids) - 1), ids[start:]]


def next_tokens(model: LanguageModel, ids) -> np.ndarray:
    """Log-probabilities [128, V] of what follows each of the ids, from all logits."""
    padded = jnp.array([[*ids, *[0] * (128 - len(ids))]])
    return np.asarray(_next_tokens(model.params, padded, model.config)[0])


@functools.partial(jax.jit, static_argnames="config")
def _next_tokens(params, ids, config):
    hidden, _ = Decoder(config).apply({"params": params}, ids, jnp.arange(ids.shape[1])[None])
    return jax.nn.log_softmax(heads.logits(params, hidden, config))


@functools.cache
def alone(prompt, response):
    """The log-probabilities of a response that is computed by itself."""
    return MODEL.log_probability([talk(prompt, response)], rows=1)[0].tokens


def same(found, expected):
    for one, tokens in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.tokens, tokens, **TOLERANCE)
        assert one.total == pytest.approx(tokens.sum(), abs=1e-4)


@pytest.mark.parametrize("model", [MODEL, UNTIED], ids=["tied", "untied, capped"])
def test_equals_softmax_over_all_logits(model):
    expected = [by_hand(model, *pair) for pair in MANY]
    same(model.log_probability([talk(*pair) for pair in MANY]), expected)
    # Else the tests of this file would hold for a model that finds all equally likely.
    assert np.ptp(np.concatenate(expected)) > 1
    assert len({len(tokens) for tokens in expected}) > 1


@settings(max_examples=15)
@given(pairs=PAIRS, layout=st.sampled_from(packing.LAYOUTS), rows=st.sampled_from([None, 1, 3, 8]))
def test_depends_on_neither_layout_nor_rows_nor_order_nor_company(pairs, layout, rows):
    found = MODEL.log_probability([talk(*pair) for pair in pairs], layout=layout, rows=rows)
    same(found, [alone(*pair) for pair in pairs])


@pytest.mark.parametrize("layout", packing.LAYOUTS)
@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_does_not_depend_on_the_devices(axes, layout):
    spread = tiny_model(sharding.make_mesh(**axes))
    assert len(spread.params["layers"]["mlp"]["up"].sharding.device_set) == 8
    found = spread.log_probability([talk(*pair) for pair in MANY], layout=layout)
    same(found, [alone(*pair) for pair in MANY])


def test_a_token_that_both_sides_of_the_border_merge_into_is_the_responses():
    # The neighbour, whose first token holds the header's line end, must not lengthen the other.
    llama = tiny_model(tokenizer=tiny.bos_tokenizer)
    merged, plain = talk("Hi", "\nYes."), talk("Hi", "Yes.")
    found = llama.log_probability([merged, plain])
    same(found, [llama.log_probability([one])[0].tokens for one in (merged, plain)])
    same(llama.log_probability([plain]), [found[1].tokens])


def test_of_a_whole_turn_probabilities_add_up_to_one():
    # One token and the end of the turn, for each first token: what is left is what does not end.
    bytes_only = tiny_models.chat_tokenizer()
    model = tiny_model(tokenizer=lambda: bytes_only)
    found = model.log_probability([talk("Hi", letter) for letter in "abcdefgh"])
    assert [len(one.tokens) for one in found] == [2] * 8
    assert sum(np.exp(one.total) for one in found) < sum(np.exp(one.tokens[0]) for one in found) < 1


LONG = talk("word " * 200, "Yes.")


def test_a_keyword_that_is_none_is_named_as_it_was_typed():
    with pytest.raises(TypeError, match=r"LanguageModel\.sample\(\) .*'temprature'.*'temperature'"):
        MODEL.sample([], temprature=0.5)
    with pytest.raises(TypeError, match=r"log_probability\(\) takes no 'trunc'.*'truncate'"):
        MODEL.log_probability([], trunc=True)
    with pytest.raises(TypeError, match=r"log_probability_groups\(\) takes no 'trunc'.*'truncate'"):
        MODEL.log_probability_groups([], trunc=True)


def test_what_is_longer_than_the_positions():
    company = [talk("Hi", "Yes."), talk("Hi", "No.")]
    assert MODEL.log_probability([]) == []
    with pytest.raises(ValueError, match=r"conversation 2: .* longer than the 512 that fit"):
        MODEL.log_probability([*company, LONG])
    record = Record()
    found = MODEL.log_probability([company[0], LONG, company[1]], skip=True, record=record)
    assert found[1] is None
    assert record.too_long == 1
    same([found[0], found[2]], [alone("Hi", "Yes."), alone("Hi", "No.")])
    cut = MODEL.log_probability([*company, LONG], truncate=True, record=record)
    assert record.truncated == 1
    assert len(cut[2].tokens) == len(alone("Hi", "Yes."))
    assert abs(cut[2].total - alone("Hi", "Yes.").sum()) > 1e-3


def test_where_all_of_the_prompt_is_cut_the_first_token_has_no_probability():
    without_bos = tiny.tokenizer()
    without_bos.bos_token = None  # Else it would be kept.
    room = len(alone("Hi", "Yes."))
    small = tiny_model(tokenizer=lambda: without_bos, max_seq_len=room)
    (found,) = small.log_probability([talk("Hi", "Yes.")], truncate=True)
    assert len(found.tokens) == room - 1
    assert np.isfinite(found.tokens).all()


IDS = st.lists(st.integers(0, 1), min_size=1, max_size=9)


@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=7), st.sampled_from([1, 10, 1000]))
def test_shared_runs_are_the_least_work(pairs, width):
    encoded = [Encoded(np.array(p, np.int32), (np.array(r, np.int32),)) for p, r in pairs]

    def work(runs):
        tokens = [
            packing.cost(conversations.join([encoded[i] for i in run]).encoded, "shared")
            for run in runs
        ]
        return sum(n * (1 + n / (10 * width)) for n in tokens)

    def ways(start):
        if start == len(pairs):
            yield []
        for stop in range(start + 1, len(pairs) + 1):
            yield from ([range(start, stop), *rest] for rest in ways(stop))

    runs = conversations.share(encoded, width)
    assert [i for run in runs for i in run] == list(range(len(pairs)))
    assert work(runs) == pytest.approx(min(work(way) for way in ways(0)))
    for run in runs:
        joined = conversations.join([encoded[i] for i in run]).encoded
        for i, response in zip(run, joined.responses, strict=True):
            whole = np.concatenate([joined.prompt, response])
            assert whole.tolist() == [*pairs[i][0], *pairs[i][1]]


def test_a_loaded_model_says_the_same_and_what_is_no_whole_one_is_refused(tmp_path):
    tiny.save(tmp_path / "reward", tied=False, language_head=False)
    with pytest.raises(ValueError, match="without a language model's output weights"):
        LanguageModel.load(tmp_path / "reward")
    tiny.language_model(tmp_path / "model")
    loaded = LanguageModel.load(tmp_path / "model")
    assert loaded.name == str(tmp_path / "model")
    same(loaded.log_probability([talk("Hi", "Yes.")]), [alone("Hi", "Yes.")])
    for path in (tmp_path / "model").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="no tokenizer beside the model"):
        LanguageModel.load(tmp_path / "model")


B, T, D, V = 2, 3, 16, 103  # 103 is a prime, so that only it and 1 divide it.


def arrays(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    targets = jnp.asarray(rng.integers(0, V, (B, T)).astype(np.int32)).at[0, :2].set([0, V - 1])
    return draw(B, T, D).astype(dtype), draw(V, D), targets, draw(B, T)


def plain(hidden, lm_head, targets, cap, temperature=1.0):
    logits = jnp.einsum("BTD,VD->BTV", hidden, lm_head.astype(hidden.dtype).astype(jnp.float32))
    logits = logits if cap is None else cap * jnp.tanh(logits / cap)
    table = jax.nn.log_softmax(logits / temperature)
    return jnp.take_along_axis(table, targets[..., None], -1)[..., 0]


@pytest.mark.parametrize(("cap", "temperature"), [(None, 1.0), (2.0, 0.7)])
@pytest.mark.parametrize(
    ("dtype", "chunk"),
    [("float32", 1), ("float32", 20), ("float32", 200), ("bfloat16", 20), ("bfloat16", 200)],
)
def test_chunks_give_the_plain_softmax_and_its_gradients(dtype, chunk, cap, temperature):
    """Of bfloat16 states too, sums and softmax are in float32."""
    hidden, lm_head, targets, weight = arrays(dtype)
    how = {"cap": cap, "temperature": temperature}
    ours = functools.partial(log_probabilities, chunk=chunk)
    found = ours(hidden, lm_head, targets, **how)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, plain(hidden, lm_head, targets, **how), atol=1e-5)

    def gradients(of, hidden):
        def loss(hidden, lm_head):
            return (weight * of(hidden, lm_head, targets, **how)).sum()

        return jax.grad(loss, argnums=(0, 1))(hidden, lm_head)

    found = gradients(ours, hidden)
    assert [one.dtype for one in found] == [hidden.dtype, lm_head.dtype]
    close = {"atol": 1e-4} if dtype == "float32" else {"atol": 0.02, "rtol": 0.02}
    for one, other in zip(found, gradients(plain, hidden.astype(jnp.float32)), strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one.astype(jnp.float32), other, **close)


@pytest.mark.parametrize("gradient", [False, True])
def test_no_array_has_room_for_all_logits(gradient):
    of = {(2, 300, 8): jnp.bfloat16, (50_000, 8): jnp.float32, (2, 300): jnp.int32}
    arguments = [jax.ShapeDtypeStruct(*each) for each in of.items()]

    def total(hidden, lm_head, targets):
        return log_probabilities(hidden, lm_head, targets, chunk=512).sum()

    run = jax.grad(total, argnums=(0, 1)) if gradient else total
    memory = jax.jit(run).lower(*arguments).compile().memory_analysis()
    all_logits = 4 * 2 * 300 * 50_000
    assert memory.temp_size_in_bytes < all_logits / 8
