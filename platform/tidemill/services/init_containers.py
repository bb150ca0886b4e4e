"""The files that the services of `deploy/compose.yaml` need before they start."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from tidemill.adapters.clock import now_ms
from tidemill.core.errors import SpecInvalid
from tidemill.services.dagster_home import ensure_dagster_home
from tidemill.services.live_flights import ensure_live_model, write_dags
from tidemill.services.services import Endpoints
from tidemill.settings import Settings
from tidemill.textfile import atomic_write_text


def init(settings: Settings, dags_folder: Path, grpc_address: Mapping[str, str | int]) -> None:
    """Write the live model, Dagster's instance and workspace, and Airflow's DAGs.

    An existing model is kept; the other files are brought up to date. `grpc_address` has the `host`
    and `port` of Dagster's code server. Raises `SpecInvalid` if `TIDEMILL_MODELS` is not set.
    """
    from tidemill.simulation.time_scale import TimeScale

    if "models" not in settings.model_fields_set:
        raise SpecInvalid(
            "TIDEMILL_MODELS is not set, and the folder of the packaged models is not written to.",
            "Set it to a folder that this command may write to.",
        )
    spec = ensure_live_model(settings, settings.models, now_ms())
    ensure_dagster_home(settings)
    write_workspace(Endpoints(settings), grpc_address)
    write_dags(dags_folder, spec, TimeScale.for_spec(spec).ends_at)


def write_workspace(endpoints: Endpoints, grpc_address: Mapping[str, str | int]) -> None:
    """Write the workspace of Dagster's webserver and daemon.

    `grpc_address` is the code server's: its `socket`, or its `host` and `port`.
    """
    grpc_server = {**grpc_address, "location_name": "tidemill"}
    atomic_write_text(
        endpoints.workspace_file, yaml.safe_dump({"load_from": [{"grpc_server": grpc_server}]})
    )
