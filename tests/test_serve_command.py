"""The command that serves: its end, what it says of what is wrong, and clients that outlive it."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import command
import httpx
import pytest
import serving
import tiny

from hs2jax.alignment import server


def start(folder, port, said) -> tuple[subprocess.Popen, str]:
    """Start the command, wait until it is ready, and give its address."""
    command = [sys.executable, "-m", "hs2jax.cli", "serve", f"--model={folder}", f"--port={port}"]
    environment = os.environ | {"XLA_FLAGS": ""}
    with said.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    serving.soon(lambda: "ready" in said.read_text() or process.poll() is not None, 120)
    assert "ready" in said.read_text(), said.read_text()
    return process, said.read_text().split(": ready")[0].splitlines()[-1]


def test_a_table_is_a_served_model_in_two_commands_and_its_clients_survive_a_kill_and_a_signal(
    tmp_path, monkeypatch
):
    tiny.language_model(tmp_path / "base", max_seq_len=256)
    lines = [f"Question {i}?,A good answer number {i}.,no {i}" for i in range(40)]
    (tmp_path / "pairs.csv").write_text("\n".join(["prompt,chosen,rejected", *lines]))
    given = [
        "--config=own_data",
        f"--data={tmp_path / 'pairs.csv'}",
        "--config.data.row_length=128",
    ]
    given += [f"--config.model.name={tmp_path / 'base'}", f"--workdir={tmp_path / 'run'}"]
    command.succeed("train", *given)
    (tmp_path / "run" / "model").rename(tmp_path / "model")
    talks = {"conversations": [tiny.talk(f"{i}?", "The waves. " * 40) for i in range(200)]}
    monkeypatch.setattr(server, "WAITS", (0.5,) * 120)
    first, url = start(tmp_path / "model", 0, tmp_path / "first")
    second = None
    try:
        with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=url, timeout=60) as idle:
            asked = pool.submit(server.ask, url, "score", talks)
            serving.soon(lambda: "hs2jax_queue_items 200" in idle.get("/metrics").text)
            first.kill()
            first.wait()
            second, _ = start(tmp_path / "model", url.rpartition(":")[2], tmp_path / "second")
            assert len(asked.result()["scores"]) == 200

            assert idle.get("/health").status_code == 200  # And its connection is kept.
            asked = pool.submit(httpx.post, f"{url}/score", json=talks, timeout=60)
            serving.soon(lambda: "hs2jax_queue_items 200" in idle.get("/metrics").text)
            second.terminate()
            # What ran is answered; what still waited after some seconds is told that it ends.
            assert "reward" in asked.result().json()["scores"][0]
            assert second.wait(60) == 0
            with pytest.raises(httpx.TransportError):
                idle.get("/health")
    finally:
        for each in filter(None, (first, second)):
            each.kill()
            each.wait()


def test_what_is_wrong_is_told_before_it_serves(tmp_path, monkeypatch):
    tiny.save(tmp_path / "model")
    tiny.language_model(tmp_path / "base")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = f"--port={taken.getsockname()[1]}"
        assert "in use" in command.fail("serve", f"--model={tmp_path / 'model'}", port)
    for model, flag, said in (
        ("model", "--port=70000", "port"),
        ("model", "--port=x", "port"),
        ("model", "--weights=humour=1", "humour"),
        ("base", "--port=0", "--criterion"),
        ("base", "--criterion=humour", "there is no criterion"),
        ("model", "--max_queue=0", "max_queue"),
    ):
        assert said in command.fail("serve", f"--model={tmp_path / model}", "--port=0", flag)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "hs2jax.serve.app", raising=False)
    monkeypatch.delattr("hs2jax.serve.app")
    said = command.fail("serve", f"--model={tmp_path / 'model'}")
    assert 'pip install "hs2jax[serve]"' in said
