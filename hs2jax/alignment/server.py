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
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from hs2jax.alignment.sources import Source, fitting
from hs2jax.data import chat, templates
from hs2jax.data.groups import Group
from hs2jax.models.hf import hub
from hs2jax.workdir import from_first, is_first

log = logging.getLogger(__name__)

KEY = "OPENAI_API_KEY"  # Of the environment.
AT_ONCE = 16  # Requests that the server works on together.
TIMEOUT = 1800.0  # Seconds that one may take.
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # Seconds before each further try.
BUSY = (408, 409, 425, 429)  # What a later try may not meet again; and everything from 500.


class ServerError(OSError):
    """The server cannot be reached, or refuses what it is asked."""


def ask(address: str, path: str, body: Mapping[str, Any] | None = None) -> dict:
    """Return the JSON that a server answers. Tries again where it is busy or not reached.

    address: as in "http://localhost:8000/v1". Raises ServerError.
    """
    url = f"{address.rstrip('/')}/{path}"
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    content = None if body is None else json.dumps(body).encode()
    for wait in (*WAITS, None):
        try:
            request = urllib.request.Request(url, content, headers)
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            why = f"{error.code} {error.reason}: {error.read(2000).decode(errors='replace')}"
            if error.code < 500 and error.code not in BUSY:
                hint = f" (its key is read from {KEY})" if error.code in (401, 403) else ""
                raise ServerError(f"{url} refuses{hint}: {why}") from None
            asked = error.headers.get("Retry-After", "")
            if wait is not None and asked.isdigit():
                wait = max(wait, float(asked))
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
        if wait is not None:
            log.warning("%s: %s; asked again in %g s", url, why, wait)
            time.sleep(wait)
    raise ServerError(f"{url} does not answer: {why}")


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
    opened, _ = hub.open_model(name)
    tokenizer, read = opened.tokenizer, opened.read
    if tokenizer is None:
        raise ValueError(f"{name}: there is no tokenizer beside the model")
    if config.model.template:
        tokenizer.chat_template, read = templates.choose(config.model.template)

    def complete(body: dict) -> dict:
        choices = ask(address, "completions", body).get("choices", [])
        if len(choices) != config.n:
            raise ServerError(
                f"{address} gives {len(choices)} responses instead of the {config.n} of config.n"
            )
        # Half a surrogate pair is no text, and cannot be written.
        texts = [choice["text"].encode(errors="replace").decode() for choice in choices]
        ended = [choice.get("finish_reason") == "stop" for choice in choices]
        for i in np.flatnonzero(ended):
            texts[i] = chat.without_line_end(texts[i], read)
        return {"responses": texts, "finished": ended}

    def answer(groups: Sequence[Group], first: int) -> list[dict]:
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
        start = config.seed * 1_000_003 + first
        bodies = [
            settings | {"prompt": ids.tolist(), "seed": (start + i) % 2**31}
            for i, ids in enumerate(chat.prompt_ids(tokenizer, groups))
        ]
        if not is_first():
            return from_first(None)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return from_first(list(threads.map(complete, bodies)))

    room = functools.partial(fitting, tokenizer, opened.config, config)
    return Source(f"{address} {served}", room, answer)
