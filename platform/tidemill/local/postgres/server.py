"""The server's programs and process; as root, they run as Debian's user `postgres`."""

import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from tidemill.core.errors import PrerequisiteMissing, ServiceFailed
from tidemill.local.daemon import DaemonState, LocalDaemon
from tidemill.packaged_files import packaged_file
from tidemill.processes import run_logged, spawn_daemon, tail_for_error

SUPERUSER = "postgres"
STOP_SIGNAL = signal.SIGINT
"""Requests a fast shutdown; SIGTERM would wait for connected clients."""
SHUTDOWN_TIMEOUT_SECONDS = 60
_DEBIAN_ROOT = Path("/usr/lib/postgresql")
_SERVER_USER = "postgres"


def find_program(name: str, data: Path) -> Path:
    """A PostgreSQL program, of the version that created the data, if there is any.

    Raises `PrerequisiteMissing`.
    """
    version_file = data / "PG_VERSION"
    required = version_file.read_text().strip() if version_file.exists() else None
    for folder in _bin_folders():
        if (folder / name).exists() and (required is None or _major_version(folder) == required):
            return folder / name
    subject = f"PostgreSQL {required}, which created {data}," if required else "PostgreSQL"
    raise PrerequisiteMissing(
        f"{subject} is not installed.",
        "Install it with `make tools` as root (Debian's package `postgresql`), or run "
        "`tidemill up` without `--postgres`.",
    )


def _bin_folders() -> Iterator[Path]:
    """Folders to search for programs: Debian's, newest version first, then the one on PATH."""
    versions = (folder for folder in _DEBIAN_ROOT.glob("*/bin") if folder.parent.name.isdigit())
    yield from sorted(versions, key=lambda folder: -int(folder.parent.name))
    # Debian's wrappers on PATH belong to no version.
    if (initdb := shutil.which("initdb")) is not None:
        yield Path(initdb).resolve().parent


def _major_version(folder: Path) -> str | None:
    output = subprocess.run(
        (folder / "postgres", "--version"), capture_output=True, text=True, check=False
    ).stdout
    match = re.search(r"\) (\d+)", output)
    return match[1] if match else None


def run_as_user() -> str | None:
    """The user to run the server as, or None for this user; the server refuses to run as root.

    Raises `PrerequisiteMissing`.
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_SERVER_USER).pw_name
    except KeyError:
        raise PrerequisiteMissing(
            f"PostgreSQL does not run as root, and there is no user `{_SERVER_USER}` for it.",
            "Install Debian's package `postgresql` (`make tools`), which creates that user, or run "
            "tidemill as a user other than root.",
        ) from None


def server_command(data: Path, port: int) -> tuple[str, ...]:
    """The server's command line; it listens on the loopback. Raises `PrerequisiteMissing`."""
    server = str(find_program("postgres", data))
    options = ("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
    return (server, "-D", str(data), "-p", str(port), *options)


def check_accessible(folder: Path) -> None:
    """Raise `PrerequisiteMissing` if the server's user cannot access this folder."""
    user = run_as_user()
    result = subprocess.run(("test", "-x", folder), check=False, **_user_kwargs(user))
    if result.returncode:
        raise PrerequisiteMissing(
            f"PostgreSQL runs as the user {user}, which cannot access {folder}.",
            f"Make each parent folder accessible (`chmod o+x`), or set TIDEMILL_HOME to a folder "
            f"that {user} can access.",
        )


def create_cluster(
    data: Path, port: int, password_file: Path, passwords_by_user: Mapping[str, str], log_file: Path
) -> None:
    """Create a cluster with the users and databases of `deploy/postgres/init.sh`, atomically.

    `password_file` must contain `passwords_by_user`. The port must be free meanwhile. Raises
    `PrerequisiteMissing`, `ServiceFailed`.
    """
    initdb, user = find_program("initdb", data), run_as_user()
    temp_data = data.with_suffix(".new")
    shutil.rmtree(temp_data, ignore_errors=True)
    temp_data.mkdir(0o700)
    with TemporaryDirectory(prefix="tidemill-postgres-") as secrets:
        for name, password in passwords_by_user.items():
            (Path(secrets) / f"postgres_{name}").write_text(password)
        superuser_file = Path(secrets) / f"postgres_{SUPERUSER}"
        if user is not None:
            for path in (temp_data, Path(secrets), superuser_file):
                shutil.chown(path, user, user)
        initdb_command = (initdb, "-D", temp_data, "-U", SUPERUSER, "--pwfile", superuser_file)
        options = ("--no-instructions", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale")
        _run_logged((*initdb_command, *options), log_file, cwd="/", **_user_kwargs(user))
        with daemon(temp_data, port, log_file).running():
            env = {
                "PATH": f"{initdb.parent}:{os.defpath}",
                "PGHOST": "127.0.0.1",
                "PGPORT": str(port),
                "PGPASSFILE": str(password_file),
                "POSTGRES_USER": SUPERUSER,
                "SECRETS": secrets,
            }
            _run_logged(("bash", packaged_file("postgres") / "init.sh"), log_file, env=env)
    temp_data.replace(data)


def daemon(data: Path, port: int, log_file: Path) -> LocalDaemon:
    """The server of this data on this port; its start raises `PrerequisiteMissing` and
    `ServiceFailed`."""
    return LocalDaemon(
        data.parent,
        data.parent / "started.json",
        launch=lambda: (_launch(data, port, log_file), port),
        is_ready=partial(is_ready, data),
        start_error=lambda _: service_failed("PostgreSQL did not start.", log_file),
        stop_signal=STOP_SIGNAL,
        shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_SECONDS,
        supervised=partial(_running_server, data, port),
    )


def _launch(data: Path, port: int, log_file: Path) -> psutil.Process:
    """Start the server. Raises `PrerequisiteMissing`."""
    user = _user_kwargs(run_as_user())
    return spawn_daemon(server_command(data, port), log_file, cwd="/", **user)


def _running_server(data: Path, port: int) -> DaemonState | None:
    """The server of this data, whoever started it; after a kill, its pid file is stale."""
    with suppress(FileNotFoundError, IndexError, ValueError, psutil.Error):
        fields = (data / "postmaster.pid").read_text().split()
        process = psutil.Process(int(fields[0]))
        if str(data) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
            return DaemonState.of(process, port, persistent=True)
    return None


def is_ready(data: Path, port: int) -> bool:
    """Whether a server on this port accepts connections."""
    command = (find_program("pg_isready", data), "-q", "-h", "127.0.0.1", "-p", str(port))
    return subprocess.run(command, check=False).returncode == 0


def service_failed(message: str, log_file: Path) -> ServiceFailed:
    return ServiceFailed(message, tail_for_error(log_file))


def _run_logged(command: Sequence[object], log_file: Path, **options: Any) -> None:
    if run_logged([str(argument) for argument in command], log_file, **options):
        raise service_failed("PostgreSQL's databases could not be created.", log_file)


def _user_kwargs(user: str | None) -> dict[str, Any]:
    """Arguments of subprocess to run a program as this user."""
    return {} if user is None else {"user": user, "group": user, "extra_groups": []}
