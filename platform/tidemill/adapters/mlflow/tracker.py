"""The tracker on MLflow: one run per window, one registered model per model, and an alias."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tidemill.adapters.mlflow.connection import MlflowConnection
from tidemill.adapters.mlflow.limits import (
    MAX_METRICS_PER_REQUEST,
    MAX_PARAM_LENGTH,
    MAX_PARAMS_PER_REQUEST,
    allowed_keys,
    allowed_tags,
    in_pages,
)
from tidemill.core.run_record import RegistryVersion, WindowRun
from tidemill.failpoints import failpoint

ALIAS = "champion"
_MODEL = "tidemill.model"
_WINDOW = "tidemill.window"
_REPORT = "tidemill.report"
_DIGEST = "tidemill.digest"


class MlflowTracker:
    """The port `Tracker` on a tracking server, or on a local database and folder.

    One request may take `timeout` seconds and is not retried. `ui_url` is where runs are shown.
    """

    def __init__(
        self, uri: str, artifact_location: str | None, ui_url: str, timeout: float
    ) -> None:
        self._connection = MlflowConnection(uri, timeout)
        self._artifact_location = artifact_location
        self._ui_url = ui_url
        self._experiment_ids: dict[str, str] = {}
        self._experiment_by_run: dict[str, str] = {}
        # Parameters that a started run already has: MLflow never changes one.
        self._logged_params: dict[str, Mapping[str, str]] = {}
        self._version_numbers: dict[tuple[str, str], str] = {}

    @property
    def uri(self) -> str:
        """The address of the tracking server, or of the local database."""
        return self._connection.uri

    @property
    def _client(self) -> MlflowClient:
        return self._connection.client

    def _translate_errors(self, action: str) -> AbstractContextManager[None]:
        return self._connection.translate_errors(action)

    def experiment_id(self, model: str) -> str:
        """The id of the model's experiment, which is named after the model."""
        with self._translate_errors("find the experiment"):
            experiment_id = self._existing_experiment_id(model)
            if experiment_id is None:
                experiment_id = str(self._client.create_experiment(model, self._artifact_location))
                self._experiment_ids[model] = experiment_id
            return experiment_id

    def recorded_digest(self, model: str, window: str) -> str | None:
        with self._translate_errors(f"find the run of window {window}"):
            run = self._find_run(model, window)
            return run.data.tags.get(_REPORT) if run else None

    def start_parent_run(self, model: str, start: Callable[[str], str]) -> str | None:
        with self._translate_errors("start the run of this Dagster run"):
            # Otherwise MLflow would create the experiment, with artifacts in the working directory.
            self.experiment_id(model)
            return start(self.uri)

    def start_run(self, model: str, window: str, parent_run_id: str | None) -> str:
        with self._translate_errors(f"start the run of window {window}"):
            existing = self._find_run(model, window)
            failpoint("run.before")
            if existing:
                run_id = str(existing.info.run_id)
            else:
                run_id = self._create_run(model, window, parent_run_id)
            failpoint("run.created")
            self._logged_params[run_id] = existing.data.params if existing else {}
            self._experiment_by_run[run_id] = self.experiment_id(model)
            return run_id

    def record(self, run_id: str, run: WindowRun) -> None:
        with self._translate_errors(f"record window {run.window}"):
            self._write_run(run_id, run)
            failpoint("run.after")

    def run_url(self, run_id: str) -> str:
        with self._translate_errors("find a run"):
            experiment_id = (
                self._experiment_by_run.get(run_id)
                or self._client.get_run(run_id).info.experiment_id
            )
        return f"{self._ui_url.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"

    def versions(self, model: str) -> list[str]:
        with self._translate_errors("list the registry's versions"):
            by_digest = {
                version.tags[_DIGEST]: version for version in self._registered_versions(model)
            }
            self._version_numbers |= {
                (model, digest): str(v.version) for digest, v in by_digest.items()
            }
            return list(by_digest)

    def register(self, model: str, version: RegistryVersion) -> None:
        with self._translate_errors(f"register {version.digest[:16]}"):
            if self._version_number(model, version.digest) is not None:
                return
            failpoint("version.before")
            self._ensure_model(model)
            created = self._client.create_model_version(
                model,
                source=f"tidemill://{model}/models/{version.digest}.bundle",
                tags={_DIGEST: version.digest, **allowed_tags(version.tags)},
                description=version.tags.get("reason"),
            )
            failpoint("version.after")
            self._version_numbers[model, version.digest] = str(created.version)

    def champion(self, model: str) -> str | None:
        with self._translate_errors("read the alias"):
            try:
                version = self._client.get_model_version_by_alias(model, ALIAS)
            except MlflowException as error:
                if _is_not_found(error):
                    return None
                raise
            return str(version.tags.get(_DIGEST, f"version {version.version}"))

    def set_champion(self, model: str, digest: str) -> None:
        with self._translate_errors("set the alias"):
            failpoint("alias.before")
            version = self._version_number(model, digest)
            assert version is not None  # only registered models are deployed
            self._client.set_registered_model_alias(model, ALIAS, version)
            failpoint("alias.after")

    def end_run(self, run_id: str, succeeded: bool) -> None:
        with self._translate_errors("end a run"):
            self._client.set_terminated(run_id, "FINISHED" if succeeded else "FAILED")

    def _existing_experiment_id(self, model: str) -> str | None:
        """The id of the model's experiment, or None; this never creates one."""
        if model not in self._experiment_ids:
            experiment = self._client.get_experiment_by_name(model)
            if experiment is None:
                return None
            self._experiment_ids[model] = str(experiment.experiment_id)
        return self._experiment_ids[model]

    def _find_run(self, model: str, window: str) -> Run | None:
        experiment_id = self._existing_experiment_id(model)
        if experiment_id is None:
            return None
        filter_string = f"tags.`{_MODEL}` = '{model}' and tags.`{_WINDOW}` = '{window}'"
        runs = self._client.search_runs([experiment_id], filter_string, max_results=1)
        return runs[0] if runs else None

    def _create_run(self, model: str, window: str, parent_run_id: str | None) -> str:
        tags = {_MODEL: model, _WINDOW: window}
        if parent_run_id is not None:
            tags[MLFLOW_PARENT_RUN_ID] = parent_run_id
        run = self._client.create_run(self.experiment_id(model), run_name=window, tags=tags)
        return str(run.info.run_id)

    def _write_run(self, run_id: str, run: WindowRun) -> None:
        """Write the data of a window's run, and last the report's digest, which marks it complete.

        Existing parameters are kept: MLflow never changes one.
        """
        logged = self._logged_params.pop(run_id)
        with TemporaryDirectory(prefix="tidemill-mlflow-") as folder:
            for name, text in run.texts.items():
                Path(folder, name).write_text(text, encoding="utf-8")
            self._client.log_artifacts(run_id, folder)
        new = {key: value for key, value in allowed_keys(run.params).items() if key not in logged}
        params = [Param(key, value[:MAX_PARAM_LENGTH]) for key, value in new.items()]
        metrics = [
            Metric(key, value, run.timestamp_ms, 0)
            for key, value in allowed_keys(run.metrics).items()
        ]
        pages = (
            in_pages(metrics, MAX_METRICS_PER_REQUEST),
            in_pages(params, MAX_PARAMS_PER_REQUEST),
        )
        *earlier, last = list(zip_longest(*pages, fillvalue=())) or [((), ())]
        for page in earlier:
            self._client.log_batch(run_id, *page)
        self._client.set_terminated(run_id)
        failpoint("run.ended")
        run_tags = {f"tidemill.{key}": value for key, value in allowed_tags(run.tags).items()}
        # Within one request, MLflow writes the tags last.
        tags = [RunTag(*tag) for tag in (run_tags | {_REPORT: run.digest}).items()]
        self._client.log_batch(run_id, *last, tags)

    def _registered_versions(self, model: str) -> Iterator[ModelVersion]:
        token = None
        while True:
            filter_string = f"name = '{model}'"
            page = self._client.search_model_versions(
                filter_string, max_results=1000, page_token=token
            )
            yield from (version for version in page if _DIGEST in version.tags)
            token = page.token
            if not token:
                return

    def _version_number(self, model: str, digest: str) -> str | None:
        if (model, digest) not in self._version_numbers:
            filter_string = f"name = '{model}' and tags.`{_DIGEST}` = '{digest}'"
            for version in self._client.search_model_versions(filter_string, max_results=1):
                self._version_numbers[model, digest] = str(version.version)
        return self._version_numbers.get((model, digest))

    def _ensure_model(self, model: str) -> None:
        if any(name == model for name, _ in self._version_numbers):
            return
        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _is_not_found(error: MlflowException) -> bool:
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
