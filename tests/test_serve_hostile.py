"""The scoring server, sent what no client should send."""

import gzip
import http.client
import json
import socket
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


SCORE = json.dumps({"conversations": TALKS[:1]}).encode()
ZIPPED, ZIP = gzip.compress(SCORE), JSON | {"Content-Encoding": "gzip"}
OTHER, CHARSET = {"input": "a", "model": "gpt"}, {"Content-Type": "Application/JSON; charset=utf-8"}
NO_NUMBER = b'{"prompt": "a", "responses": ["b"], "top_n": NaN}'
ODD = {
    "a form, as of curl -d": ("POST /score", {"data": {"a": "b"}}, 415, "must be application/json"),
    "no type": ("POST /score", {"content": SCORE}, 415, "Content-Type is none"),
    "gzip": ("POST /score", {"content": ZIPPED, "headers": ZIP}, 415, "Content-Encoding is gzip"),
    "chunks": ("POST /score", {"content": iter([SCORE[:9], SCORE[9:]]), "headers": JSON}, 200, ""),
    "a charset": ("POST /score", {"content": SCORE, "headers": CHARSET}, 200, "reward"),
    "only the head": ("HEAD /health", {}, 200, ""),
    "options": ("OPTIONS /score", {}, 405, "Method Not Allowed"),
    "another method": ("GET /score", {}, 405, "Method Not Allowed"),
    "no such route": ("POST /v1/score", {"json": {}}, 404, "there are /score"),
    "another model": ("POST /pooling", {"json": OTHER}, 404, "it is 'tiny'"),
    "its name": ("POST /pooling", {"json": OTHER | {"model": "tiny"}}, 200, "data"),
    "no tokens": ("POST /pooling", {"json": OTHER | {"truncate_prompt_tokens": 0}}, 422, "trunc"),
    "a sigmoid": ("POST /classify", {"json": OTHER | {"use_activation": True}}, 422, "activation"),
    "nothing": ("POST /score", {"json": {"conversations": []}}, 200, '"scores":[]'),
    "nobody": ("POST /rank", {"json": {"prompt": "a", "responses": []}}, 200, '"results":[]'),
    "no input": ("POST /pooling", {"json": {"input": []}}, 200, '"data":[]'),
    "none": ("POST /classify", {"json": {"input": []}}, 200, '"data":[]'),
    "no query": ("POST /get_reward", {"json": {"query": []}}, 200, '"rewards":[]'),
    "the same twice": ("POST /score", {"json": {"conversations": ["a", "a"]}}, 200, "reward"),
    "no number of best": ("POST /rank", {"content": NO_NUMBER, "headers": JSON}, 422, "top_n"),
    "no prompt": ("POST /rank", {"json": {"prompt": [3], "responses": ["a"]}}, 400, "responses[0]"),
}


@pytest.mark.parametrize(("route", "sent", "status", "said"), ODD.values(), ids=ODD)
def test_an_odd_request_is_answered_as_it_should(served, route, sent, status, said):
    answer = served.client.request(*route.split(), **sent)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    json.loads(answer.text or "{}", parse_constant=pytest.fail)


def test_requests_that_are_sent_at_once_on_a_connection_are_answered_in_order(served):
    head = b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    bodies = [json.dumps({"conversations": TALKS[:n]}).encode() for n in (1, 3, 2)]
    address = served.server.servers[0].sockets[0].getsockname()
    with socket.create_connection(address) as connection, connection.makefile("rb") as said:
        for body in bodies:
            connection.sendall(b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body))
        for n in (1, 3, 2):
            fields = http.client.parse_headers(said) if said.readline() else {}
            assert len(json.loads(said.read(int(fields["Content-Length"])))["scores"]) == n


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
