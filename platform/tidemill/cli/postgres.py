"""`tidemill postgres`: run PostgreSQL's programs on the databases of `tidemill up --postgres`."""

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
        list[str], typer.Argument(help="Any command, such as `-- psql -U dagster dagster`.")
    ],
) -> None:
    """Run a command while PostgreSQL is running, with its address and passwords set.

    The exit code is the command's. The users are `postgres`, and `dagster`, `mlflow` and
    `airflow`, each with a database of the same name.
    """
    local_postgres = bootstrap.local_postgres(Settings())
    if local_postgres.port is None:
        raise OperationNotAllowed(
            f"PostgreSQL is not in use in {local_postgres.folder.parent}.",
            "Run `tidemill up --postgres` to use it.",
        )
    local_postgres.initialize(local_postgres.port)
    programs = server.find_program("psql", local_postgres.data).parent
    env = os.environ | {
        "PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(local_postgres.port),
        "PGPASSFILE": str(local_postgres.password_file),
    }
    with local_postgres.running():
        completed = subprocess.run(command, env=env, check=False)
    sys.exit(completed.returncode)


COMMANDS = (postgres,)
