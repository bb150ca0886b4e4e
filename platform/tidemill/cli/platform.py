"""The platform's commands: `tidemill up`, `down`, `ps`, and two that its containers run."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.options import Json, console, print_json, print_table
from tidemill.services import airflow, init_containers, orphaned_runs
from tidemill.services import platform as services_platform
from tidemill.services.live_flights import MODEL
from tidemill.services.services import Endpoints
from tidemill.services.supervisor import Supervisor
from tidemill.services.table import ServiceRow, current_rows
from tidemill.settings import Settings

NoAirflow = Annotated[
    bool,
    typer.Option("--no-airflow", help="Start runs with Dagster's sensor instead of Airflow."),
]
WithPostgres = Annotated[
    bool,
    typer.Option(
        "--postgres", help="Store the metadata of Dagster, MLflow and Airflow in PostgreSQL."
    ),
]
CodeServer = Annotated[str, typer.Option("--code", help="HOST:PORT of Dagster's code server.")]

runs_app = typer.Typer(
    help="Dagster's runs of the platform in containers.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def up(no_airflow: NoAirflow = False, postgres: WithPostgres = False) -> None:
    """Start the whole platform and return when all services are ready.

    The flights of 2013 are simulated in real time, one day per window of five minutes. If the
    platform is already up, its services are shown. `tidemill down` stops it.
    """
    settings, started_at = Settings(), time.monotonic()
    rows = services_platform.start(
        settings,
        with_airflow=not no_airflow,
        with_postgres=postgres,
        on_notice=lambda text: console.print(text, markup=False, soft_wrap=True),
        on_ready=lambda name: console.print(
            f"{time.monotonic() - started_at:5.1f} s  {name}", markup=False
        ),
    )
    _print_rows(rows)
    if not no_airflow:
        console.print(f"\n{airflow.login_message(settings)}", markup=False, soft_wrap=True)
    _print_next_steps(settings)


def down() -> None:
    """Stop the whole platform, including processes left over from a crash; data is kept."""
    was_up = services_platform.stop(Settings())
    console.print("The platform is down; its data is kept." if was_up else "Nothing was running.")


def ps(as_json: Json = False) -> None:
    """Show the services of the platform: state, restarts and address."""
    rows = current_rows(Settings())
    if as_json:
        print_json(rows)
    else:
        _print_rows(rows)


def init(
    dags_folder: Annotated[Path, typer.Option("--dags", help="The folder of Airflow's DAGs.")],
    code_server: CodeServer,
) -> None:
    """Write the files that the platform in containers needs before it starts.

    The live model goes to TIDEMILL_MODELS, Dagster's instance and workspace to TIDEMILL_HOME,
    Airflow's three DAGs to --dags. An existing model is kept; the other files are brought up to
    date.
    """
    settings = Settings()
    init_containers.init(settings, dags_folder, _parse_address(code_server))
    console.print(
        f"{MODEL} is in {settings.models}, Dagster's instance in {settings.dagster_home}, "
        f"Airflow's DAGs are in {dags_folder}.",
        markup=False,
        soft_wrap=True,
    )


@runs_app.callback()
def _runs() -> None:
    """Keeps `fail-orphaned` a subcommand."""


@runs_app.command("fail-orphaned", hidden=True)
def fail_orphaned(code_server: CodeServer) -> None:
    """Mark the unfinished runs of a code server as failed.

    The container of a code server runs this before it starts the server: the runs of the previous
    container have ended with it, and nothing else reports that.
    """
    failed_count = orphaned_runs.fail_orphaned_runs(Settings(), _parse_address(code_server))
    console.print(f"Runs of the previous code server marked as failed: {failed_count}.")


def _parse_address(text: str) -> dict[str, str | int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise typer.BadParameter(f"{text!r} is not HOST:PORT", param_hint="--code")
    return {"host": host, "port": int(port)}


def _print_rows(rows: Sequence[ServiceRow]) -> None:
    print_table(
        ("service", "state", "since", "restarts", "url"),
        [
            (
                row.service,
                row.state,
                (row.since or "")[11:19],
                f"{row.restarts} ({row.last_exit})" if row.restarts else "",
                row.url,
            )
            for row in rows
        ],
    )


def _print_next_steps(settings: Settings) -> None:
    console.print(
        f"Logs: {Supervisor.for_settings(settings).logs_folder}. `tidemill ps` shows this table, "
        f"`tidemill history {MODEL}` the deployments, {Endpoints(settings).serving}/models the "
        "models in service. `tidemill down` stops the platform.",
        markup=False,
        soft_wrap=True,
    )


COMMANDS = (up, down, ps)
