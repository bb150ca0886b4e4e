"""A tiny container runtime of Linux namespaces, for machines without a container engine.

What an image and a service say is done as an engine does it: a root file system of the image's
layer, processes, mounts, network interface and host name of its own, the user it names and no
environment but its own. All containers of an engine are on one bridge, and end with it.
"""

import ctypes
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import TracebackType

import psutil
import pytest

from container_root import PATH, Wanted, bare_system, entering
from required_tools import require_tools

_SUBNET = "10.77.0"
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")
_CLONE_NEWNET = 0x40000000


class Container:
    """A container that was begun. `pid` is its first process's, as this machine counts; 0 where
    that ended at once."""

    def __init__(self, wanted: Wanted, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.wanted, self.log, self._process = wanted, log, process
        self.pid = _child_of(_child_of(process.pid))

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float) -> int:
        """Its exit code, not 0 where a signal ended it. Raises `TimeoutExpired`."""
        return self._process.wait(seconds)

    def stop(self) -> int:
        """As an engine does: its signal, its grace, then SIGKILL; the exit code."""
        if self.runs:
            self._signal(self.wanted.stop_signal)
        try:
            return self.wait(self.wanted.grace)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """SIGKILL to the first process, with which all others end."""
        if self.runs:
            self._signal(signal.SIGKILL)
        return self.wait(60)

    def exec(self, *words: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run these words in here, as its user. Raises `TimeoutExpired`."""
        return subprocess.run(
            ["nsenter", "--target", str(self.pid), *_NAMESPACES, *self.wanted.begun(words)],
            env=PATH, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=seconds, check=False, errors="replace",
        )  # fmt: skip

    def processes(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self.pid) if self.pid else None
            return [first, *first.children(recursive=True)] if first else []
        except psutil.NoSuchProcess:
            return []

    def said(self, last: int = 3_000) -> str:
        return self.log.read_text(errors="replace")[-last:]

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it ended by itself, and is about to be waited for
            if self.pid:
                os.kill(self.pid, number)


class Engine:
    """Runs containers that reach each other by name. A context: at its end nothing is left.

    `names` are the host names on its network; other containers may be run, too, unnamed.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        _check_allowed()
        self.folder = folder
        self._base = folder / "base"
        self._addresses = {name: f"{_SUBNET}.{n}" for n, name in enumerate(names, 10)}
        self._serial = count(1)
        self._processes: list[subprocess.Popen[bytes]] = []
        bare_system(self._base, self._addresses)

    def __enter__(self) -> "Engine":
        script = f"""
            mount -t proc proc /proc
            ip link set lo up
            ip link add br0 type bridge
            ip addr add {_SUBNET}.1/24 dev br0
            ip link set br0 up
            echo >&0
            exec sleep infinity"""
        begin = ("--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork")
        log = self.folder / "engine.log"
        process = self._begin(("setpriv", *begin, "--kill-child", "sh", "-ec"), script, log)
        self.pid = _child_of(process.pid)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.kill(self.pid, signal.SIGKILL)  # the first of its namespace: no other outlives it
        for process in self._processes:
            process.wait(60)

    def address(self, name: str) -> str:
        return self._addresses[name]

    def run(self, wanted: Wanted) -> Container:
        """Begin a container; returns when its words have begun. Raises `AssertionError`."""
        serial = next(self._serial)
        address = self._addresses.get(wanted.name, f"{_SUBNET}.{100 + serial}")
        last = int(address.rpartition(".")[2])
        room = self.folder / "rooms" / f"{wanted.name}-{serial}"
        room.mkdir(parents=True)
        script = f"""
            ip link add eth0 address 02:42:0a:4d:00:{last:02x} type veth peer v{serial} netns 1
            ip link set lo up
            ip addr add {address}/24 dev eth0
            ip link set eth0 up
            nsenter --target 1 --net ip link set v{serial} master br0 up
            exec unshare --mount --pid --uts --ipc --fork --kill-child sh -ec {
            shlex.quote(entering(wanted, room, self._base))
        }"""
        inside = ("nsenter", "--target", str(self.pid), "--net", "--mount", "--pid")
        log = self.folder / f"{wanted.name}.log"
        process = self._begin((*inside, "unshare", "--net", "sh", "-ec"), script, log)
        return Container(wanted, process, log)

    @contextmanager
    def network(self) -> Iterator[None]:
        """This thread sees the engine's network and no other, as its host does."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{self.pid}/ns/net") as its:
            try:
                assert libc.setns(its.fileno(), _CLONE_NEWNET) == 0
                yield
            finally:
                assert libc.setns(ours.fileno(), _CLONE_NEWNET) == 0

    def _begin(self, words: Sequence[str], script: str, log: Path) -> "subprocess.Popen[bytes]":
        """A process of this script, once it has written a line to its input."""
        reading, writing = os.pipe()
        with log.open("ab") as output, open(reading, "rb") as ready:
            process = subprocess.Popen(
                [*words, script],
                env=PATH, stdin=writing, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            os.close(writing)
            self._processes.append(process)
            assert ready.read(1), log.read_text(errors="replace")[-3_000:]
        return process


def _child_of(pid: int) -> int:
    """The only child of a process; 0, which is none, where it has ended."""
    until = time.monotonic() + 60
    with suppress(psutil.NoSuchProcess):
        while pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            if children := psutil.Process(pid).children():
                return int(children[0].pid)
            assert time.monotonic() < until
            time.sleep(0.01)
    return 0


def _check_allowed() -> None:
    require_tools("ip", "nsenter", "setpriv", "unshare")
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tried.returncode:
        pytest.skip(f"not run: no namespaces here ({tried.stderr.strip()}); run it as root")
