"""A server that scores conversations over HTTP, by a reward model or a judge.

    hs2jax serve --model=runs/quickstart/preference/model
    curl localhost:8000/score -H 'Content-Type: application/json' -d '{"conversations": [[
        {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]]}'

Routes: /score and /rank; /pooling and /classify in the shapes of vLLM's, /get_reward in that of
OpenRLHF's; /health, /metrics (Prometheus) and /openapi.json. A conversation is a list of messages,
the text that the chat template makes of them, or its token ids; the three give the same score.
Scores are the model's own outputs on every route: no sigmoid, no softmax.

What is wrong with one item is said in its place, and the others are scored; where none is, the
status is that of the first. Other errors: {"error": {"message", "type", "code"}}.
"""

import asyncio
import hmac
import importlib.metadata
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable

import jax
import prometheus_client as prometheus
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from hs2jax.config_rules import parse_weights
from hs2jax.judging import criteria, lager, weights_file
from hs2jax.judging.judge import Judge
from hs2jax.models import sharding
from hs2jax.reward_model import RewardModel
from hs2jax.serve import requests
from hs2jax.serve.requests import StrictResponse, refusal
from hs2jax.serve.scorers import Judgements, Rewards
from hs2jax.serve.service import Service

KEY = "HS2JAX_API_KEY"  # Of the environment.
LOOPBACK = ("localhost", "127.0.0.1", "::1")
DRAIN_SECONDS, STOP_SECONDS = 6.0, 8  # After a signal: what waits is answered, and all ends.


class Gate:
    """Lets nobody in without the key but to /health, reads bodies within their limits, and times
    requests by route and status."""

    def __init__(self, app, service: Service, key: str):
        self.app, self.service, self.key = app, service, key.encode()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, path, app = time.perf_counter(), scope["path"], self.app

        async def answer(message) -> None:
            if message["type"] == "http.response.start":
                route = path if path in ROUTES else "other"
                labels = self.service.seconds.labels(route, message["status"])
                labels.observe(time.perf_counter() - begun)
            await send(message)

        messages = []

        async def receive_again() -> dict:
            return messages.pop() if messages else await receive()

        given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        try:
            if (
                self.key
                and path != "/health"
                and not hmac.compare_digest(given[2].strip(), self.key)
            ):
                what = "this server wants its key: Authorization: Bearer KEY"
                raise HTTPException(401, what, {"WWW-Authenticate": "Bearer"})
            body = await requests.whole(Request(scope, receive))
            messages.append({"type": "http.request", "body": body})
        except HTTPException as error:
            app = refusal(error)
        except ClientDisconnect:
            return
        await app(scope, receive_again, answer)


ROUTES = ("/score", "/rank", "/pooling", "/classify", "/get_reward", "/health", "/metrics")


def application(service: Service, key: str = "") -> FastAPI:
    """Make the ASGI application of a service; key: that all routes but /health ask for."""
    version = importlib.metadata.version("hs2jax")
    app = FastAPI(title="hs2jax", version=version, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, service=service, key=key)
    model = {"model": service.name}

    def answered(found: list[dict], body: dict) -> StrictResponse:
        """Answer scores; where no item has one, with the first one's error and status."""
        failed = [each["error"] for each in found if "error" in each]
        if failed and len(failed) == len(found):
            return StrictResponse({"error": failed[0]} | body, failed[0]["code"])
        return StrictResponse(body)

    def one_reward() -> None:
        if service.scorer.rewarded:
            return
        names = ", ".join(service.scorer.outputs)
        what = f"the model has the outputs {names} and no weights that make them one reward: start "
        raise HTTPException(400, f"{what}it with --weights=NAME=NUMBER,...")

    @app.head("/health", include_in_schema=False)
    @app.get("/health", responses={503: {}})
    async def health():
        """Tell whether requests are taken: 200, or 503."""
        status = "ready" if service.ready else "stopping" if service.stopping else "starting"
        return StrictResponse({"status": status} | model, 200 if service.ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse, responses={401: {}})
    async def metrics():
        """Tell counts and times, as Prometheus reads them."""
        content = prometheus.generate_latest(service.registry)
        return PlainTextResponse(content, media_type=prometheus.CONTENT_TYPE_LATEST)

    @app.post("/score", responses=requests.ERRORS)
    async def score(body: requests.ScoreRequest, request: Request):
        """Score conversations, in their order."""
        options = {"truncate": body.truncate}
        found = await service.score(request, body.conversations, "conversations", **options)
        return answered(found, model | {"scores": found})

    @app.post("/rank", responses=requests.ERRORS)
    async def rank(body: requests.RankRequest, request: Request):
        """Rank responses to a prompt, the best first, each with its index in the request."""
        one_reward()
        options = {"truncate": body.truncate}
        found = await service.score(request, body.conversations(), "responses", **options)
        best = sorted((x for x in found if "error" not in x), key=lambda x: -x["reward"])
        ranked = best[: body.top_n] + [x for x in found if "error" in x]
        return answered(found, model | {"results": ranked})

    def as_vllm(route: str, row: Callable[[dict], dict]) -> None:
        """Add a route of vLLM's; row: what it says of an item's outputs, {} where it has none."""

        @app.post(f"/{route}", responses=requests.ERRORS, name=route)
        async def scored(body: requests.VllmRequest, request: Request):
            """Score as vLLM's route of this name; its numbers are all outputs, as they are."""
            if body.model not in service.names:
                what = f"the model {body.model[:80]!r} is not served here: it is {service.name!r}"
                raise HTTPException(404, what)
            found = await service.score(request, body.items(), "input", **body.limits())
            errors = [{"error": each["error"]} if "error" in each else {} for each in found]
            data = [row(each.get("outputs", {})) for each in found]
            data = [{"index": i} | x | e for i, (x, e) in enumerate(zip(data, errors, strict=True))]
            tokens = sum(each.get("tokens", 0) for each in found)
            usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
            head = {"id": f"{route}-{uuid.uuid4().hex}", "object": "list"}
            head |= model | {"created": int(time.time())}
            return answered(found, head | {"data": data, "usage": usage})

    as_vllm("pooling", lambda x: {"object": "pooling", "data": [*x.values()]})
    as_vllm(
        "classify",
        lambda x: {
            "label": max(x, key=x.get, default=None),
            "probs": [*x.values()],
            "num_classes": len(x),
        },
    )

    @app.post("/get_reward", responses=requests.ERRORS)
    async def get_reward(body: requests.OpenRlhfRequest, request: Request):
        """Score as OpenRLHF's remote reward."""
        one_reward()
        found = await service.score(request, body.items(), "query", truncate=body.truncate)
        rewards = [x.get("reward") for x in found]
        logs = {n: [x.get("outputs", {}).get(n) for x in found] for n in service.scorer.outputs}
        errors = {x["index"]: x["error"] for x in found if "error" in x}
        body = {"rewards": rewards, "scores": rewards, "extra_logs": logs}
        return answered(found, body | ({"errors": errors} if errors else {}))

    # Errors have one form, without the request's own words at length.
    @app.exception_handler(HTTPException)
    async def http(request, error):
        if error.status_code == 404 and error.detail == "Not Found":
            error.detail = f"there is no such route; there are {', '.join(ROUTES)}"
        return refusal(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request, error):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][1:]))[:80] or "the body"
        return refusal(HTTPException(422, f"{place}: {first['msg'][:300]}"))

    @app.exception_handler(Exception)
    async def fault(request, error):
        return refusal(HTTPException(500, "a fault of the server; its log says more"))

    return app


# Running ------------------------------------------------------------------------------------------


class Server(uvicorn.Server):
    """Not ready from the signal on; what waits DRAIN_SECONDS later is told that the server ends.
    told: as `Service.run` calls it."""

    def __init__(self, app: FastAPI, service: Service, told: Callable[[], None] = lambda: None):
        quiet = {"log_level": "warning", "access_log": False, "server_header": False}
        ends = {"timeout_graceful_shutdown": STOP_SECONDS, "timeout_keep_alive": 60}
        super().__init__(uvicorn.Config(app, lifespan="off", **quiet, **ends))
        self.service, self.told = service, told

    async def startup(self, sockets=None) -> None:
        self.work = asyncio.create_task(self.service.run(self.told))
        await super().startup(sockets)

    async def shutdown(self, sockets=None) -> None:
        self.service.ready, self.service.stopping = False, True
        asyncio.get_running_loop().call_later(DRAIN_SECONDS, self.service.close)
        await super().shutdown(sockets)


def scorer_of(options):
    """Load what the flags name: a judge where there is a criterion, else a reward model."""
    mesh = sharding.make_mesh() if jax.device_count() > 1 else None
    if not options.criterion:
        weights = parse_weights(options.weights)
        try:
            return Rewards(RewardModel.load(options.model, mesh=mesh, weights=weights))
        except ValueError as error:
            judges = "; --criterion=SET/NAME serves it as a judge"
            raise ValueError(
                f"{error}{judges if 'no reward head' in str(error) else ''}"
            ) from error
    if options.weights:
        raise ValueError("--weights are of a reward model's outputs; a judge has --layer_weights")
    judge, preset = Judge.load(options.model, mesh=mesh), lager.PRESETS[options.preset]
    weights = options.layer_weights or None
    weights = weights and weights_file.load(weights, judge, preset)
    return Judgements(judge, criteria.find(options.criterion), preset, weights)


def serve(options) -> None:
    """Serve a model until a signal. Raises ValueError for a port that cannot be had, and what
    loading and compiling raise."""
    if options.max_queue < 1 or options.max_tokens < 0:
        raise ValueError("--max_queue is at least 1, and --max_tokens at least 0")
    key = options.api_key or os.environ.get(KEY, "")
    if not key.isascii() or key != "".join(key.split()):
        raise ValueError(f"the key (--api_key, {KEY}) has white space in it, or is no ASCII")
    listening = _listen(options.host, options.port)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # For one text threads are waste.
    limits = {"max_tokens": options.max_tokens, "max_queue": options.max_queue}
    service = Service(scorer_of(options), options.model, **limits)
    place, begun = f"http://{options.host}:{listening.getsockname()[1]}", time.monotonic()

    def told() -> None:
        server.should_exit |= service.error is not None
        if service.ready:
            count, seconds = len(service.programs), time.monotonic() - begun
            print(f"{place}: ready after {seconds:.0f} s, {count} programs", flush=True)

    if options.host not in LOOPBACK and not key:
        print(f"anyone who reaches {place} can ask: {KEY} sets a key", flush=True)
    for each in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal again at its end.
        signal.signal(each, lambda *_: os._exit(0))
    server = Server(application(service, key), service, told)
    server.run(sockets=[listening])
    if service.error:
        raise service.error


def _listen(host: str, port: int) -> socket.socket:
    """Take a port, not to listen yet: 0 is any that is free."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        raise ValueError(f"--host={host} --port={port}: {error}") from None
    return listening
