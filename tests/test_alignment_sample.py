"""The stage that samples: whatever the chunks the same rows, and rows from a file or a server."""

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import stages
import tiny

from hs2jax import configs, survey
from hs2jax.alignment import sample as sampling
from hs2jax.alignment import sampled_rows, server
from hs2jax.alignment.sample import sample
from hs2jax.config_rules import parse_condition
from hs2jax.data import chat, corpora, formats
from hs2jax.data.groups import DataError, Group
from hs2jax.data.record import Record
from hs2jax.language_model import LanguageModel
from hs2jax.store import Store

FILES = {"config.json", "run.json", "samples.jsonl", "results.jsonl", "result.json"}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    stages.models(folder)
    return folder


@pytest.fixture(scope="module")
def sampled(here):
    """Two attribute settings in one chunk."""
    config = stages.sampling(here, conditions=(stages.ASKED, ""))
    return sample(config, here / "whole"), stages.read(here / "whole" / "samples.jsonl")


def test_a_row_for_each_prompt_and_setting(here, sampled):
    found, rows = sampled
    asked = parse_condition(stages.ASKED)
    assert [row["condition"] for row in rows] == [asked, {}] * len(stages.QUESTIONS)
    questions = [question for question in stages.QUESTIONS for _ in range(2)]
    assert [row["prompt"][-1]["content"] for row in rows] == questions
    for row in rows:
        for name in ("responses", "tokens", "finished", "log_proposal"):
            assert len(row[name]) == 3, name
    tokens = [len(ids) for row in rows for ids in row["tokens"]]
    unfinished = sum(not x for row in rows for x in row["finished"])
    values = {"rows": 10, "responses": 30, "tokens": sum(tokens), "unfinished": unfinished}
    assert {name: stages.value(found, name) for name in values} == values
    assert {each.name for each in (here / "whole").iterdir()} == FILES


def test_log_proposal_is_what_the_scorer_finds(here, sampled):
    model = LanguageModel.load(here / "policy")
    groups = [
        # Texts play no part where there are tokens, and may be empty.
        formats.FORMATS["sampled"].group(
            row | {"responses": [text or "-" for text in row["responses"]]}
        )
        for row in sampled[1]
    ]
    for row, tables in zip(sampled[1], model.log_probability_groups(groups), strict=True):
        assert [float(x.sum()) for x in tables] == pytest.approx(row["log_proposal"], abs=1e-3)


def test_the_same_rows_whatever_the_chunks(here, sampled, monkeypatch):
    monkeypatch.setattr(sampling, "chunk", lambda config: 3)
    sample(stages.sampling(here, conditions=(stages.ASKED, "")), here / "chunks")
    rows = stages.read(here / "chunks" / "samples.jsonl")
    for row, whole in zip(rows, sampled[1], strict=True):
        assert row.pop("log_proposal") == pytest.approx(whole["log_proposal"], abs=1e-4)
        assert row == {name: whole[name] for name in row}


def test_an_instruction_is_followed_and_not_kept(here, tmp_path):
    data = stages.prompts(tmp_path, [f"{text}\n\nBriefly." for text in stages.QUESTIONS])
    sample(stages.sampling(here, data=data), tmp_path / "asked")
    sample(stages.sampling(here, instruction="Briefly."), tmp_path / "instructed")
    asked = stages.read(tmp_path / "asked" / "samples.jsonl")
    instructed = stages.read(tmp_path / "instructed" / "samples.jsonl")
    assert [row["prompt"][-1]["content"] for row in instructed] == list(stages.QUESTIONS)
    for row, other in zip(instructed, asked, strict=True):
        assert row["tokens"] == other["tokens"]
        # Of the prompt that is kept it would not be true.
        assert other["log_proposal"]
        assert "log_proposal" not in row
        assert row["instruction"] == "Briefly."
        assert "instruction" not in other


def test_prompts_without_room_are_raised_or_counted(here, tmp_path):
    config = stages.sampling(here, data=stages.prompts(tmp_path, ["why? " * 600, "Why?"]))
    with pytest.raises(ValueError, match="only 506 leave room"):
        sample(config, tmp_path / "raise")
    config.on_error = "skip"
    assert stages.value(sample(config, tmp_path / "skip"), "rows") == 1
    assert stages.result(tmp_path / "skip")["records"]["data"]["too_long"] == 1


def test_the_papers_settings():
    paper = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 2}
    config = configs.defaults("sample")
    assert [parse_condition(text) for text in config.conditions] == [paper]
    assert (config.n, config.temperature, config.top_p) == (10, 0.7, 0.9)


def test_prompts_alone_are_enough_to_be_answered_and_for_nothing_else(here, tmp_path):
    asked = tiny.talk("Hi", "Hello") + tiny.talk("Why?", "-")[:1]
    rows = [{"prompt": "Why?"}, {"prompt": asked}, {"prompt": "Why?", "system": "Be brief."}]
    data = f"prompts:{stages.write(tmp_path / 'prompts.jsonl', rows)}"
    config = stages.sampling(here, data=data)
    configs.check(config)
    found = sampling.requests(config, "", Record())
    system = {"role": "system", "content": "Be brief."}
    assert [list(group.prompt) for group in found] == [asked[2:], asked, [system, *asked[2:]]]
    assert survey.survey(data).record.groups == 3
    with pytest.raises(ValueError, match="prompts without responses are to be sampled from, only"):
        corpora.read(data)

    def takes(rule) -> bool:
        try:
            return rule(data) is None
        except ValueError:
            return False

    keys = {
        f"{kind}.{key}"
        for kind, settings in configs.SETTINGS.items()
        for key, each in settings.items()
        if each.identity == "data" and kind != "judge" and takes(each.rule)
    }
    assert keys == {"sample.data", "steer.data", "compare.data"} | {
        f"reinforce.{x}" for x in ("data", "validation")
    }


# Elsewhere ----------------------------------------------------------------------------------------


def test_responses_of_a_file_are_found_by_their_prompts(here, tmp_path):
    said = {question: [f"{question} {i}" for i in range(2)] for question in stages.QUESTIONS}
    rows = [{"prompt": x, "responses": said[x]} for x in reversed(stages.QUESTIONS[1:])]
    asked = stages.QUESTIONS[1]
    rows += [{"prompt": asked, "response": "One more."}, {"prompt": asked, "response": " "}]
    theirs = f"responses:{stages.write(tmp_path / 'theirs.jsonl', rows)}"
    config = stages.sampling(here, responses=theirs, model={"name": ""})
    with pytest.raises(DataError, match=r"theirs\.jsonl, line 6, field 'response'"):
        sample(config, tmp_path / "raise")
    rows.pop()
    stages.write(tmp_path / "theirs.jsonl", rows)
    with pytest.raises(ValueError, match="no responses to this prompt"):
        sample(config, tmp_path / "raise")
    stages.write(tmp_path / "theirs.jsonl", [*rows, {"prompt": "Why?", "response": " "}])
    config.on_error = "skip"
    sample(config, tmp_path / "skip")
    record = stages.result(tmp_path / "skip")["records"]["data"]
    assert record["skipped"] == {"no responses to the prompt": 1, "empty text": 1}
    groups = list(corpora.read(f"sampled:{tmp_path / 'skip' / 'samples.jsonl'}"))
    assert [group.prompt[0]["content"] for group in groups] == list(stages.QUESTIONS[1:])
    assert groups[0].responses == (*said[asked], "One more.")
    assert {(group.tokens, group.ratings) for group in groups} == {((), ())}
    assert all(group.condition == parse_condition(stages.ASKED) for group in groups)


TEXTS = {"choices": [{"text": "a"}] * 3}


class Asked(list):
    """Requests; `ill`: what is answered, (status, body), to requests of these seeds."""


@pytest.fixture
def served(here, monkeypatch):
    """A server that fails twice, and what it was asked: (path, authorization, body)."""
    asked, failures, ill = Asked(), [503, 429], {}

    def answer(body) -> tuple[int, dict]:
        if body is None:
            return 200, {"data": [{"id": "theirs"}]}
        if failures:
            return failures.pop(), {"error": "busy"}
        if said := ill.get(body["seed"]):
            return said() if callable(said) else said
        if body["temperature"] == 2:
            return 401, {"error": "too hot"}
        texts = [f"{json.dumps(body['prompt'][-3:])} {i}\n" for i in range(body["n"])]
        ends = itertools.cycle(["stop", "length"])
        return 200, {
            "choices": [{"text": t, "finish_reason": e} for t, e in zip(texts, ends, strict=False)],
            "error": None,
            # Some count nothing.
            "usage": {"prompt_tokens": len(body["prompt"]) * (len(body["prompt"]) % 2)},
        }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self, body=None):
            asked.append((self.path, self.headers["Authorization"], body))
            code, said = answer(body)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(said if isinstance(said, bytes) else json.dumps(said).encode())

        def do_POST(self):
            self.do_GET(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_):
            """Says nothing."""

    monkeypatch.setenv(server.KEY, "secret")
    monkeypatch.setattr(server, "WAITS", (0.0, 0.0, 0.0))
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    asked.ill = ill
    yield f"http://127.0.0.1:{running.server_port}/v1", asked
    ill.clear()
    running.shutdown()
    running.server_close()


def test_a_server_reads_what_the_policy_would(here, tmp_path, served):
    address, asked = served
    found = sample(stages.sampling(here, server=address), tmp_path / "run")
    bodies = [body for path, _, body in asked if path == "/v1/completions"]
    assert asked[0][0] == "/v1/models"
    assert {key for _, key, _ in asked} == {"Bearer secret"}
    assert len(bodies) == len(stages.QUESTIONS) + 2  # Two were asked again.
    condition, named = parse_condition(stages.ASKED), tiny.tokenizer()
    prompts = [tuple(tiny.talk(question, "-")[:1]) for question in stages.QUESTIONS]
    groups = [Group(prompt, ("-",), condition=condition) for prompt in prompts]
    expected = [ids.tolist() for ids in chat.prompt_ids(named, groups)]
    assert named.decode(expected[0]).endswith("assistant\nhelpfulness:4,verbosity:1\n")
    by_seed = {body["seed"]: body for body in bodies}
    assert [by_seed[seed]["prompt"] for seed in sorted(by_seed)] == expected
    for body in bodies:
        assert (body["model"], body["n"], body["max_tokens"]) == ("theirs", 3, 6)
        assert (body["temperature"], body["top_p"], body["stop"]) == (0.7, 0.9, ["<|im_end|>"])
    rows = stages.read(tmp_path / "run" / "samples.jsonl")
    for row, ids in zip(rows, expected, strict=True):
        assert row["responses"] == [f"{json.dumps(ids[-3:])} {i}\n" for i in range(3)]
        assert row["finished"] == [True, False, True]
        assert not {"tokens", "log_proposal"} & set(row)
    assert stages.value(found, "unfinished") == len(rows)


def test_the_line_end_before_a_templates_marker_is_no_servers_text(here, tmp_path, served):
    config = stages.sampling(here, server=served[0], model={"template": "steerlm"})
    sample(config, tmp_path / "run")
    for row in stages.read(tmp_path / "run" / "samples.jsonl"):
        assert [text.endswith("\n") for text in row["responses"]] == [False, True, False]
        assert row["finished"] == [True, False, True]


def test_a_server_that_refuses_or_is_not_there_is_told_at_once(here, tmp_path, served):
    address, asked = served
    with pytest.raises(server.ServerError, match=r"refuses \(its key.*: 401 .*too hot"):
        sample(stages.sampling(here, server=address, temperature=2.0), tmp_path / "run")
    assert len([path for path, _, _ in asked if path == "/v1/completions"]) <= 5 + 2
    with pytest.raises(server.ServerError, match=r"does not answer: .*refused"):
        sample(stages.sampling(here, server="http://127.0.0.1:9/v1"), tmp_path / "run")


@pytest.mark.parametrize(
    ("code", "said", "why"),
    [
        (400, {"error": "the prompt is too long"}, "refuses: 400 .*too long"),
        (413, b"too large", "refuses: 413 .*too large"),
        (200, {"error": {"message": "out of slots"}}, "answers an error: .*out of slots"),
        (200, {"object": "error", "message": "no"}, "answers an error"),
        (200, {"choices": [{"text": None}] * 3}, "3 responses, 0 of them texts, instead of the 3"),
        (200, {"choices": [{"text": "a"}]}, "1 responses, 1 of them texts, instead of the 3"),
        (200, TEXTS | {"usage": {"prompt_tokens": 2}}, r"has read 2 of the prompt's \d+ tokens"),
        (200, {"choices": None}, "answers 'None' and no list of texts"),
        (200, {"choices": [{"message": {"content": "a"}}]}, "and no list of texts"),
    ],
)
def test_a_servers_bad_answer_is_that_rows(here, tmp_path, served, monkeypatch, code, said, why):
    address, asked = served
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # Loopback goes past it.
    asked.ill[1] = code, said
    config, folder = stages.sampling(here, server=address), tmp_path / "run"
    with pytest.raises(ValueError, match=rf"{here.name}.*:2: .*{why}.*on_error=skip"):
        sample(config, folder)
    config.on_error = "skip"
    sample(config, tmp_path / "skipped")
    some = stages.read(tmp_path / "skipped" / "samples.jsonl")
    record = json.loads((tmp_path / "skipped" / "result.json").read_text())["records"]["data"]
    assert record["skipped"] == {"refused by the server": 1}
    asked.ill.clear()
    config.on_error = "raise"
    sample(config, folder)
    rows = stages.read(folder / "samples.jsonl")
    assert some == rows[:1] + rows[2:]


def test_what_a_server_has_answered_is_not_asked_again(here, tmp_path, served, monkeypatch):
    """Killed within a chunk, when the first answer is still missing."""
    address, asked = served
    config, sent = stages.sampling(here, server=address), threading.Event()
    sample(config, tmp_path / "whole")
    asked.clear()
    add, kept = Store.add, []

    def adding(self, entries):
        found = add(self, entries)
        kept.extend(entries)
        if len(kept) == 3:
            sent.set()
            raise stages.StoppedError
        return found

    asked.ill[0] = lambda: sent.wait(60) and (200, {"choices": None})
    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", adding)
        with pytest.raises(stages.StoppedError):
            sample(config, tmp_path / "run")
    asked.ill.clear()
    asked.clear()
    sample(config, tmp_path / "run")
    seeds = {body["seed"] for path, _, body in asked if path == "/v1/completions"}
    assert 0 in seeds
    assert len(seeds) == len(stages.QUESTIONS) - 3
    rows = [stages.read(tmp_path / name / "samples.jsonl") for name in ("run", "whole")]
    assert rows[0] == rows[1]


def test_a_page_in_the_way_is_told_at_once(here, tmp_path, served):
    address, asked = served
    asked.ill[0] = 200, b"<html>Please log in"
    with pytest.raises(server.ServerError, match=r"answers '<html>Please log in' and no JSON"):
        sample(stages.sampling(here, server=address), tmp_path / "run")


# What is left of sampled rows ---------------------------------------------------------------------


def test_nothing_is_left_out_without_being_counted(tmp_path):
    row = {"prompt": "Why?", "condition": {"helpfulness": 1}, "responses": ["a", "", "b", "c"]}
    row |= {"finished": [True, True, False, True], "tokens": [[1], [2], [3], [4]]}
    row |= {"log_proposal": [-1.0, -2.0, -3.0, -4.0]}
    spec = f"sampled:{stages.write(tmp_path / 'rows.jsonl', [row, {**row, 'tokens': [[1]]}])}"
    record = Record()
    (kept,) = sampled_rows.read(spec, unfinished="drop", on_error="skip", record=record)
    assert kept.group.responses == ("a", "c")
    assert kept.group.tokens == ((1,), (4,))
    assert kept.row["log_proposal"] == [-1.0, -4.0]
    assert kept.group.source == f"{tmp_path / 'rows.jsonl'}:1"
    assert record.skipped.pop("unfinished responses") == 1
    assert record.skipped.pop("empty responses") == 1
    assert sum(record.skipped.values()) == 1  # The row whose tokens do not fit.
    one = f"sampled:{stages.write(tmp_path / 'one.jsonl', [row])}"
    (kept,) = sampled_rows.read(one, unfinished="keep", on_error="raise", record=Record())
    assert kept.group.responses == ("a", "b", "c")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2, field"):
        sampled_rows.read(spec, unfinished="drop", on_error="raise", record=Record())
