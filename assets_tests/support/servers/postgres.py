"""A real PostgreSQL server on a free port, with the databases of `deploy/postgres`."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

from support.processes.commands import wait_until
from support.servers.http import free_port
from tidemill.core.errors import PrerequisiteMissing
from tidemill.local.postgres import Postgres, server


def require_postgres() -> None:
    """Skip the test if PostgreSQL is missing, or its user is missing when run as root."""
    try:
        server.find_program("postgres", Path(os.devnull))
        server.run_as_user()
    except PrerequisiteMissing as missing:
        pytest.skip(f"not run: {missing}")


@contextmanager
def world_accessible_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user can enter; pytest's folders are only accessible to root."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass
class PostgresServer:
    """A running server that listens on `port`."""

    postgres: Postgres
    port: int
    _exit_stack: ExitStack = field(default_factory=ExitStack)

    def start(self) -> None:
        """Start the server, also after a kill."""
        self._exit_stack.enter_context(self.postgres.running())

    def stop(self) -> None:
        self._exit_stack.close()

    @property
    def pid(self) -> int:
        return int((self.postgres.data / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        """Kill the postmaster with SIGKILL and wait until its children have exited too."""
        postmaster = psutil.Process(self.pid)
        children = postmaster.children()
        postmaster.kill()
        psutil.wait_procs([postmaster, *children], 30)

    def restart(self) -> None:
        """Kill the server and start it again."""
        self.kill()
        self.start()

    def kill_backend(self, name: str) -> None:
        """Kill the backend process of one connection to this database with SIGKILL.

        The server then ends all other backends and recovers.
        """
        with create_engine(self.url(name), poolclass=NullPool).connect() as connection:
            (pid,) = connection.execute(text("select pg_backend_pid()")).one()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not psutil.pid_exists(pid), 30)
            connection.invalidate()

    def url(self, name: str, port: int | None = None, database: str | None = None) -> str:
        """The URL of the user's database, through a proxy on `port` if given."""
        base_url = make_url(self.postgres.url(name))
        url = base_url.set(port=port or self.port, database=database or name)
        return url.render_as_string(hide_password=False)

    def query(self, name: str, sql: str, database: str | None = None) -> list[tuple[object, ...]]:
        """The rows of a query, as this user, in the user's database or another one."""
        url = self.url(name, database=database)
        with create_engine(url, poolclass=NullPool).begin() as connection:
            result = connection.execute(text(sql))
            return [tuple(row) for row in result] if result.returns_rows else []


@contextmanager
def running_postgres(folder: Path) -> Iterator[PostgresServer]:
    """A server in this folder, which its user must be able to enter.

    See `world_accessible_folder`.
    """
    require_postgres()
    postgres, port = Postgres(folder), free_port()
    postgres.initialize(port)
    postgres.enable(port)
    running = PostgresServer(postgres, port)
    running.start()
    try:
        yield running
    finally:
        running.stop()
