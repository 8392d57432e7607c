"""What the server is asked: the fields of requests, their limits, and the form of errors."""

import asyncio
import json
from typing import Annotated, Literal

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, SkipValidation

BODY = 16 << 20  # Bytes of a request.
BODY_SECONDS = 30.0  # For all of it to come.


async def whole(request: Request) -> bytes:
    """Read a request's body. Raises HTTPException where it is no JSON by its headers, too large, or
    comes too slowly."""
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= BODY:  # Read to its end, so that the answer arrives, not kept.
                    chunks.append(chunk)
    except TimeoutError:
        raise HTTPException(408, f"no whole body within {BODY_SECONDS:g} s") from None
    if size > BODY:
        raise HTTPException(413, f"the body has {size} bytes; at most {BODY} are read")
    for name, read in (("Content-Encoding", "identity"), ("Content-Type", "application/json")):
        given = request.headers.get(name, "identity" if read == "identity" else "none")
        if size and given.partition(";")[0].strip().lower() != read:
            raise HTTPException(415, f"the body's {name} is {given[:80]}; it must be {read}")
    return b"".join(chunks)


# Fields. Items are checked when they are read, so that what is wrong with one is that item's. -----


class Message(BaseModel):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Messages, Ids = list[Message], list[Annotated[int, Field(ge=0)]]


class ScoreRequest(BaseModel):
    """conversations: each a list of messages that ends with the assistant's, or the text that the
    chat template makes of it, or its ids. truncate: cut too long prompts from the left."""

    model_config = ConfigDict(extra="forbid")
    conversations: list[SkipValidation[Messages | str | Ids]]
    truncate: bool = False


class RankRequest(BaseModel):
    """prompt: a text or messages. top_n: how many of the best responses are answered; all."""

    model_config = ConfigDict(extra="forbid")
    prompt: str | list[SkipValidation[Message]]
    responses: list[SkipValidation[str]]
    top_n: Annotated[int, Field(ge=1)] | None = None
    truncate: bool = False

    def conversations(self) -> list:
        """List the prompt with each response."""
        asked = [{"role": "user", "content": self.prompt}]
        prompt = asked if isinstance(self.prompt, str) else self.prompt
        return [[*prompt, {"role": "assistant", "content": each}] for each in self.responses]


class VllmRequest(BaseModel):
    """A request of vLLM's; values that would change the numbers are refused. model: the served
    one's name. input: a rendered text, token ids, or a list of either; or messages: one
    conversation. truncate_prompt_tokens: as many of the last tokens are read at most; -1: as many
    as fit."""

    model: str | None = None
    input: str | list[SkipValidation[int | str | Ids]] | None = None
    messages: list[SkipValidation[Message]] | None = None
    truncate_prompt_tokens: Literal[-1] | Annotated[int, Field(ge=1)] | None = None
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
        alone = isinstance(given, str) or (given and type(given[0]) in (int, float))
        return [given] if alone else given

    def limits(self) -> dict:
        """Give the options of `Service.score`."""
        asked = self.truncate_prompt_tokens
        return {"truncate": asked is not None, "longest": max(asked or 0, 0)}


class OpenRlhfRequest(BaseModel):
    """A request of OpenRLHF's remote reward; query: rendered texts. prompts and labels are not
    read."""

    query: str | list[SkipValidation[str]]
    truncate: bool = False

    def items(self) -> list:
        """List what is to be scored."""
        return [self.query] if isinstance(self.query, str) else self.query


# Answers ------------------------------------------------------------------------------------------


# For the schema.
ERRORS = {code: {} for code in (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)}


class StrictResponse(JSONResponse):
    """JSON without NaN, and with half surrogates, which a request may hold, escaped."""

    def render(self, content) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


TYPES = {401: "unauthorized", 404: "not_found", 413: "too_large"}
TYPES |= {429: "queue_full", 503: "not_ready"}


def error_of(code: int, message: str, kind: str = "") -> dict:
    kind = kind or TYPES.get(code, "invalid_request" if code < 500 else "internal")
    return {"message": message, "type": kind, "code": code}


def refusal(error: HTTPException) -> Response:
    body = {"error": error_of(error.status_code, str(error.detail))}
    return StrictResponse(body, error.status_code, error.headers)
