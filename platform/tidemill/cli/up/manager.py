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

from tidemill.cli.up.services import MARK, Service, program
from tidemill.core.errors import PrerequisiteMissing, ServiceFailed
from tidemill.settings import Settings

_LONGEST = 100  # bytes that the path of a socket file may have, less what supervisor adds
_PATIENCE = 30.0
_REPLY = 10.0
_LOOK = 0.1
_ENDED = re.compile(r"exited: ([\w-]+) \((.*)\)$")


@dataclass(frozen=True)
class State:
    """A service as the manager sees it: its state in supervisor's words, its process if it has
    one, and since when (seconds since 1970)."""

    word: str
    pid: int | None
    since: float


@dataclass(frozen=True)
class Manager:
    """The manager of one folder, running or not."""

    folder: Path

    @classmethod
    def of(cls, settings: Settings) -> "Manager":
        return cls(settings.up_data)

    @property
    def socket(self) -> Path:
        return self.folder / "manager.sock"

    @property
    def _pid(self) -> Path:
        return self.folder / "manager.pid"

    @property
    def _begun(self) -> Path:
        """Process and time of creation of the manager, which leads the session of all services."""
        return self.folder / "manager.json"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def runs(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self._ask("getState")["statename"] == "RUNNING")
        except (OSError, Fault):
            return False

    def begin(self, services: Sequence[Service], told: Mapping[str, str]) -> None:
        """Begin the manager, which begins nothing by itself. Raises `ServiceFailed`."""
        if len(bytes(self.socket)) > _LONGEST:
            raise PrerequisiteMissing(
                f"The path {self.socket} is too long for a socket.",
                "Set TIDEMILL_HOME to a shorter one.",
            )
        self.logs.mkdir(parents=True, exist_ok=True)
        self.log("manager").unlink(missing_ok=True)
        config = self.folder / "supervisord.conf"
        config.write_text(self._config(services))
        done = subprocess.run(
            program(("supervisord", "-c", str(config))),
            env=dict(told), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        until = time.monotonic() + _PATIENCE
        while not self.runs():
            if done.returncode or time.monotonic() > until:
                said = (done.stdout + done.stderr).strip()[-2000:]
                raise ServiceFailed(
                    f"The process manager did not start. {said}",
                    f"Its log may say why: {self.log('manager')}.",
                )
            time.sleep(_LOOK)
        pid = int(self._pid.read_text())
        self._begun.write_text(json.dumps([pid, psutil.Process(pid).create_time()]))

    def start(self, name: str) -> None:
        """Begin a service; one that runs already is left alone."""
        with suppress(Fault):
            self._ask("startProcess", name, False)

    def states(self) -> dict[str, State]:
        """Every service; empty where the manager does not run."""
        try:
            told = self._ask("getAllProcessInfo")
        except (OSError, Fault):
            return {}
        return {
            each["name"]: State(each["statename"], each["pid"] or None, each["start"])
            for each in told
        }

    def ends(self) -> dict[str, list[str]]:
        """How each service ended that was not told to, since the manager runs; by its own log."""
        found: dict[str, list[str]] = {}
        with suppress(FileNotFoundError):
            for line in self.log("manager").read_text(errors="replace").splitlines():
                if (match := _ENDED.search(line)) and "; expected" not in line:
                    found.setdefault(match[1], []).append(match[2])
        return found

    def end(self, names: Sequence[str]) -> None:
        """Stop the services, all of `names` before the others, then the manager itself."""
        with suppress(OSError, Fault):
            for name in names:
                with suppress(Fault):
                    self._ask("stopProcess", name, False)
            until = time.monotonic() + _PATIENCE
            while time.monotonic() < until and any(
                state.pid for name, state in self.states().items() if name in names
            ):
                time.sleep(_LOOK)
            self._ask("shutdown")
        if (manager := self._process()) is not None:
            with suppress(psutil.Error):
                manager.wait(_PATIENCE)

    def sweep(self) -> bool:
        """End whatever is left of earlier times, also of managers that were killed; whether there
        was anything."""
        left = self._left()
        for process in left:
            with suppress(psutil.Error):
                process.terminate()
        _, alive = psutil.wait_procs(left, timeout=5)
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=5)
        for file in (self.socket, self._pid, self._begun, self.folder / "code.sock"):
            file.unlink(missing_ok=True)
        return bool(left)

    def _left(self) -> list[psutil.Process]:
        """Whoever is of the manager's session, or was told the mark, and not of this family."""
        me, session = psutil.Process(), self._session()
        family = {me.pid, *(parent.pid for parent in me.parents())}
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if process.pid not in family and (
                    os.getsid(process.pid) == session
                    # Some write their title over what they were told, but these do not part.
                    or process.environ().get(MARK) == str(self.folder)
                ):
                    found.append(process)
        return found

    def _session(self) -> int | None:
        """The session that the manager began; its number is free again when nobody is left."""
        try:
            pid, created = json.loads(self._begun.read_text())
            taken = abs(psutil.Process(pid).create_time() - created) > 1
        except (FileNotFoundError, ValueError):
            return None
        except psutil.NoSuchProcess:
            return int(pid)
        return None if taken else int(pid)

    def _process(self) -> psutil.Process | None:
        """The manager's own process."""
        with suppress(psutil.Error):
            session = self._session()
            return psutil.Process(session) if session else None
        return None

    def _ask(self, method: str, *told: Any) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        connection = transport._get_connection()
        connection.connect()
        connection.sock.settimeout(_REPLY)  # it may be stopped, and then does not say so
        transport._get_connection = lambda: connection
        with ServerProxy("http://127.0.0.1", transport, allow_none=True) as proxy:
            return getattr(proxy.supervisor, method)(*told)

    def _config(self, services: Sequence[Service]) -> str:
        manager: dict[str, dict[str, object]] = {
            "unix_http_server": {"file": self.socket, "chmod": "0700"},
            "supervisord": {
                "logfile": self.log("manager"),
                "pidfile": self._pid,
                "silent": "true",
            },
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
        }
        programs = {f"program:{each.name}": self._program(each) for each in services}
        return "\n".join(
            "\n".join([f"[{head}]", *(f"{k}={str(v).replace('%', '%%')}" for k, v in body.items())])
            + "\n"
            for head, body in {**manager, **programs}.items()
        )

    def _program(self, service: Service) -> dict[str, object]:
        return {
            "command": shlex.join(program(service.words)),
            "directory": Path.cwd(),
            "autostart": "false",
            "autorestart": "true" if service.name != "stream" else "unexpected",
            "startsecs": 2,
            "startretries": 10,
            "stopwaitsecs": 10,
            "stopasgroup": "true",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": self.log(service.name),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": 1,
            **service.how,
        }
