"""An OpenAI-compatible server that answers prompts, such as vLLM's or SGLang's.

It is asked at /v1/completions with the token ids of the prompt, which end with the assistant's
header and the attributes, for which /v1/chat/completions has no place.
"""

import functools
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np

from hs2jax.alignment.sources import Source, fitting
from hs2jax.data import chat
from hs2jax.data.groups import Group
from hs2jax.model import open_model
from hs2jax.workdir import is_first

log = logging.getLogger(__name__)

KEY = "OPENAI_API_KEY"  # Of the environment.
AT_ONCE = 16  # Requests that the server works on together.
TIMEOUT = 1800.0  # Seconds that one may take.
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # Seconds before each further try.
BUSY = (408, 409, 425, 429)  # What a later try may not meet again; and everything from 500.
UNFIT = (400, 413, 422)  # What is wrong with one request and may be right of the others.
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ServerError(OSError):
    """The server cannot be reached, or refuses what it is asked."""


class RefusedError(ServerError):
    """The server refuses one request, or what it answers to it is none."""


def ask(address: str, path: str, body: Mapping[str, Any] | None = None) -> dict:
    """Return the object that a server answers. Tries again where it is busy or not reached. One on
    this machine is asked past any proxy.

    address: as in "http://localhost:8000/v1". Raises RefusedError for what is wrong with this
    request alone, and ServerError.
    """
    url = f"{address.rstrip('/')}/{path}"
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    content = None if body is None else json.dumps(body).encode()
    host = urllib.parse.urlsplit(url).hostname or ""
    local = host in LOOPBACK or urllib.request.proxy_bypass(host)
    proxies = {} if local else urllib.request.getproxies()
    way = f", by way of the proxy {', '.join(proxies.values())}," if proxies else ""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    for wait in (*WAITS, None):
        try:
            request = urllib.request.Request(url, content, headers)
            with opener.open(request, timeout=TIMEOUT) as answer:
                said = answer.read()
            return _object(f"{url}{way}", said)
        except urllib.error.HTTPError as error:
            why = f"{error.code} {error.reason}: {error.read(2000).decode(errors='replace')}"
            if error.code < 500 and error.code not in BUSY:
                hint = f" (its key is read from {KEY})" if error.code in (401, 403) else ""
                kind = RefusedError if error.code in UNFIT else ServerError
                raise kind(f"{url} refuses{hint}: {why}") from None
            asked = error.headers.get("Retry-After", "")
            if wait is not None and asked.isdigit():
                wait = max(wait, float(asked))
        except ServerError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
        if wait is not None:
            log.warning("%s: %s; asked again in %g s", url, why, wait)
            time.sleep(wait)
    raise ServerError(f"{url}{way} does not answer: {why}")


def _object(url: str, said: bytes) -> dict:
    """Read what a server said. Raises ServerError for no object and RefusedError for an error."""
    try:
        found = json.loads(said)
    except ValueError:
        found = said[:80].decode(errors="replace")
    if not isinstance(found, dict):
        raise ServerError(
            f"{url} answers {str(found)[:80]!r} and no JSON object: it is no OpenAI-compatible API "
            "(with its /v1), or something in between answers instead"
        )
    if found.get("error") or found.get("object") == "error":
        raise RefusedError(f"{url} answers an error: {str(found.get('error', found))[:300]}")
    return found


def connect(config) -> Source:
    """Connect to `config.server`, which runs `config.model`; its tokenizer is the one here.

    Raises ServerError or ValueError.
    """
    address, name = config.server, config.model.name
    answer = ask(address, "models")
    try:
        served = [each["id"] for each in answer["data"]]
    except (KeyError, TypeError):
        raise ServerError(
            f"config.server: {address}/models says {str(answer)[:80]!r} and not "
            '{"data": [{"id": ...}]}; is it an OpenAI-compatible API, with its /v1?'
        ) from None
    if name not in served and len(served) != 1:
        raise ValueError(
            f"config.server: {address} serves {', '.join(served) or 'no model'}, and not {name!r} "
            "(config.model.name)"
        )
    served = name if name in served else served[0]
    opened, _ = open_model(name, config.model.template)
    tokenizer, read = opened.tokenizer, opened.read

    def complete(body: dict) -> dict:
        choices = None
        try:
            said = ask(address, "completions", body)
            choices, usage = said.get("choices"), said.get("usage")
            texts = [choice["text"] for choice in choices]
            ended = [choice.get("finish_reason") == "stop" for choice in choices]
        except RefusedError as error:
            return {"refused": str(error)}
        except (TypeError, KeyError, AttributeError):
            return {"refused": f"{address} answers {str(choices)[:80]!r} and no list of texts"}
        if len(texts) != config.n or not all(isinstance(text, str) for text in texts):
            found = (
                f"{len(texts)} responses, {sum(isinstance(x, str) for x in texts)} of them texts"
            )
            return {"refused": f"{address} gives {found}, instead of the {config.n} of config.n"}
        read_of = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if isinstance(read_of, int) and 0 < read_of < len(body["prompt"]):
            found = f"{read_of} of the prompt's {len(body['prompt'])} tokens"
            return {"refused": f"{address} has read {found}: is its context too short?"}
        # Half a surrogate pair is no text, and cannot be written.
        texts = [text.encode(errors="replace").decode() for text in texts]
        for i in np.flatnonzero(ended):
            texts[i] = chat.without_line_end(texts[i], read)
        return {"responses": texts, "finished": ended}

    def answer(groups: Sequence[Group], numbers: Sequence[int]) -> Iterator[tuple[int, dict]]:
        settings = {
            "model": served,
            "n": config.n,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_tokens": config.max_new_tokens,
            "stop": [tokenizer.decode(chat.end_of_turn(tokenizer, read))],
            # Not every server knows it.
            **({"top_k": config.top_k} if config.top_k else {}),
        }
        if not is_first():
            return
        prompts = chat.prompt_ids(tokenizer, groups)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            asked = {}
            for i, ids in zip(numbers, prompts, strict=True):
                seed = (config.seed * 1_000_003 + i) % 2**31
                body = settings | {"prompt": ids.tolist(), "seed": seed}
                asked[threads.submit(complete, body)] = i
            try:
                for each in as_completed(asked):
                    yield asked[each], each.result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    room = functools.partial(fitting, tokenizer, opened.config, config)
    return Source(f"{address} {served}", room, answer, alone=True)
