"""The bundled PostgreSQL: a server on the loopback with databases for Dagster, Airflow and MLflow.

Its folder contains everything: the data, the passwords, the log, and `port` while it is enabled.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tidemill.local.postgres import server
from tidemill.textfile import atomic_write_text

DATABASES = ("dagster", "airflow", "mlflow")
"""The databases; each has a user of the same name."""


@dataclass(frozen=True)
class Postgres:
    """The server of this folder, whether or not it is initialized or running."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def password_file(self) -> Path:
        """The users' passwords in libpq's format, readable by the owner only."""
        return self.folder / "pgpass"

    @property
    def log_file(self) -> Path:
        return self.folder / "postgres.log"

    @property
    def port(self) -> int | None:
        """The port it listens on, or None if it is not enabled."""
        with suppress(FileNotFoundError):
            return int((self.folder / "port").read_text())
        return None

    def enable(self, port: int) -> None:
        """Enable the server, on this port."""
        atomic_write_text(self.folder / "port", str(port))

    def disable(self) -> None:
        """Disable the server; its data is kept."""
        (self.folder / "port").unlink(missing_ok=True)

    def url(self, name: str) -> str:
        """The SQLAlchemy URL of a database; it refers to the password file."""
        base_url = f"postgresql+psycopg2://{name}@127.0.0.1:{self.port}/{name}"
        return f"{base_url}?passfile={quote(str(self.password_file))}"

    def initialize(self, port: int) -> None:
        """Create the users and databases, if there are none; the port must be free.

        Raises `PrerequisiteMissing`, `ServiceFailed`.
        """
        server.find_program("postgres", self.data)
        self.folder.mkdir(parents=True, exist_ok=True)
        server.check_accessible(self.folder)
        if not self.data.exists():
            server.create_cluster(
                self.data, port, self.password_file, self._generated_passwords(), self.log_file
            )

    def _generated_passwords(self) -> dict[str, str]:
        """The passwords by user, generated on first use."""
        if not self.password_file.exists():
            generated = {name: secrets.token_urlsafe(24) for name in (server.SUPERUSER, *DATABASES)}
            lines = "".join(f"*:*:*:{name}:{password}\n" for name, password in generated.items())
            atomic_write_text(self.password_file, lines, private=True)
        entries = (line.split(":") for line in self.password_file.read_text().splitlines())
        return {name: password for *_, name, password in entries}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the server, which must be enabled, at least as long as this context.

        A server that was started here stops when its last user, in this or another process, leaves
        this context; any other server is left running. Raises `PrerequisiteMissing`,
        `ServiceFailed`.
        """
        port = self.port
        assert port is not None
        with server.daemon(self.data, port, self.log_file).running():
            yield
