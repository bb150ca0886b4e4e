"""`tidemill postgres`: PostgreSQL's own programs on the databases of `tidemill up --postgres`."""

import os
import subprocess
import sys
from typing import Annotated

import typer

from tidemill import bootstrap
from tidemill.core.errors import OperationNotAllowed
from tidemill.local.postgres import server
from tidemill.settings import Settings


def postgres(
    command: Annotated[
        list[str], typer.Argument(help="`-- psql -U dagster dagster`, `-- pg_dump …`: any command.")
    ],
) -> None:
    """Run a command that finds PostgreSQL up and knows its passwords; it ends as that does.

    The users are `dagster`, `mlflow`, `airflow`, each with a database of its name, and `postgres`.
    """
    local_postgres = bootstrap.local_postgres(Settings())
    if local_postgres.port is None:
        raise OperationNotAllowed(
            f"Nothing of {local_postgres.folder.parent} is in PostgreSQL.",
            "`tidemill up --postgres` does that.",
        )
    local_postgres.initialize(local_postgres.port)
    env = os.environ | {
        "PATH": f"{server.find_program('psql', local_postgres.data).parent}:{os.environ.get('PATH', os.defpath)}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(local_postgres.port),
        "PGPASSFILE": str(local_postgres.password_file),
    }
    with local_postgres.running():
        completed = subprocess.run(command, env=env, check=False)
    sys.exit(completed.returncode)


COMMANDS = (postgres,)
