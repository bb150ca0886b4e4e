"""The MLflow server of `tidemill up` and `tidemill ui`: its command and its environment."""

from tidemill import bootstrap
from tidemill.settings import Settings


def server_command(port: int) -> tuple[str, ...]:
    """The command of MLflow's server on the loopback interface."""
    return ("mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")


def server_env(settings: Settings) -> dict[str, str]:
    """The environment of MLflow's server; without `TIDEMILL_MLFLOW__TRACKING_URI` it serves the
    local database."""
    env = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes that are not needed
    }
    if settings.mlflow.tracking_uri is None:
        tracker = bootstrap.make_tracker(settings)
        assert tracker is not None  # without a tracking URI there is always a local one
        env["MLFLOW_BACKEND_STORE_URI"] = tracker.uri
    return env
