"""The process manager of `tidemill up`: supervisor, controlled through a UNIX socket."""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil

from tidemill.core.errors import PrerequisiteMissing, ServiceFailed
from tidemill.polling import wait_until
from tidemill.processes import stop_all
from tidemill.services import supervisor_config
from tidemill.services.services import PLATFORM_ENV, Service, code_socket, resolve_command
from tidemill.settings import Settings
from tidemill.textfile import atomic_write_text

_NAME = "supervisor"
"""The name of supervisord's files; its log is beside those of the services."""
_MAX_SOCKET_PATH_BYTES = 100
"""Limit of the operating system for the path of a socket, minus the suffix that supervisor adds."""
_TIMEOUT_SECONDS = 30.0
_RPC_TIMEOUT_SECONDS = 10.0
_LEFTOVER_TIMEOUT_SECONDS = 5.0
_EXIT_LOG_PATTERN = re.compile(r"exited: ([\w-]+) \((.*)\)$")


@dataclass(frozen=True)
class ServiceState:
    """A service as supervisor reports it: its state, its process if it has one, and the time of its
    last start in seconds since 1970."""

    status: str
    pid: int | None
    since: float


@dataclass(frozen=True)
class Supervisor:
    """The process manager of one folder, whether it is running or not."""

    folder: Path

    @classmethod
    def for_settings(cls, settings: Settings) -> "Supervisor":
        return cls(settings.up_data)

    @property
    def socket_file(self) -> Path:
        return self.folder / f"{_NAME}.sock"

    @property
    def _pid_file(self) -> Path:
        return self.folder / f"{_NAME}.pid"

    @property
    def _session_file(self) -> Path:
        """Process id and creation time of supervisord, the session leader of all services."""
        return self.folder / f"{_NAME}.json"

    @property
    def logs_folder(self) -> Path:
        return self.folder / "logs"

    def log_file(self, name: str) -> Path:
        return self.logs_folder / f"{name}.log"

    def is_running(self) -> bool:
        """Whether supervisord answers and is not shutting down."""
        try:
            return bool(self._rpc("getState")["statename"] == "RUNNING")
        except (OSError, Fault):
            return False

    def start(self, services: Sequence[Service], env: Mapping[str, str]) -> None:
        """Start supervisord without any service. Raises `PrerequisiteMissing`, `ServiceFailed`."""
        if len(bytes(self.socket_file)) > _MAX_SOCKET_PATH_BYTES:
            raise PrerequisiteMissing(
                f"The path {self.socket_file} is too long for a socket.",
                "Set TIDEMILL_HOME to a shorter path.",
            )
        self.logs_folder.mkdir(parents=True, exist_ok=True)
        self.log_file(_NAME).unlink(missing_ok=True)
        config_file = self.folder / "supervisord.conf"
        atomic_write_text(
            config_file,
            supervisor_config.render(services, self.socket_file, self._pid_file, self.logs_folder),
        )
        completed = subprocess.run(
            resolve_command(("supervisord", "-c", str(config_file))),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode or not wait_until(self.is_running, _TIMEOUT_SECONDS):
            output = (completed.stdout + completed.stderr).strip()[-2000:]
            raise ServiceFailed(
                f"The process manager did not start. {output}",
                f"See its log: {self.log_file(_NAME)}.",
            )
        pid = int(self._pid_file.read_text())
        session = [pid, psutil.Process(pid).create_time()]
        atomic_write_text(self._session_file, json.dumps(session))

    def start_service(self, name: str) -> None:
        """Start a service; a running service is left as it is."""
        with suppress(Fault):
            self._rpc("startProcess", name, False)

    def states(self) -> dict[str, ServiceState]:
        """The state of every service; empty if supervisord is not running."""
        try:
            processes = self._rpc("getAllProcessInfo")
        except (OSError, Fault):
            return {}
        return {
            process["name"]: ServiceState(
                process["statename"], process["pid"] or None, process["start"]
            )
            for process in processes
        }

    def unexpected_exits(self) -> dict[str, list[str]]:
        """The unexpected exits of each service since supervisord was started, from its log."""
        exits: dict[str, list[str]] = {}
        with suppress(FileNotFoundError):
            for line in self.log_file(_NAME).read_text(errors="replace").splitlines():
                if (match := _EXIT_LOG_PATTERN.search(line)) and "; expected" not in line:
                    exits.setdefault(match[1], []).append(match[2])
        return exits

    def stop(self, names: Sequence[str]) -> None:
        """Stop the services, all of `names` before the others, then supervisord itself."""
        with suppress(OSError, Fault):
            for name in names:
                with suppress(Fault):
                    self._rpc("stopProcess", name, False)
            wait_until(lambda: not self._pids(names), _TIMEOUT_SECONDS)
            self._rpc("shutdown")
        if (supervisord := self._process()) is not None:
            with suppress(psutil.Error):
                supervisord.wait(_TIMEOUT_SECONDS)

    def _pids(self, names: Sequence[str]) -> list[int]:
        """The processes of these services."""
        return [state.pid for name, state in self.states().items() if name in names and state.pid]

    def kill_leftovers(self) -> bool:
        """Stop the processes of earlier sessions, also if supervisord was killed.

        Returns whether there were any.
        """
        leftovers = self._leftovers()
        stop_all(leftovers, _LEFTOVER_TIMEOUT_SECONDS)
        for file in (self.socket_file, self._pid_file, self._session_file):
            file.unlink(missing_ok=True)
        code_socket(self.folder).unlink(missing_ok=True)
        return bool(leftovers)

    def _leftovers(self) -> list[psutil.Process]:
        """Processes of supervisord's session or with its folder in their environment, except this
        process and its ancestors."""
        own_process, session = psutil.Process(), self._session_id()
        family = {own_process.pid, *(parent.pid for parent in own_process.parents())}
        leftovers = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if process.pid not in family and (
                    os.getsid(process.pid) == session
                    # Some overwrite their environment with a title, but they keep the session.
                    or process.environ().get(PLATFORM_ENV) == str(self.folder)
                ):
                    leftovers.append(process)
        return leftovers

    def _session_id(self) -> int | None:
        """The session of supervisord, also after its end; None if the id was given to another
        process."""
        try:
            pid, created_at = json.loads(self._session_file.read_text())
            pid_reused = abs(psutil.Process(pid).create_time() - created_at) > 1
        except (FileNotFoundError, ValueError):
            return None
        except psutil.NoSuchProcess:
            return int(pid)
        return None if pid_reused else int(pid)

    def _process(self) -> psutil.Process | None:
        """The process of supervisord."""
        with suppress(psutil.Error):
            session_id = self._session_id()
            return psutil.Process(session_id) if session_id else None
        return None

    def _rpc(self, method: str, *arguments: Any) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.socket_file}")
        connection = transport._get_connection()
        connection.connect()
        connection.sock.settimeout(_RPC_TIMEOUT_SECONDS)  # a process stopped by SIGSTOP is silent
        transport._get_connection = lambda: connection
        with ServerProxy("http://127.0.0.1", transport, allow_none=True) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)
