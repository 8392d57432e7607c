"""An OpenAI-compatible server that answers prompts, such as vLLM's or SGLang's.

It is asked at /v1/completions with the token ids of the prompt: they end with the assistant's
header and the attributes, so that the model reads what it was trained on. /v1/chat/completions
would put its own template around the messages, and has no place for the attributes.
"""

import dataclasses
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

import ml_collections

from hs2jax.alignment.sources import fitting
from hs2jax.data import chat, templates
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
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


@dataclasses.dataclass
class ServerSource:
    """A model that a server runs, with the tokenizer of the same model here."""

    address: str
    model: str  # As the server calls it.
    tokenizer: Any
    read: str
    max_seq_len: int
    config: ml_collections.ConfigDict

    @classmethod
    def connect(cls, config) -> "ServerSource":
        """Connect to `config.server`, for `config.model`. Raises ServerError or ValueError."""
        answer = ask(config.server, "models")
        try:
            served = [each["id"] for each in answer["data"]]
        except (KeyError, TypeError):
            raise ServerError(
                f"config.server: {config.server}/models says {str(answer)[:80]!r} and not "
                '{"data": [{"id": ...}]}; is it an OpenAI-compatible API, with its /v1?'
            ) from None
        name = config.model.name
        if name not in served:
            if len(served) != 1:
                raise ValueError(
                    f"config.server: {config.server} serves {', '.join(served) or 'no model'}, and "
                    f"not {name!r} (config.model.name)"
                )
            (name,) = served
        opened, _ = hub.open_model(config.model.name)
        if opened.tokenizer is None:
            raise ValueError(f"{config.model.name}: there is no tokenizer beside the model")
        read = opened.read
        if config.model.template:
            opened.tokenizer.chat_template, read = templates.choose(config.model.template)
        return cls(config.server, name, opened.tokenizer, read, opened.config.max_seq_len, config)

    @property
    def identity(self) -> str:
        return f"{self.address} {self.model}"

    def fitting(self, groups: Sequence[Group], record: Record) -> list[Group]:
        room = self.max_seq_len - self.config.max_new_tokens
        return fitting(self, groups, room, record, self.config.on_error)

    def answer(self, groups: Sequence[Group], first: int) -> list[dict]:
        """first: how many groups came before them, for the seeds."""
        prompts = chat.prompt_ids(self.tokenizer, groups, self.read)
        end = self.tokenizer.decode(chat.end_of_turn(self.tokenizer, self.read))
        bodies = [
            {
                "model": self.model,
                "prompt": ids.tolist(),
                "n": self.config.n,
                "temperature": self.config.temperature,
                "top_p": self.config.top_p,
                "max_tokens": self.config.max_new_tokens,
                "seed": (self.config.seed * 1_000_003 + first + i) % 2**31,
                "stop": [end],
                # Not every server knows it.
                **({"top_k": self.config.top_k} if self.config.top_k else {}),
            }
            for i, ids in enumerate(prompts)
        ]
        if not is_first():
            return from_first(None)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return from_first(list(threads.map(self._complete, bodies)))

    def _complete(self, body: dict) -> dict:
        choices = ask(self.address, "completions", body).get("choices", [])
        if len(choices) != self.config.n:
            raise ServerError(
                f"{self.address} gives {len(choices)} responses instead of the "
                f"{self.config.n} of config.n"
            )
        # Half a surrogate pair is no text, and cannot be written.
        texts = [choice["text"].encode(errors="replace").decode() for choice in choices]
        ended = [choice.get("finish_reason") == "stop" for choice in choices]
        return {
            "responses": [
                chat.without_line_end(text, self.read) if end else text
                for text, end in zip(texts, ended, strict=True)
            ],
            "finished": ended,
        }
