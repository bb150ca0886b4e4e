"""The configuration file of supervisord."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tidemill.services.services import SIMULATION, Service, resolve_command


def render(services: Sequence[Service], socket_file: Path, pid_file: Path, logs: Path) -> str:
    """The configuration of supervisord with one program per service, none started by itself.

    supervisord logs to `supervisor.log` in the folder `logs`, each service to `NAME.log`.
    """
    sections: dict[str, dict[str, object]] = {
        "unix_http_server": {"file": socket_file, "chmod": "0700"},
        "supervisord": {
            "logfile": logs / "supervisor.log",
            "pidfile": pid_file,
            "silent": "true",
        },
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
    }
    programs = {f"program:{service.name}": _program(service, logs) for service in services}
    return "\n".join(
        "\n".join([f"[{section}]", *(f"{k}={str(v).replace('%', '%%')}" for k, v in body.items())])
        + "\n"
        for section, body in {**sections, **programs}.items()
    )


def _program(service: Service, logs: Path) -> dict[str, object]:
    return {
        "command": shlex.join(resolve_command(service.command)),
        "directory": Path.cwd(),
        "autostart": "false",
        "autorestart": "unexpected" if service.name == SIMULATION else "true",
        "startsecs": 2,
        "startretries": 10,
        "stopwaitsecs": 10,
        "stopasgroup": "true",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": logs / f"{service.name}.log",
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": 1,
        **service.supervisor_options,
    }
