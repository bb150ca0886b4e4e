"""The process manager of `tidemill up`: supervisor, asked over a socket file of its own."""

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil

from tidemill.core.errors import PrerequisiteMissing, ServiceFailed
from tidemill.services.services import PLATFORM_ENV, Service, resolve_command
from tidemill.settings import Settings

_MAX_SOCKET_PATH_BYTES = (
    100  # bytes that the path of a socket file may have, less what supervisor adds
)
_TIMEOUT_SECONDS = 30.0
_RPC_TIMEOUT_SECONDS = 10.0
_POLL_INTERVAL_SECONDS = 0.1
_EXIT_LOG_PATTERN = re.compile(r"exited: ([\w-]+) \((.*)\)$")


@dataclass(frozen=True)
class ServiceState:
    """A service as the manager sees it: its state in supervisor's words, its process if it has
    one, and since when (seconds since 1970)."""

    status: str
    pid: int | None
    since: float


@dataclass(frozen=True)
class Supervisor:
    """The manager of one folder, running or not."""

    folder: Path

    @classmethod
    def for_settings(cls, settings: Settings) -> "Supervisor":
        return cls(settings.up_data)

    @property
    def socket_file(self) -> Path:
        return self.folder / "manager.sock"

    @property
    def _pid_file(self) -> Path:
        return self.folder / "manager.pid"

    @property
    def _session_file(self) -> Path:
        """Process and time of creation of the manager, which leads the session of all services."""
        return self.folder / "manager.json"

    @property
    def logs_folder(self) -> Path:
        return self.folder / "logs"

    def log_file(self, name: str) -> Path:
        return self.logs_folder / f"{name}.log"

    def is_running(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self._rpc("getState")["statename"] == "RUNNING")
        except (OSError, Fault):
            return False

    def start(self, services: Sequence[Service], env: Mapping[str, str]) -> None:
        """Begin the manager, which begins nothing by itself. Raises `ServiceFailed`."""
        if len(bytes(self.socket_file)) > _MAX_SOCKET_PATH_BYTES:
            raise PrerequisiteMissing(
                f"The path {self.socket_file} is too long for a socket.",
                "Set TIDEMILL_HOME to a shorter one.",
            )
        self.logs_folder.mkdir(parents=True, exist_ok=True)
        self.log_file("manager").unlink(missing_ok=True)
        config_file = self.folder / "supervisord.conf"
        config_file.write_text(self._config(services))
        completed = subprocess.run(
            resolve_command(("supervisord", "-c", str(config_file))),
            env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while not self.is_running():
            if completed.returncode or time.monotonic() > deadline:
                output = (completed.stdout + completed.stderr).strip()[-2000:]
                raise ServiceFailed(
                    f"The process manager did not start. {output}",
                    f"Its log may say why: {self.log_file('manager')}.",
                )
            time.sleep(_POLL_INTERVAL_SECONDS)
        pid = int(self._pid_file.read_text())
        self._session_file.write_text(json.dumps([pid, psutil.Process(pid).create_time()]))

    def start_service(self, name: str) -> None:
        """Begin a service; one that runs already is left alone."""
        with suppress(Fault):
            self._rpc("startProcess", name, False)

    def states(self) -> dict[str, ServiceState]:
        """Every service; empty where the manager does not run."""
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
        """How each service ended that was not told to, since the manager runs; by its own log."""
        exits: dict[str, list[str]] = {}
        with suppress(FileNotFoundError):
            for line in self.log_file("manager").read_text(errors="replace").splitlines():
                if (match := _EXIT_LOG_PATTERN.search(line)) and "; expected" not in line:
                    exits.setdefault(match[1], []).append(match[2])
        return exits

    def stop(self, names: Sequence[str]) -> None:
        """Stop the services, all of `names` before the others, then the manager itself."""
        with suppress(OSError, Fault):
            for name in names:
                with suppress(Fault):
                    self._rpc("stopProcess", name, False)
            deadline = time.monotonic() + _TIMEOUT_SECONDS
            while time.monotonic() < deadline and any(
                state.pid for name, state in self.states().items() if name in names
            ):
                time.sleep(_POLL_INTERVAL_SECONDS)
            self._rpc("shutdown")
        if (supervisord := self._process()) is not None:
            with suppress(psutil.Error):
                supervisord.wait(_TIMEOUT_SECONDS)

    def kill_leftovers(self) -> bool:
        """End whatever is left of earlier times, also of managers that were killed; whether there
        was anything."""
        leftovers = self._leftovers()
        for process in leftovers:
            with suppress(psutil.Error):
                process.terminate()
        _, alive = psutil.wait_procs(leftovers, timeout=5)
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=5)
        for file in (
            self.socket_file,
            self._pid_file,
            self._session_file,
            self.folder / "code.sock",
        ):
            file.unlink(missing_ok=True)
        return bool(leftovers)

    def _leftovers(self) -> list[psutil.Process]:
        """Whoever is of the manager's session, or was told the mark, and not of this family."""
        own_process, session = psutil.Process(), self._session_id()
        family = {own_process.pid, *(parent.pid for parent in own_process.parents())}
        leftovers = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if process.pid not in family and (
                    os.getsid(process.pid) == session
                    # Some write their title over what they were told, but these do not part.
                    or process.environ().get(PLATFORM_ENV) == str(self.folder)
                ):
                    leftovers.append(process)
        return leftovers

    def _session_id(self) -> int | None:
        """The session that the manager began; its number is free again when nobody is left."""
        try:
            pid, created_at = json.loads(self._session_file.read_text())
            pid_reused = abs(psutil.Process(pid).create_time() - created_at) > 1
        except (FileNotFoundError, ValueError):
            return None
        except psutil.NoSuchProcess:
            return int(pid)
        return None if pid_reused else int(pid)

    def _process(self) -> psutil.Process | None:
        """The manager's own process."""
        with suppress(psutil.Error):
            session_id = self._session_id()
            return psutil.Process(session_id) if session_id else None
        return None

    def _rpc(self, method: str, *arguments: Any) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.socket_file}")
        connection = transport._get_connection()
        connection.connect()
        connection.sock.settimeout(
            _RPC_TIMEOUT_SECONDS
        )  # it may be stopped, and then does not say so
        transport._get_connection = lambda: connection
        with ServerProxy("http://127.0.0.1", transport, allow_none=True) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)

    def _config(self, services: Sequence[Service]) -> str:
        sections: dict[str, dict[str, object]] = {
            "unix_http_server": {"file": self.socket_file, "chmod": "0700"},
            "supervisord": {
                "logfile": self.log_file("manager"),
                "pidfile": self._pid_file,
                "silent": "true",
            },
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
        }
        programs = {f"program:{service.name}": self._program(service) for service in services}
        return "\n".join(
            "\n".join(
                [f"[{section}]", *(f"{k}={str(v).replace('%', '%%')}" for k, v in body.items())]
            )
            + "\n"
            for section, body in {**sections, **programs}.items()
        )

    def _program(self, service: Service) -> dict[str, object]:
        return {
            "command": shlex.join(resolve_command(service.command)),
            "directory": Path.cwd(),
            "autostart": "false",
            "autorestart": "true" if service.name != "stream" else "unexpected",
            "startsecs": 2,
            "startretries": 10,
            "stopwaitsecs": 10,
            "stopasgroup": "true",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": self.log_file(service.name),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": 1,
            **service.supervisor_options,
        }
