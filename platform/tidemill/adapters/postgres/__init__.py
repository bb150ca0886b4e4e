"""A PostgreSQL of one's own: one server on the loopback, with a database each for Dagster, Airflow
and MLflow.

Its folder holds all of it: the data, the passwords, its log, and `port` while it is in use. File
locks make starting and stopping one at a time, and tell who still uses it.
"""

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil

from tidemill.adapters.postgres import server
from tidemill.adapters.textfile import write

NAMES = ("dagster", "airflow", "mlflow")
"""The databases, and the user of each."""


@dataclass(frozen=True)
class Postgres:
    """The server of this folder, made or not, running or not."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def passwords(self) -> Path:
        """The password of each user, as libpq keeps them; nobody else may read it."""
        return self.folder / "pgpass"

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"

    @property
    def port(self) -> int | None:
        """Where it listens; None where it is not in use."""
        with suppress(FileNotFoundError):
            return int((self.folder / "port").read_text())
        return None

    def use(self, port: int) -> None:
        """Let whoever asks use it, at this port."""
        (self.folder / "port").write_text(str(port))

    def leave(self) -> None:
        """Let nobody use it; its data stay."""
        (self.folder / "port").unlink(missing_ok=True)

    def url(self, name: str) -> str:
        """Where one of its databases is, for SQLAlchemy; it names the file with the password."""
        where = f"postgresql+psycopg2://{name}@127.0.0.1:{self.port}/{name}"
        return f"{where}?passfile={quote(str(self.passwords))}"

    def make(self, port: int) -> None:
        """Make its users and databases, if there are none; nobody may listen at the port.

        Raises `PrerequisiteMissing`, `ServiceFailed`.
        """
        server.program("postgres", self.data)
        self.folder.mkdir(parents=True, exist_ok=True)
        server.check_reachable(self.folder)
        if not self.data.exists():
            server.create(self.data, port, self.passwords, self._drawn(), self.log)

    def _drawn(self) -> dict[str, str]:
        """The passwords by user, drawn at the first time."""
        if not self.passwords.exists():
            drawn = {name: secrets.token_urlsafe(24) for name in (server.SUPERUSER, *NAMES)}
            lines = "".join(f"*:*:*:{name}:{password}\n" for name, password in drawn.items())
            write(self.passwords, lines, private=True)
        told = (line.split(":") for line in self.passwords.read_text().splitlines())
        return {name: password for *_, name, password in told}

    @contextmanager
    def running(self) -> Iterator[None]:
        """It runs while somebody is in here; one that runs anyway is left alone.

        One that was begun here ends with the last that leaves, this process or another. It must be
        in use. Raises `PrerequisiteMissing`, `ServiceFailed`.
        """
        with (self.folder / "users.lock").open("a") as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            try:
                with self._alone():
                    self._begin()
                yield
            finally:
                with self._alone(), suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._end()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "start.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def _begun(self) -> Path:
        """Tells the process that was begun only for those who use it."""
        return self.folder / "begun"

    def _begin(self) -> None:
        port = self.port
        assert port is not None
        if self._process() is None:
            begun = server.launch(self.data, port, self.log)
            self._begun.write_text(str(begun.pid))
            server.until_answers(self.data, port, lambda: begun.poll() is None, self.log)
            begun.returncode = 0  # it outlives this object, which must not warn of that
        else:
            server.until_answers(self.data, port, self._runs, self.log)

    def _end(self) -> None:
        with suppress(FileNotFoundError, psutil.Error):
            begun, process = int(self._begun.read_text()), self._process()
            self._begun.unlink()
            if process is not None and process.pid == begun:
                process.send_signal(server.STOP)
                process.wait(server.STOP_SECONDS)

    def _runs(self) -> bool:
        return self._process() is not None

    def _process(self) -> psutil.Process | None:
        """The server, if it runs; after a kill its file is there without it."""
        with suppress(FileNotFoundError, IndexError, ValueError, psutil.Error):
            told = (self.data / "postmaster.pid").read_text().split()
            process = psutil.Process(int(told[0]))
            ours = str(self.data) in process.cmdline()
            return process if ours and process.status() != psutil.STATUS_ZOMBIE else None
        return None
