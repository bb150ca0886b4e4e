"""The server's programs and its process; as root they run as Debian's user `postgres`."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tidemill.adapters.textfile import last_words
from tidemill.core.errors import PrerequisiteMissing, ServiceFailed
from tidemill.deployed import packaged_file

SUPERUSER = "postgres"
STOP = signal.SIGINT
"""Ends it at once and in order; SIGTERM would wait for whoever is connected."""
START_SECONDS = 60
STOP_SECONDS = 60
_DEBIAN = Path("/usr/lib/postgresql")
_ACCOUNT = "postgres"
_LOOK = 0.05


def program(name: str, data: Path) -> Path:
    """A program of PostgreSQL, of the version that made the data, if there are any.

    Raises `PrerequisiteMissing`.
    """
    made = data / "PG_VERSION"
    wanted = made.read_text().strip() if made.exists() else None
    for folder in _folders():
        if (folder / name).exists() and (wanted is None or _version(folder) == wanted):
            return folder / name
    what = f"PostgreSQL {wanted}, which made {data}," if wanted else "PostgreSQL"
    raise PrerequisiteMissing(
        f"{what} is not on this machine.",
        "Install it by `make tools` as root (Debian's package `postgresql`), or leave it out: "
        "`tidemill up` without `--postgres`.",
    )


def _folders() -> Iterator[Path]:
    """Where its programs may be: Debian's folders, the newest first, and those on PATH."""
    versions = (folder for folder in _DEBIAN.glob("*/bin") if folder.parent.name.isdigit())
    yield from sorted(versions, key=lambda folder: -int(folder.parent.name))
    # Debian's wrappers on PATH are programs of no version.
    if (found := shutil.which("initdb")) is not None:
        yield Path(found).resolve().parent


def _version(folder: Path) -> str | None:
    said = subprocess.run(
        (folder / "postgres", "--version"), capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"\) (\d+)", said)
    return found[1] if found else None


def account() -> str | None:
    """Whom the server runs as, where not as this user: root it refuses.

    Raises `PrerequisiteMissing`.
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_ACCOUNT).pw_name
    except KeyError:
        raise PrerequisiteMissing(
            f"PostgreSQL does not run as root, and there is no user `{_ACCOUNT}` for it.",
            "Install Debian's package `postgresql` (`make tools`), which makes that user, or run "
            "tidemill as another user than root.",
        ) from None


def command(data: Path, port: int) -> tuple[str, ...]:
    """The server, for the loopback only. Raises `PrerequisiteMissing`."""
    server = str(program("postgres", data))
    only = ("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
    return (server, "-D", str(data), "-p", str(port), *only)


def check_reachable(folder: Path) -> None:
    """Raises `PrerequisiteMissing` where the server's user may not go to this folder."""
    who = account()
    done = subprocess.run(("test", "-x", folder), check=False, **_as(who))
    if done.returncode:
        raise PrerequisiteMissing(
            f"PostgreSQL runs as the user {who}, who may not go to {folder}.",
            f"Let everybody pass (`chmod o+x`) each folder above it, or put TIDEMILL_HOME where "
            f"{who} may go.",
        )


def create(data: Path, port: int, passwords: Path, drawn: Mapping[str, str], log: Path) -> None:
    """Make a cluster with the users and databases of `deploy/postgres/init.sh`, at once or not.

    `drawn` are the passwords by user, `passwords` the file that has them. Nobody may listen at the
    port meanwhile. Raises `PrerequisiteMissing`, `ServiceFailed`.
    """
    initdb, who = program("initdb", data), account()
    scratch = data.with_suffix(".new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(0o700)
    with TemporaryDirectory(prefix="tidemill-postgres-") as secrets:
        for name, password in drawn.items():
            (Path(secrets) / f"postgres_{name}").write_text(password)
        own = Path(secrets) / f"postgres_{SUPERUSER}"
        if who is not None:
            for mine in (scratch, Path(secrets), own):
                shutil.chown(mine, who, who)
        words = (initdb, "-D", scratch, "-U", SUPERUSER, "--pwfile", own, "--no-instructions")
        kinds = ("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale")
        _done((*words, *kinds), log, cwd="/", **_as(who))
        process = launch(scratch, port, log)
        try:
            until_answers(scratch, port, lambda: process.poll() is None, log)
            environment = {
                "PATH": f"{initdb.parent}:{os.defpath}",
                "PGHOST": "127.0.0.1",
                "PGPORT": str(port),
                "PGPASSFILE": str(passwords),
                "POSTGRES_USER": SUPERUSER,
                "SECRETS": secrets,
            }
            _done(("bash", packaged_file("postgres") / "init.sh"), log, env=environment)
        finally:
            process.send_signal(STOP)
            process.wait(STOP_SECONDS)
    scratch.replace(data)


def launch(data: Path, port: int, log: Path) -> "subprocess.Popen[bytes]":
    """Start the server, which writes to the log. Raises `PrerequisiteMissing`."""
    with log.open("ab") as said:
        return subprocess.Popen(
            command(data, port),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd="/",
            env={"LANG": "C.UTF-8"},
            start_new_session=True,
            **_as(account()),
        )


def answers(data: Path, port: int) -> bool:
    """Whether a server there takes connections."""
    asked = (program("pg_isready", data), "-q", "-h", "127.0.0.1", "-p", str(port))
    return subprocess.run(asked, check=False).returncode == 0


def until_answers(data: Path, port: int, alive: Callable[[], bool], log: Path) -> None:
    """Wait until the server answers. Raises `ServiceFailed` where it ends instead."""
    until = time.monotonic() + START_SECONDS
    while not answers(data, port):
        if not alive() or time.monotonic() > until:
            raise failed("PostgreSQL does not come up.", log)
        time.sleep(_LOOK)


def failed(what: str, log: Path) -> ServiceFailed:
    return ServiceFailed(what, last_words(log))


def _done(words: Sequence[object], log: Path, **told: Any) -> None:
    with log.open("ab") as said:
        done = subprocess.run(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False, **told,
        )  # fmt: skip
    if done.returncode:
        raise failed("PostgreSQL's databases could not be made.", log)


def _as(who: str | None) -> dict[str, Any]:
    """How subprocess begins a program as this user."""
    return {} if who is None else {"user": who, "group": who, "extra_groups": []}
