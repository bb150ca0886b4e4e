"""`tidemill init` and `bury`: what the services of `deploy/compose.yaml` find as they begin."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
import yaml

from tidemill.cli.options import console
from tidemill.core.errors import SpecInvalid
from tidemill.services import orphaned_runs
from tidemill.services.dagster_home import ensure_dagster_home
from tidemill.services.live_flights import MODEL, ensure_live_model, write_dags
from tidemill.services.services import Endpoints
from tidemill.settings import Settings

CodeServer = Annotated[str, typer.Option("--code", help="HOST:PORT of Dagster's code server.")]


def init(
    dags_folder: Annotated[Path, typer.Option("--dags", help="The folder of Airflow's DAGs.")],
    code_server: CodeServer,
) -> None:
    """Write what a platform in containers begins with; what is there already is kept or brought up
    to date.

    The model of the live flights goes to TIDEMILL_MODELS, Dagster's instance and workspace to
    TIDEMILL_HOME, Airflow's three DAGs to --dags.
    """
    from tidemill.simulation.time_scale import TimeScale

    settings = Settings()
    if "models" not in settings.model_fields_set:
        raise SpecInvalid(
            "TIDEMILL_MODELS is not set, and the packaged models are not to be added to.",
            "Let it name a folder that this command may write to.",
        )
    grpc_address = _parse_address(code_server)
    spec = ensure_live_model(settings, settings.models, time.time_ns() // 1_000_000)
    ensure_dagster_home(settings)
    write_workspace(Endpoints(settings), grpc_address)
    write_dags(dags_folder, spec, TimeScale.for_spec(spec).ends_at)
    console.print(
        f"{MODEL} is in {settings.models}, Dagster's instance in {settings.dagster_home}, "
        f"Airflow's DAGs are in {dags_folder}.",
        markup=False,
        soft_wrap=True,
    )


def fail_orphaned(code_server: CodeServer) -> None:
    """Mark the runs that a code server had begun, and that are under way, as failed.

    That is for the container of a code server, before it begins the server anew: with the one
    before, its runs have ended, which nobody else would say.
    """
    failed = orphaned_runs.fail_orphaned_runs(Settings(), _parse_address(code_server))
    console.print(f"{failed} runs ended with the code server before.")


def _parse_address(text: str) -> dict[str, str | int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise typer.BadParameter(f"{text!r} is not HOST:PORT", param_hint="--code")
    return {"host": host, "port": int(port)}


def write_workspace(endpoints: Endpoints, grpc_address: Mapping[str, str | int]) -> None:
    """Tell Dagster's webserver and daemon where its code is: `socket`, or `host` and `port`."""
    grpc_server = {**grpc_address, "location_name": "tidemill"}
    endpoints.workspace_file.write_text(
        yaml.safe_dump({"load_from": [{"grpc_server": grpc_server}]})
    )
