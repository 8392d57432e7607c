"""A server on a tiny model, in a thread of this process."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import httpx

from hs2jax.serve.app import Server, application
from hs2jax.serve.scorers import Rewards
from hs2jax.serve.service import Service


class Running(NamedTuple):
    """A server that is ready, its service, its address and a client."""

    server: Server
    service: Service
    url: str
    client: httpx.Client

    def post(self, route: str, **body) -> httpx.Response:
        return self.client.post(route, json=body)

    def scores(self, conversations, **options) -> list[dict]:
        answer = self.post("/score", conversations=conversations, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()["scores"]

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(x.split()[-1]) for x in lines if x.split("{")[0].split(" ")[0] == name)


@contextlib.contextmanager
def running(scorer, *, key: str = "", **options) -> Iterator[Running]:
    """Serve by a scorer, or a reward model, for as long as the block lasts."""
    scorer = scorer if hasattr(scorer, "encode") and hasattr(scorer, "cuts") else Rewards(scorer)
    service = Service(scorer, "tiny", **options)
    server = Server(application(service, key), service)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            soon(lambda: service.ready or service.error, 120)
            assert service.ready, service.error
            yield Running(server, service, url, client)
    finally:
        server.should_exit = True
        thread.join(10)


def soon(what, seconds: float = 30.0) -> None:
    """See that something becomes true."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.01)
