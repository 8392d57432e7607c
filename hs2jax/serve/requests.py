"""What the server is asked: the fields of requests, their limits, and the form of errors."""

import asyncio
import json
from typing import Annotated, Any, Literal

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

BODY = 16 << 20  # Bytes of a request.
BODY_SECONDS = 30.0  # For all of it to come.
DEPTH = 16  # Of lists and objects in one another.


def _is_id(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _described(kind: dict) -> Any:
    """Anything, so that what is wrong with an item is that item's; with a schema for people."""
    return Annotated[Any, WithJsonSchema(kind)]


_TEXT, _IDS = {"type": "string"}, {"type": "array", "items": {"type": "integer", "minimum": 0}}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"type": "string", "enum": ["system", "user", "assistant"]},
        "content": _TEXT,
    },
}
_MESSAGES = {"type": "array", "items": _MESSAGE}
_MANY = {"type": "array", "items": {"anyOf": [_MESSAGES, _TEXT, _IDS]}}
_INPUT = {"anyOf": [_TEXT, _IDS, {"type": "array", "items": {"anyOf": [_TEXT, _IDS]}}]}


class ScoreRequest(BaseModel):
    """conversations: each a list of messages that ends with the assistant's, or the text that the
    chat template makes of it, or its ids. truncate: cut too long prompts from the left."""

    model_config = ConfigDict(extra="forbid")
    conversations: Annotated[list, WithJsonSchema(_MANY)]
    truncate: bool = False


class RankRequest(BaseModel):
    """prompt: a text or messages. top_n: how many of the best responses are answered; all."""

    model_config = ConfigDict(extra="forbid")
    prompt: _described({"anyOf": [_TEXT, _MESSAGES]})
    responses: Annotated[list, WithJsonSchema({"type": "array", "items": _TEXT})]
    top_n: Annotated[int, Field(ge=1)] | None = None
    truncate: bool = False

    def conversations(self) -> list:
        """List the prompt with each response."""
        prompt = self.prompt
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        if not isinstance(prompt, list) or not all(isinstance(x, dict) for x in prompt):
            raise HTTPException(400, "prompt: expected a text or a list of messages")
        return [[*prompt, {"role": "assistant", "content": each}] for each in self.responses]


class VllmRequest(BaseModel):
    """A request of vLLM's; values that would change the numbers are refused. input: a rendered
    text, token ids, or a list of either; or messages: one conversation. truncate_prompt_tokens: as
    many of the last tokens are read at most; -1: as many as fit."""

    input: _described(_INPUT) = None
    messages: _described(_MESSAGES) = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    use_activation: Literal[False] | None = None
    activation: Literal[False] | None = None
    softmax: Literal[False] | None = None
    encoding_format: Literal["float"] = "float"
    dimensions: None = None
    chat_template: None = None
    add_generation_prompt: Literal[False] = False
    continue_final_message: Literal[False] = False

    def items(self) -> list:
        """List what is to be scored."""
        given = self.input
        if (given is None) == (self.messages is None):
            raise HTTPException(400, "expected either input or messages")
        if given is None:
            return [self.messages]
        if isinstance(given, str) or (given and isinstance(given, list) and _is_id(given[0])):
            return [given]
        if not isinstance(given, list):
            raise HTTPException(400, "input: expected a text, token ids, or a list of either")
        return given

    def limits(self) -> dict:
        """Give the options of `Service.score`."""
        asked = self.truncate_prompt_tokens
        return {"truncate": asked is not None, "longest": max(asked or 0, 0)}


class OpenRlhfRequest(BaseModel):
    """A request of OpenRLHF's remote reward; query: rendered texts. prompts and labels are not
    read."""

    query: _described({"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]})
    truncate: bool = False

    def items(self) -> list:
        """List what is to be scored."""
        if isinstance(self.query, str):
            return [self.query]
        if not isinstance(self.query, list):
            raise HTTPException(400, "query: expected a list of texts")
        return self.query


class LimitedRequest(Request):
    """A request whose body is limited in size, depth and the time it takes, and is strict JSON."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            chunks, size = [], 0
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    async for chunk in self.stream():
                        size += len(chunk)
                        chunks.append(chunk)
                        if size > BODY:  # Read to its end, so that the answer arrives, not kept.
                            chunks.clear()
            except TimeoutError:
                raise HTTPException(408, f"no whole body within {BODY_SECONDS:g} s") from None
            if size > BODY:
                raise HTTPException(413, f"the body has {size} bytes; at most {BODY} are read")
            self._body = b"".join(chunks)
        return self._body

    async def json(self):
        try:
            found = json.loads(await self.body(), parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"the body is no JSON: {error}") from None
        level = [found]
        for _ in range(DEPTH):
            inner = (x.values() if isinstance(x, dict) else x for x in level)
            level = [x for some in inner if isinstance(some, _ITERABLE) for x in some]
        if level:
            raise HTTPException(400, f"the body is nested deeper than {DEPTH}")
        return found


_ITERABLE = (list, type({}.values()))


def _no_number(text: str):
    raise ValueError(f"{text} is no number in it")


ERRORS = {code: {} for code in (400, 401, 408, 413, 422, 429, 500, 503, 504)}  # For the schema.


class LimitedRoute(APIRoute):
    """A route that reads its requests as `LimitedRequest`."""

    def get_route_handler(self):
        handler = super().get_route_handler()

        async def limited(request: Request) -> Response:
            return await handler(LimitedRequest(request.scope, request.receive))

        return limited


# Answers ------------------------------------------------------------------------------------------


class StrictResponse(JSONResponse):
    """JSON without NaN, and with half surrogates, which a request may hold, escaped."""

    def render(self, content) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


TYPES = {
    401: "unauthorized",
    404: "not_found",
    413: "too_large",
    429: "queue_full",
    503: "not_ready",
}


def error_of(code: int, message: str, kind: str = "") -> dict:
    kind = kind or TYPES.get(code, "invalid_request" if code < 500 else "internal")
    return {"message": message, "type": kind, "code": code}


def refusal(code: int, message: str, headers: dict | None = None) -> Response:
    return StrictResponse({"error": error_of(code, message)}, code, headers)
