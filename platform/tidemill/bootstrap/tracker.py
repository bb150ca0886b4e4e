"""The MLflow tracker of the settings."""

from typing import TYPE_CHECKING

from tidemill.bootstrap.databases import local_postgres
from tidemill.settings import Settings

if TYPE_CHECKING:
    from tidemill.adapters.mlflow.tracker import MlflowTracker


def make_tracker(settings: Settings) -> "MlflowTracker | None":
    """The MLflow tracker of the settings: a server or a local database; None if it is off."""
    mlflow_settings = settings.mlflow
    if mlflow_settings.tracking_uri == "off":
        return None
    from tidemill.adapters.mlflow.tracker import MlflowTracker

    if mlflow_settings.tracking_uri is not None:
        return MlflowTracker(
            mlflow_settings.tracking_uri, None, mlflow_settings.ui_url, mlflow_settings.timeout
        )
    folder, server = settings.mlflow_data, local_postgres(settings)
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = (folder / "artifacts").as_uri()
    uri = f"sqlite:///{folder / 'mlflow.db'}" if server.port is None else server.url("mlflow")
    return MlflowTracker(uri, artifacts, mlflow_settings.ui_url, mlflow_settings.timeout)
