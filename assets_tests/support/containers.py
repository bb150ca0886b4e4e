"""A minimal container runtime on Linux namespaces, for machines without a container engine.

As in a real engine, each container has a root file system on top of its image's layer, and its own
processes, mounts, network interface, host name, user and environment. All containers of an engine
are on one bridge and end with the engine.
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

from container_root import PATH, ContainerSpec, create_base_system, root_script
from required_tools import require_tools

_SUBNET = "10.77.0"
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")
_CLONE_NEWNET = 0x40000000


class Container:
    """A started container.

    `pid` is the host's id of its first process; 0 if that process has exited already.
    """

    def __init__(self, spec: ContainerSpec, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.spec, self.log, self._process = spec, log, process
        self.pid = _only_child(_only_child(process.pid))

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout: float) -> int:
        """The exit code, non-zero if a signal ended it. Raises `TimeoutExpired`."""
        return self._process.wait(timeout)

    def stop(self) -> int:
        """Send its stop signal, wait for its grace period, then SIGKILL; the exit code."""
        if self.is_running:
            self._signal(self.spec.stop_signal)
        try:
            return self.wait(self.spec.grace_seconds)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """Send SIGKILL to the first process, which ends all others; the exit code."""
        if self.is_running:
            self._signal(signal.SIGKILL)
        return self.wait(60)

    def exec(self, *command: str, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a command in the container as its user. Raises `TimeoutExpired`."""
        return subprocess.run(
            ["nsenter", "--target", str(self.pid), *_NAMESPACES, *self.spec.exec_command(command)],
            env=PATH, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout, check=False, errors="replace",
        )  # fmt: skip

    def processes(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self.pid) if self.pid else None
            return [first, *first.children(recursive=True)] if first else []
        except psutil.NoSuchProcess:
            return []

    def log_tail(self, max_chars: int = 3_000) -> str:
        return self.log.read_text(errors="replace")[-max_chars:]

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has exited and is about to be reaped
            if self.pid:
                os.kill(self.pid, number)


class Engine:
    """Runs containers that reach each other by name. At the end of its context nothing is left.

    `names` are the host names on its network; containers without a host name may be run, too.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        _require_namespaces()
        self.folder = folder
        self._base = folder / "base"
        self._addresses = {name: f"{_SUBNET}.{octet}" for octet, name in enumerate(names, 10)}
        self._serial = count(1)
        self._processes: list[subprocess.Popen[bytes]] = []
        create_base_system(self._base, self._addresses)

    def __enter__(self) -> "Engine":
        script = f"""
            mount -t proc proc /proc
            ip link set lo up
            ip link add br0 type bridge
            ip addr add {_SUBNET}.1/24 dev br0
            ip link set br0 up
            echo >&0
            exec sleep infinity"""
        options = ("--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork")
        log = self.folder / "engine.log"
        process = self._start_process(
            ("setpriv", *options, "--kill-child", "sh", "-ec"), script, log
        )
        self.pid = _only_child(process.pid)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.kill(
            self.pid, signal.SIGKILL
        )  # the init process of the namespace: all others end with it
        for process in self._processes:
            process.wait(60)

    def address(self, name: str) -> str:
        return self._addresses[name]

    def run(self, spec: ContainerSpec) -> Container:
        """Start a container; returns when its command has started. Raises `AssertionError`."""
        serial = next(self._serial)
        address = self._addresses.get(spec.name, f"{_SUBNET}.{100 + serial}")
        last_octet = int(address.rpartition(".")[2])
        folder = self.folder / "rooms" / f"{spec.name}-{serial}"
        folder.mkdir(parents=True)
        script = f"""
            ip link add eth0 address 02:42:0a:4d:00:{last_octet:02x} type veth \
                peer v{serial} netns 1
            ip link set lo up
            ip addr add {address}/24 dev eth0
            ip link set eth0 up
            nsenter --target 1 --net ip link set v{serial} master br0 up
            exec unshare --mount --pid --uts --ipc --fork --kill-child sh -ec {
            shlex.quote(root_script(spec, folder, self._base))
        }"""
        command = ("nsenter", "--target", str(self.pid), "--net", "--mount", "--pid")
        log = self.folder / f"{spec.name}.log"
        process = self._start_process((*command, "unshare", "--net", "sh", "-ec"), script, log)
        return Container(spec, process, log)

    @contextmanager
    def network(self) -> Iterator[None]:
        """Move this thread into the engine's network namespace until the end of the block."""
        libc = ctypes.CDLL(None, use_errno=True)
        engine_path = f"/proc/{self.pid}/ns/net"
        with open("/proc/thread-self/ns/net") as own_namespace, open(engine_path) as namespace:
            try:
                assert libc.setns(namespace.fileno(), _CLONE_NEWNET) == 0
                yield
            finally:
                assert libc.setns(own_namespace.fileno(), _CLONE_NEWNET) == 0

    def _start_process(
        self, command: Sequence[str], script: str, log: Path
    ) -> "subprocess.Popen[bytes]":
        """Start a process with this script; returns once the script has written to its stdin."""
        read_fd, write_fd = os.pipe()
        with log.open("ab") as output, open(read_fd, "rb") as ready:
            process = subprocess.Popen(
                [*command, script],
                env=PATH, stdin=write_fd, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            os.close(write_fd)
            self._processes.append(process)
            assert ready.read(1), log.read_text(errors="replace")[-3_000:]
        return process


def _only_child(pid: int) -> int:
    """The pid of the only child of a process; 0 if the process has exited."""
    deadline = time.monotonic() + 60
    with suppress(psutil.NoSuchProcess):
        while pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            if children := psutil.Process(pid).children():
                return int(children[0].pid)
            assert time.monotonic() < deadline
            time.sleep(0.01)
    return 0


def _require_namespaces() -> None:
    require_tools("ip", "nsenter", "setpriv", "unshare")
    result = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        pytest.skip(
            f"not run: namespaces are not available ({result.stderr.strip()}); run it as root"
        )
