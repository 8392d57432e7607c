"""A pod is created with its chip's image, works on all hosts or on none, and is gone when it should
be."""

import importlib.util
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

FILE = Path(__file__).parent.parent / "experiments" / "launch" / "pod.py"
spec = importlib.util.spec_from_file_location("pod", FILE)
pod = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pod)


class Cloud:
    """A cloud with one request: what it answers, and hosts that are folders of this machine."""

    def __init__(self, folder: Path):
        self.folder, self.calls, self.request, self.nodes = folder, [], None, []
        self.states = []  # That the next descriptions tell, before those of `request`.
        self.broken: dict[str, str] = {}  # Calls with this in them, and what they say.

    def make(self, accelerator="v6e-8", image="v2-alpha-tpuv6e", slices=1, hosts=2, come=None):
        node = {"node": {"acceleratorType": accelerator}}
        several = {"multisliceParams": {"nodeCount": slices}} if slices > 1 else {}
        self.request = {"state": {"state": "ACTIVE"}, "tpu": {"nodeSpec": [node | several]}}
        for i in range(slices if come is None else come):
            node = {"name": f"projects/p/nodes/n-{i}", "state": "READY", "runtimeVersion": image}
            node |= {"acceleratorType": accelerator, "networkEndpoints": [{}] * hosts}
            self.nodes.append(node | {"queuedResource": "projects/p/queuedResources/pod"})
        self.nodes.append({"name": "projects/p/nodes/other", "state": "READY"})

    def home(self, node: str, worker: str) -> Path:
        place = self.folder / f"{node}.{worker}"
        place.mkdir(exist_ok=True)
        return place

    def __call__(self, *words, seconds):
        words = [x for x in words[2:] if not x.startswith(("--zone", "--project"))]
        self.calls.append(" ".join(words))
        for part, said in self.broken.items():
            if part in self.calls[-1]:
                if isinstance(said, BaseException):
                    raise said
                raise pod.FailedError(said)
        match words:
            case ["queued-resources", "describe", *_]:
                if self.states and self.request:
                    self.request["state"]["state"] = self.states.pop(0)
                if not self.request or self.request["state"]["state"] == "NONE":
                    self.request = None
                    raise pod.FailedError("ERROR: NOT_FOUND: no such resource")
                return json.dumps(self.request)
            case ["queued-resources", "create", *_]:
                self.make()
            case ["queued-resources", "delete", *_]:
                self.request["state"]["state"], self.states = "DELETING", ["DELETING", "NONE"]
            case ["tpu-vm", "list", *_]:
                return json.dumps(self.nodes)
            case ["tpu-vm", "scp", file, place, worker]:
                node, _, name = place.partition(":")
                (self.home(node, worker[-1]) / name).write_bytes(Path(file).read_bytes())
            case ["tpu-vm", "ssh", node, worker, command]:
                home = self.home(node, worker[-1])
                env = {**os.environ, "HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}
                code = command.removeprefix("--command=")
                done = subprocess.run(
                    ["bash", "-c", code], cwd=home, env=env, capture_output=True, text=True
                )
                if done.returncode:
                    raise pod.FailedError(done.stderr.strip())
                return done.stdout
        return ""

    def ready(self, *names: str) -> None:
        """Install on all hosts a command hs2jax that does what the file `does` of a host says."""
        for node in self.nodes[:-1]:
            for i in range(len(node["networkEndpoints"])):
                home = self.home(node["name"].rpartition("/")[2], str(i))
                command = home / "hs2jax" / ".venv" / "bin" / "hs2jax"
                command.parent.mkdir(parents=True)
                command.write_text('#!/bin/bash\necho "$@" > "$HOME/said"\nsource "$HOME/does"\n')
                command.chmod(0o755)
                (home / "does").write_text("echo done\n")


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    made = Cloud(tmp_path)
    monkeypatch.setattr(pod, "gcloud", made)
    monkeypatch.setattr(pod, "EVERY", 0.02)
    before = {each: signal.getsignal(each) for each in pod.SIGNALS}
    yield made
    for each, handler in before.items():
        signal.signal(each, handler)


def call(verb, *words) -> int:
    flags, command = words, ()
    if "--" in words:
        flags, command = words[: words.index("--")], words[words.index("--") :]
    return pod.main([verb, "pod", "--zone=z", "--project=p", *flags, *command])


CREATE = "queued-resources create"
DELETE = "queued-resources delete"


@pytest.mark.parametrize(
    ("accelerator", "image"),
    [
        ("v6e-64", "v2-alpha-tpuv6e"),
        ("v5p-128", "v2-alpha-tpuv5"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v4-32", "tpu-ubuntu2204-base"),
    ],
)
def test_the_image_follows_from_the_chip(accelerator, image, cloud):
    cloud.states = ["CREATING", "WAITING_FOR_RESOURCES", "ACTIVE"]
    assert call("create", f"--accelerator={accelerator}", "--spot") == 0
    (made,) = (x for x in cloud.calls if CREATE in x)
    assert f"--accelerator-type={accelerator} --runtime-version={image} --spot" in made
    assert "--node-id=pod" in made
    with pytest.raises(SystemExit):
        call("create", f"--accelerator={accelerator}", "--image=tpu-ubuntu2204-base")


@pytest.mark.parametrize("accelerator", ["v5e-16", "v6e", "H200-8", "v6-8"])
def test_an_unknown_chip_is_refused(accelerator, cloud, capsys):
    assert call("create", f"--accelerator={accelerator}") == 1
    assert "v6e-N, v5p-N, v5litepod-N, v4-N" in capsys.readouterr().err
    assert not cloud.calls


def test_slices_are_asked_for_together(cloud):
    assert call("create", "--accelerator=v6e-8", "--slices=3") == 0
    assert any("--node-count=3 --node-prefix=pod" in x for x in cloud.calls)


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED", "SUSPENDING", "DELETING"])
def test_what_gives_nothing_any_more_is_deleted_first(state, cloud):
    cloud.make()
    cloud.request["state"]["state"] = state
    cloud.states = ["DELETING", "DELETING", "NONE"] if state == "DELETING" else []
    assert call("create", "--accelerator=v6e-8") == 0
    verbs = [x for x in cloud.calls if DELETE in x or CREATE in x]
    assert [DELETE in x for x in verbs] == ([False] if state == "DELETING" else [True, False])
    assert cloud.request["state"]["state"] == "ACTIVE"


def test_one_that_is_there_is_waited_for_and_another_is_refused(cloud, capsys):
    cloud.make()
    cloud.states = ["PROVISIONING", "PROVISIONING", "ACTIVE"]
    assert call("create", "--accelerator=v6e-8") == 0
    assert call("create", "--accelerator=v6e-16") == 1
    assert "is v6e-8" in capsys.readouterr().err
    assert not any(CREATE in x or DELETE in x for x in cloud.calls)


@pytest.mark.parametrize("where", ["create", "describe", "fails", "no room"])
def test_an_interrupted_creation_leaves_no_request(where, cloud, monkeypatch):
    """By a signal while it is asked for or waited for, and where it fails by itself."""
    if where == "create":
        real = cloud.__call__

        def stopped(*words, seconds):
            found = real(*words, seconds=seconds)
            if "create" in words:
                pod.interrupt(signal.SIGTERM, None)
            return found

        monkeypatch.setattr(pod, "gcloud", stopped)
    elif where == "describe":
        cloud.states = ["WAITING_FOR_RESOURCES"] * 9
        naps = iter([0, 1])  # The second time a signal comes.
        monkeypatch.setattr(pod.time, "sleep", lambda _: next(naps, 0) and pod.interrupt(15, None))
    elif where == "fails":
        cloud.states = ["PROVISIONING", "FAILED"]
    else:
        cloud.broken[CREATE] = "RESOURCE_EXHAUSTED: no quota"
    code = call("create", "--accelerator=v6e-8")
    assert code == (130 if where in ("create", "describe") else 1)
    assert cloud.request is None
    assert any(DELETE in x for x in cloud.calls) == (where != "no room")


def test_a_request_may_be_left_in_the_queue(cloud):
    assert call("create", "--accelerator=v6e-8", "--no-wait") == 0
    assert not any(DELETE in x for x in cloud.calls)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({"image": "tpu-ubuntu2204-base"}, "with which JAX finds no TPU; it needs v2-alpha-tpuv6e"),
        ({"slices": 3, "come": 2}, "2 of 3 slices are ready (n-0 READY, n-1 READY)"),
    ],
)
def test_nothing_runs_on_a_pod_that_is_not_as_it_should_be(made, told, cloud, capsys):
    cloud.make(**made)
    for verb in (("setup",), ("run", "--", "true"), ("watch",)):
        assert call(*verb) == 1
        assert told in capsys.readouterr().err
    assert not any("ssh" in x for x in cloud.calls)
    cloud.request = None
    assert call("setup") == 1
    assert "pod is NONE" in capsys.readouterr().err


def test_all_hosts_get_the_project_and_a_command(cloud, capsys, monkeypatch):
    cloud.make(slices=2)
    monkeypatch.setattr(pod, "INSTALL", pod.INSTALL.partition("export PATH")[0] + "ls hs2jax\n")
    assert call("setup") == 0
    assert "4 hosts: " in capsys.readouterr().out
    assert call("on", "--", "pwd; ls hs2jax/setup.py") == 0
    said = capsys.readouterr().out
    assert [f"host {i} of n-{n}" in said for n in (0, 1) for i in (0, 1)] == [True] * 4
    assert said.count("hs2jax/setup.py") == 4
    assert call("on", "--", "touch", "two words") == 0
    assert (cloud.home("n-1", "1") / "two words").exists()
    assert call("setup", "--source=/none") == 1


def test_a_command_runs_on_all_hosts_until_it_ends(cloud, capsys):
    cloud.make()
    cloud.ready()
    words = ("hs2jax", "train", "--config=own_data", "--config.data.train=it's")
    assert call("run", "--", *words) == 0
    assert call("watch") == 0
    assert "done" in capsys.readouterr().out
    for i in "01":
        assert (
            cloud.home("n-0", i) / "said"
        ).read_text() == f"{' '.join(words[1:])} --distributed\n"


@pytest.mark.parametrize("at", ["hs2jax.venv/none", "setsid"])
def test_a_host_that_fails_keeps_all_from_starting(at, cloud, capsys):
    """Before anything is started, and when it is: then what has begun is stopped."""
    cloud.make(hosts=4)
    cloud.ready()
    if at == "setsid":
        cloud.broken["--worker=2 --command=set -e"] = "connection refused"
    else:
        (cloud.home("n-0", "2") / "hs2jax" / ".venv" / "bin" / "hs2jax").unlink()
    for i in "0123":
        (cloud.home("n-0", i) / "does").write_text("exec sleep 60\n")
    assert call("run", "--", "hs2jax", "train") == 1
    said = capsys.readouterr().err
    assert "host 2 of n-0: " in said
    assert not any(f"host {i} " in said for i in (0, 1, 3))
    for i in "0123":
        home = cloud.home("n-0", i) / "hs2jax"
        assert (at == "setsid" and i != "2") == (home / "launch.pid").exists()
        if (home / "launch.pid").exists():
            assert ended(home) == "143\n"


def ended(home) -> str:
    """The exit code that a host's command leaves, once it has."""
    for _ in range(3000):
        if (home / "launch.code").exists() and (home / "launch.code").read_text():
            break
        pod.time.sleep(0.02)
    return (home / "launch.code").read_text()


@pytest.mark.parametrize(
    ("does", "code", "told"),
    [
        ("echo no such file; exit 3", 1, "host 1 of n-0: exit code 3: no such file"),
        ("echo saved; exit 75", 75, "host 1 of n-0: exit code 75: saved"),
        ("kill -9 $PPID; sleep 0.1", 1, "host 1 of n-0: its processes are gone"),
    ],
)
def test_the_end_on_one_host_is_the_end_and_names_it(does, code, told, cloud, capsys):
    cloud.make()
    cloud.ready()
    (cloud.home("n-0", "0") / "does").write_text(
        "trap 'exit 75' TERM; while :; do sleep 0.02; done"
    )
    (cloud.home("n-0", "1") / "does").write_text(does)
    assert call("run", "--", "hs2jax", "train") == 0
    assert call("run", "--", "hs2jax", "train") == 1
    assert "host 0 of n-0: a command is running; stop ends it" in capsys.readouterr().err
    assert call("watch") == code
    assert told in capsys.readouterr().err
    assert ended(cloud.home("n-0", "0") / "hs2jax") == "75\n"


def test_a_preempted_pod_is_told(cloud, capsys):
    cloud.make()
    cloud.broken["ssh"] = "no route to host"
    cloud.states = ["ACTIVE", "SUSPENDED"]
    for _ in range(2):  # While it is watched, and before.
        assert call("watch") == 75
        assert "pod is SUSPENDED: create, setup and run go on" in capsys.readouterr().err
    cloud.request["state"]["state"], cloud.states = "ACTIVE", []
    assert call("watch") == 1
    assert "not reached 9 times: host 0 of n-0: no route" in capsys.readouterr().err


def test_stop_and_delete(cloud, capsys):
    cloud.make()
    cloud.ready()
    assert call("stop") == 0
    assert call("delete") == 0
    assert cloud.request is None
    assert call("delete") == 0
    assert "pod is gone" in capsys.readouterr().out


def test_gcloud_is_called_as_it_is(tmp_path, monkeypatch):
    """Its words, its errors, and that it ends with what it has started."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pod.FailedError, match="there is no gcloud"):
        pod.gcloud("x", seconds=1)
    command = tmp_path / "gcloud"
    command.write_text(
        '#!/bin/bash\n[ "$1" = say ] && echo "$*" && exit\n'
        '[ "$1" = fail ] && echo bad >&2 && exit 3\n/bin/sleep 60\n'
    )
    command.chmod(0o755)
    assert pod.gcloud("say", "a b", seconds=9) == "say a b --quiet\n"
    with pytest.raises(pod.FailedError, match="bad"):
        pod.gcloud("fail", seconds=9)
    with pytest.raises(pod.FailedError, match="no answer within"):
        pod.gcloud("sleep", seconds=0.1)
    assert not pod._running
