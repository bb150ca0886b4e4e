"""A real PostgreSQL on a free port, with the databases of `deploy/postgres`, and hands for it."""

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

from dagster_webserver import free_port
from processes import wait_until
from tidemill.core.errors import PrerequisiteMissing
from tidemill.local.postgres import Postgres, server


def require_postgres() -> None:
    """Without PostgreSQL, and as root without its user, the test is reported as not run."""
    try:
        server.find_program("postgres", Path(os.devnull))
        server.run_as_user()
    except PrerequisiteMissing as missing:
        pytest.skip(f"not run: {missing}")


@contextmanager
def world_accessible_folder() -> Iterator[Path]:
    """A folder where PostgreSQL's own user may go, too; tests' own folders are root's alone."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass
class PostgresServer:
    """A server that runs; `port` is where it listens."""

    postgres: Postgres
    port: int
    _exit_stack: ExitStack = field(default_factory=ExitStack)

    def start(self) -> None:
        """Let it run, again if it was killed."""
        self._exit_stack.enter_context(self.postgres.running())

    def stop(self) -> None:
        self._exit_stack.close()

    @property
    def pid(self) -> int:
        return int((self.postgres.data / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        """All of it, by SIGKILL of its first process, which the others notice."""
        postmaster = psutil.Process(self.pid)
        children = postmaster.children()
        postmaster.kill()
        psutil.wait_procs([postmaster, *children], 30)

    def restart(self) -> None:
        """The same, and it comes back."""
        self.kill()
        self.start()

    def kill_backend(self, name: str) -> None:
        """The process behind one connection to this database, by SIGKILL: the server ends all
        others and recovers."""
        with create_engine(self.url(name), poolclass=NullPool).connect() as connection:
            (pid,) = connection.execute(text("select pg_backend_pid()")).one()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not psutil.pid_exists(pid), 30)
            connection.invalidate()

    def url(self, name: str, port: int | None = None, database: str | None = None) -> str:
        """Where the user's database is; through a proxy at `port`, if that is given."""
        base_url = make_url(self.postgres.url(name))
        url = base_url.set(port=port or self.port, database=database or name)
        return url.render_as_string(hide_password=False)

    def query(self, name: str, sql: str, database: str | None = None) -> list[tuple[object, ...]]:
        """What the database answers to its user, or another one."""
        url = self.url(name, database=database)
        with create_engine(url, poolclass=NullPool).begin() as connection:
            result = connection.execute(text(sql))
            return [tuple(row) for row in result] if result.returns_rows else []


@contextmanager
def running_postgres(folder: Path) -> Iterator[PostgresServer]:
    """A server in this folder, which is to be a `reachable` one."""
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
