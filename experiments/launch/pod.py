"""A TPU pod from its creation to its deletion, with gcloud and nothing else.

    pod.py create NAME --accelerator=v6e-64 [--slices=2] [--spot] [--no-wait]
    pod.py setup NAME [--source=FOLDER]    this project, uv, Python 3.12, hs2jax[tpu,gs]
    pod.py on NAME -- COMMAND              on all hosts
    pod.py run NAME -- hs2jax train --config=NAME --workdir=FOLDER
    pod.py watch NAME                      until it ends, with its exit code
    pod.py stop NAME                       what runs saves, and ends
    pod.py delete NAME

All take --zone and --project; without them gcloud's own settings hold. What fails on one host fails
as a whole, and names the host. Exit codes: 0 done, 1 failed, 75 preempted or stopped: create, setup
and run again, as they were, and the run goes on.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

# The runtime image of each chip, by the beginning of the accelerator's name: with another one JAX
# finds no TPU. https://cloud.google.com/tpu/docs/runtimes
IMAGES = {
    "v6e": "v2-alpha-tpuv6e",
    "v5p": "v2-alpha-tpuv5",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v4": "tpu-ubuntu2204-base",
}
GONE = ("SUSPENDED", "SUSPENDING", "FAILED")  # Requests that give nothing any more.
AGAIN = 75
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EVERY = 20.0  # Seconds between two looks.

# On a host, from its home folder.
INSTALL = """set -e
mkdir -p hs2jax && rm -rf hs2jax/hs2jax hs2jax/configs
tar -xzf hs2jax.tar.gz -C hs2jax && rm hs2jax.tar.gz
export PATH=$HOME/.local/bin:$PATH
command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh > /dev/null
cd hs2jax
test -x .venv/bin/python || uv venv --quiet --python 3.12 .venv
uv pip install --quiet --python .venv/bin/python -e '.[tpu,gs]'
.venv/bin/hs2jax --version
"""
IS_RUNNING = (
    '[ ! -s launch.code ] && kill -0 -- "-$(cat launch.pid 2> /dev/null || echo none)" 2> /dev/null'
)
PROBE = f"""
if ! cd hs2jax 2> /dev/null || ! test -x .venv/bin/hs2jax; then echo 'setup first' >&2; exit 1; fi
if {IS_RUNNING}; then echo 'a command is running; stop ends it' >&2; exit 1; fi
"""
# The shell outlives a signal to its group, to say how the command has ended; it can be stopped once
# launch.pid is there.
START = """set -e
cd hs2jax
export PATH=$PWD/.venv/bin:$PATH
rm -f launch.code launch.pid
setsid nohup bash -c 'trap : TERM; echo $$ > launch.pid
{command}; echo $? > launch.code' > launch.log 2>&1 < /dev/null &
until [ -s launch.pid ] || ! kill -0 $! 2> /dev/null; do sleep 0.02; done
"""
STATUS = f"""cd hs2jax
if {IS_RUNNING}; then echo running; else cat launch.code 2> /dev/null || echo lost; fi
tail -n 5 launch.log
"""
STOP = 'cd hs2jax && kill -TERM -- "-$(cat launch.pid)" 2> /dev/null || true'


class FailedError(Exception):
    """Says what went wrong."""


class Host(NamedTuple):
    node: str
    worker: int

    def __str__(self) -> str:
        return f"host {self.worker} of {self.node}"


class Pod(NamedTuple):
    name: str
    place: tuple[str, ...]  # --zone and --project, where they are given.

    def call(self, *words: str, seconds: float = 600.0) -> str:
        return gcloud("compute", "tpus", *words, *self.place, seconds=seconds)

    def request(self) -> dict | None:
        """Describe the request; None where there is none."""
        try:
            return json.loads(self.call("queued-resources", "describe", self.name, "--format=json"))
        except FailedError as error:
            if "NOT_FOUND" in str(error) or "not found" in str(error):
                return None
            raise

    def state(self) -> str:
        found = self.request()
        return found["state"]["state"] if found else "NONE"

    def hosts(self) -> list[Host]:
        """Find all hosts. Raises FailedError where one is missing, or has another chip's image."""
        found = self.request()
        if not found or found["state"]["state"] != "ACTIVE":
            raise FailedError(f"{self.name} is {self.state()}; create waits until it is ACTIVE")
        specs = found["tpu"]["nodeSpec"]
        several = [x.get("multisliceParams") or x.get("multiNodeParams") or {} for x in specs]
        promised = sum(int(x.get("nodeCount", 1)) for x in several)
        every = json.loads(self.call("tpu-vm", "list", "--format=json"))
        mine = f"/queuedResources/{self.name}"
        nodes = [x for x in every if x.get("queuedResource", "").endswith(mine)]
        ready = [x for x in nodes if x["state"] == "READY"]
        if len(ready) < promised:
            there = ", ".join(f"{Path(x['name']).name} {x['state']}" for x in nodes) or "none"
            raise FailedError(f"{len(ready)} of {promised} slices are ready ({there})")
        for x in ready:
            if (image := image_of(x["acceleratorType"])) != x["runtimeVersion"]:
                raise FailedError(
                    f"{Path(x['name']).name} is {x['acceleratorType']} with the image "
                    f"{x['runtimeVersion']}, with which JAX finds no TPU; it needs {image}: delete "
                    "it, and create it anew"
                )
        ready.sort(key=lambda x: x["name"])
        return [
            Host(Path(x["name"]).name, i) for x in ready for i in range(len(x["networkEndpoints"]))
        ]


def image_of(accelerator: str) -> str:
    """Name the image of an accelerator such as v6e-64. Raises FailedError for others."""
    chip, _, size = accelerator.partition("-")
    if chip not in IMAGES or not size.isdecimal():
        known = ", ".join(f"{chip}-N" for chip in IMAGES)
        raise FailedError(f"{accelerator!r} is none of {known} (v5e is v5litepod to gcloud)")
    return IMAGES[chip]


# gcloud -------------------------------------------------------------------------------------------

_running: set[subprocess.Popen] = set()


def gcloud(*words: str, seconds: float) -> str:
    """Return what a command prints. Raises FailedError with the end of what it said."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    streams |= {"text": True, "start_new_session": True}  # A Ctrl-C is answered here.
    try:
        process = subprocess.Popen(["gcloud", *words, "--quiet"], **streams)
    except FileNotFoundError:
        raise FailedError("there is no gcloud here: https://cloud.google.com/sdk") from None
    _running.add(process)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise FailedError(f"no answer within {seconds:.0f} s") from None
    finally:
        _kill(process)
        process.wait()
        _running.discard(process)
    if process.returncode:
        said = "\n".join((err or out).strip().splitlines()[-5:])
        raise FailedError(said or f"exit code {process.returncode}")
    return out


def _kill(process: subprocess.Popen) -> None:
    """End what has not ended, with the ssh that it has started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def interrupt(number: int, frame) -> None:
    """Answer a signal: what was called ends, and the main thread cleans up."""
    for process in [*_running]:
        _kill(process)
    raise KeyboardInterrupt


def everywhere(pod: Pod, hosts: Sequence[Host], command: str, seconds: float = 120) -> list[str]:
    """Run a command on all hosts at once; returns what each printed. Raises FailedError that names
    each host on which it failed."""
    words = {x: ("ssh", x.node, f"--worker={x.worker}", f"--command={command}") for x in hosts}
    return _at_once(pod, words, seconds)


def _at_once(pod: Pod, words: dict[Host, Sequence[str]], seconds: float) -> list[str]:
    def one(host: Host) -> str | FailedError:
        try:
            return pod.call("tpu-vm", *words[host], seconds=seconds)
        except FailedError as error:
            return error

    with ThreadPoolExecutor(64) as pool:
        try:
            answers = [*pool.map(one, words)]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    both = zip(words, answers, strict=True)
    failed = [f"{host}: {answer}" for host, answer in both if isinstance(answer, FailedError)]
    if failed:
        raise FailedError("\n".join(failed))
    return answers


# Verbs --------------------------------------------------------------------------------------------


def create(pod: Pod, options) -> None:
    """Ask for a pod and wait for it; what is interrupted leaves no request behind."""
    image, state = image_of(options.accelerator), pod.state()
    if state in (*GONE, "DELETING"):
        print(f"{pod.name} is {state}: it is deleted first", flush=True)
        delete(pod, options)
    elif state != "NONE":
        asked = pod.request()["tpu"]["nodeSpec"][0]["node"]["acceleratorType"]
        if asked != options.accelerator:
            raise FailedError(f"{pod.name} is there already, and is {asked}; delete ends it")
        return None if options.no_wait else _await(pod, "ACTIVE")
    shape = (f"--node-count={options.slices}", f"--node-prefix={pod.name}")
    words = shape if options.slices > 1 else (f"--node-id={pod.name}",)
    words += (f"--accelerator-type={options.accelerator}", f"--runtime-version={image}")
    words += ("--spot",) * options.spot
    try:
        pod.call("queued-resources", "create", pod.name, "--async", *words)
        if not options.no_wait:
            _await(pod, "ACTIVE")
    except BaseException:
        _ignore_signals()
        print(f"{pod.name}: taking the request back", file=sys.stderr, flush=True)
        time.sleep(EVERY)  # Of a call that was cut off it may come late.
        delete(pod, options)
        raise


def _await(pod: Pod, wanted: str) -> None:
    before = ""
    while (state := pod.state()) != wanted:
        if state != before:
            print(f"{pod.name} is {state}", flush=True)
        if wanted == "ACTIVE" and state in (*GONE, "DELETING", "NONE"):
            said = (pod.request() or {}).get("state", {})
            raise FailedError(f"{pod.name} is {state}: {json.dumps(said)}")
        before = state
        time.sleep(EVERY)
    print(f"{pod.name} is {'gone' if wanted == 'NONE' else wanted}", flush=True)


def delete(pod: Pod, options) -> None:
    """Delete the request with its machines, and see that it is gone."""
    if pod.state() not in ("NONE", "DELETING"):
        pod.call("queued-resources", "delete", pod.name, "--force", "--async")
    _await(pod, "NONE")


def setup(pod: Pod, options) -> None:
    """Put what is committed in a checkout of this project on all hosts, and install it."""
    hosts = pod.hosts()
    everywhere(pod, hosts[:1], "true")  # Alone: with its first call gcloud makes a key.
    with tempfile.TemporaryDirectory() as folder:
        archive = str(Path(folder) / "hs2jax.tar.gz")
        pack = ["git", "-C", options.source, "archive", "--format=tar.gz", f"--output={archive}"]
        packed = subprocess.run([*pack, "HEAD"], capture_output=True, text=True)
        if packed.returncode:
            raise FailedError(f"--source={options.source}: {packed.stderr.strip()}")
        to = Path(archive).name
        words = {x: ("scp", archive, f"{x.node}:{to}", f"--worker={x.worker}") for x in hosts}
        _at_once(pod, words, 600)
    versions = everywhere(pod, hosts, INSTALL, 1800)
    print(f"{len(hosts)} hosts: {', '.join(sorted({x.strip() for x in versions}))}")


def on(pod: Pod, options) -> None:
    """Run a command on all hosts and print what each says."""
    hosts, words = pod.hosts(), options.command
    command = words[0] if len(words) == 1 else shlex.join(words)
    for host, said in zip(hosts, everywhere(pod, hosts, command, 1800), strict=True):
        print(f"== {host}\n{said}", end="")


def run(pod: Pod, options) -> None:
    """Start a command on all hosts, or on none."""
    hosts, command = pod.hosts(), [*options.command]
    if len(hosts) > 1 and "hs2jax" in command and "--distributed" not in command:
        command.append("--distributed")
    everywhere(pod, hosts, PROBE)
    quoted = shlex.join(command).replace("'", "'\\''")
    try:
        everywhere(pod, hosts, START.format(command=quoted))
    except BaseException:
        _ignore_signals()
        _stop(pod, hosts)
        raise
    print(f"started on {len(hosts)} hosts: {shlex.join(command)}; watch tells how it goes")


def watch(pod: Pod, options) -> int:
    """Say how the command goes until it ends, on all hosts or on the first on which it failed;
    returns its exit code."""
    hosts, before, unreached = (), "", 0
    while True:
        try:
            hosts = hosts or pod.hosts()
            found, unreached = everywhere(pod, hosts, STATUS), 0
        except FailedError as error:
            if _is_gone(pod):
                return AGAIN
            unreached += 1
            if not hosts or unreached == 9:
                raise FailedError(f"not reached {unreached} times: {error}") from None
            time.sleep(EVERY)
            continue
        states, logs = zip(*(each.partition("\n")[::2] for each in found), strict=True)
        if logs[0] != before:
            print(logs[0], end="", flush=True)
            before = logs[0]
        if {*states} == {"0"}:
            return 0
        ended = [i for i, state in enumerate(states) if state not in ("running", "0")]
        if ended:
            time.sleep(EVERY)  # The others end with it, by themselves; what does not is stopped.
            _stop(pod, hosts)
            for i in ended:
                what = "its processes are gone" if states[i] == "lost" else f"exit code {states[i]}"
                last = logs[i].strip().splitlines()[-1:]
                print(f"{hosts[i]}: {what}: {''.join(last)}", file=sys.stderr)
            again = {states[i] for i in ended} == {str(AGAIN)} or _is_gone(pod)
            return AGAIN if again else 1
        time.sleep(EVERY)


def _is_gone(pod: Pod) -> bool:
    """Tell, and say, whether a pod was taken back."""
    if (state := pod.state()) in GONE:
        print(f"{pod.name} is {state}: create, setup and run go on", file=sys.stderr)
    return state in GONE


def stop(pod: Pod, options) -> None:
    """Let what runs save, and end."""
    everywhere(pod, pod.hosts(), STOP)


def _stop(pod: Pod, hosts: Sequence[Host]) -> None:
    try:
        everywhere(pod, hosts, STOP)
    except FailedError as error:
        print(f"may still run: {error}", file=sys.stderr)


def _ignore_signals() -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)


def main(words: Sequence[str]) -> int:
    usage = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="pod.py", **usage)
    verbs = parser.add_subparsers(required=True)
    for verb in (create, setup, on, run, watch, stop, delete):
        one = verbs.add_parser(verb.__name__, help=verb.__doc__)
        one.set_defaults(verb=verb)
        one.add_argument("name")
        one.add_argument("--zone")
        one.add_argument("--project")
        if verb is create:
            one.add_argument("--accelerator", required=True, help="Chip and size, as v6e-64.")
            one.add_argument("--slices", type=int, default=1)
            one.add_argument("--spot", action="store_true", help="May be preempted.")
            one.add_argument("--no-wait", action="store_true", help="Leave it in the queue.")
        if verb is setup:
            one.add_argument("--source", default=str(Path(__file__).parents[2]))
        if verb in (on, run):
            one.add_argument("command", nargs="+")
    options = parser.parse_args(words)
    place = (options.zone and f"--zone={options.zone}",)
    place += (options.project and f"--project={options.project}",)
    for each in SIGNALS:
        signal.signal(each, interrupt)
    try:
        return options.verb(Pod(options.name, tuple(filter(None, place))), options) or 0
    except FailedError as error:
        print(f"pod.py {options.verb.__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"pod.py {options.verb.__name__}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
