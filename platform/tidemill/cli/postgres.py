"""`tidemill postgres`: PostgreSQL's own programs on the databases of `tidemill up --postgres`."""

import os
import subprocess
import sys
from typing import Annotated

import typer

from tidemill import bootstrap
from tidemill.adapters.postgres import server
from tidemill.core.errors import OperationNotAllowed
from tidemill.settings import Settings


def postgres(
    words: Annotated[
        list[str], typer.Argument(help="`-- psql -U dagster dagster`, `-- pg_dump …`: any command.")
    ],
) -> None:
    """Run a command that finds PostgreSQL up and knows its passwords; it ends as that does.

    The users are `dagster`, `mlflow`, `airflow`, each with a database of its name, and `postgres`.
    """
    own = bootstrap.local_postgres(Settings())
    if own.port is None:
        raise OperationNotAllowed(
            f"Nothing of {own.folder.parent} is in PostgreSQL.",
            "`tidemill up --postgres` does that.",
        )
    own.initialize(own.port)
    environment = os.environ | {
        "PATH": f"{server.find_program('psql', own.data).parent}:{os.environ.get('PATH', os.defpath)}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(own.port),
        "PGPASSFILE": str(own.password_file),
    }
    with own.running():
        done = subprocess.run(words, env=environment, check=False)
    sys.exit(done.returncode)


COMMANDS = (postgres,)
