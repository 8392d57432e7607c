"""The scoring server, sent what no client should send."""

import json
import threading

import httpx
import pytest
import schemathesis
import serving
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks

from hs2jax.serve import requests

TALKS = [tiny.talk("Is bread good?", each) for each in ("Yes.", "No, it is not.", "Nobody knows.")]


@pytest.fixture(scope="module")
def served():
    with serving.running(tiny.reward_model(max_seq_len=1000)) as running:
        yield running


JSON = {"Content-Type": "application/json"}
HOSTILE = {
    "deep": b"[" * 100_000,
    "deep and whole": b'{"conversations": ' + b"[" * 900 + b"]" * 900 + b"}",
    "no number": b'{"conversations": [[NaN]]}',
    "infinite": b'{"conversations": [[1e999]]}',
    "huge integer": b'{"conversations": [[' + b"9" * 5000 + b"]]}",
    "no JSON": b"{",
    "no text": b"\xff\xfe\xfa",
    "half a surrogate": b'{"conversations": ["\\ud800"]}',
    "half a surrogate as a key": b'{"\\ud800": 1}',
    "another type": b'{"conversations": {"a": 1}}',
    "an unknown field": b'{"conversations": [], "temperature": 1}',
    "nothing": b"",
    "a text": b'"conversations"',
    "a huge text": b'{"conversations": ["' + b"a" * 10_000_000 + b'"]}',
    "too large": b'{"conversations": ["' + b"a" * 17_000_000 + b'"]}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_body_is_refused_in_a_few_words(served, body):
    answer = served.client.post("/score", content=body, headers=JSON)
    assert 400 <= answer.status_code < 500
    assert len(answer.content) < 1000
    error = json.loads(answer.text, parse_constant=pytest.fail)["error"]
    assert "Traceback" not in error["message"]
    assert len(served.scores(TALKS[:1])) == 1


def test_a_slow_or_cut_body_harms_nobody(served, monkeypatch):
    def slowly():
        yield b'{"conversations"'
        threading.Event().wait(1)
        yield b": []}"

    with monkeypatch.context() as patch:
        patch.setattr(requests, "BODY_SECONDS", 0.2)
        assert served.client.post("/score", content=slowly(), headers=JSON).status_code == 408

    def broken():
        yield b'{"conversations"'
        raise httpx.ReadError("cut")

    with pytest.raises(httpx.ReadError):
        served.client.post("/score", content=broken(), headers=JSON)
    assert len(served.scores(TALKS)) == 3


CHECKS = [checks.not_a_server_error, checks.status_code_conformance]
CHECKS += [checks.content_type_conformance]
ROUTES = ("/health", "/score", "/rank", "/pooling", "/classify", "/get_reward")
HOW_MANY = [15, pytest.param(2000, marks=pytest.mark.long)]  # The second: 10,000 and more together.


@pytest.fixture(scope="module")
def operations(served):
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    return {each.path: each for each in (some.ok() for some in schema.get_all_operations())}


@pytest.mark.parametrize("examples", HOW_MANY)
@pytest.mark.parametrize("route", ROUTES)
def test_requests_drawn_from_the_schema_are_answered_as_it_says(
    served, operations, route, examples
):
    assert operations.keys() == {*ROUTES, "/metrics"}
    modes = [operations[route].as_strategy(generation_mode=each) for each in GenerationMode]
    asked = 0

    @settings(max_examples=examples, database=None)
    @given(case=st.one_of(modes))
    def ask(case):
        nonlocal asked
        asked += 1
        answer = case.call()
        case.validate_response(answer, checks=CHECKS)
        json.loads(answer.text, parse_constant=pytest.fail)

    ask()
    assert asked >= examples or route == "/health"  # Of which there are not so many.
    assert len(served.scores(TALKS)) == 3
