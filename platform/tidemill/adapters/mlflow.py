"""The tracker on MLflow: a run a window, a registered model a model, an alias at the ledger's head.

Nothing is loaded from it: a version's source names a bundle of the store, and no flavor.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would call home from its import on

import mlflow.environment_variables as variables
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError

from tidemill.core.errors import TrackerUnavailable
from tidemill.core.run_record import RegistryVersion, WindowRun
from tidemill.failpoints import failpoint

T = TypeVar("T")

ALIAS = "champion"
_MODEL, _WINDOW, _REPORT = "tidemill.model", "tidemill.window", "tidemill.report"
_DIGEST = "tidemill.digest"
_MAX_LENGTH = {"param": 6000, "tag": 8000}  # characters, as MLflow has them
_MAX_PER_REQUEST = {"param": 100, "metric": 800}  # of one request, which takes 1,000 things in all


class MlflowTracker:
    """The port `Tracker` over a tracking server, or a database and folder of one's own.

    `seconds` is how long one request may take; it is tried once. `ui` is where people see runs.
    """

    def __init__(
        self, uri: str, artifact_location: str | None, ui_url: str, timeout: float
    ) -> None:
        self.uri, self._artifact_location, self._ui_url, self._timeout = (
            uri,
            artifact_location,
            ui_url,
            timeout,
        )
        self._experiment_ids: dict[str, str] = {}
        self._experiment_by_run: dict[str, str] = {}  # experiments by run
        self._logged_params: dict[
            str, Mapping[str, str]
        ] = {}  # what runs that were begun show already
        self._version_numbers: dict[tuple[str, str], str] = {}

    @cached_property
    def _client(self) -> MlflowClient:
        limits: Any = variables
        limits.MLFLOW_HTTP_REQUEST_TIMEOUT.set(max(1, round(self._timeout)))
        limits.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)
        if not self.uri.startswith("http"):
            _check_reachable(self.uri, self._timeout)
        return MlflowClient(self.uri, self.uri)

    def experiment_id(self, model: str) -> str:
        """The id of the model's experiment, which has its name."""
        with self.translate_errors("find the experiment"):
            experiment_id = self._existing_experiment_id(model)
            if experiment_id is None:
                experiment_id = str(self._client.create_experiment(model, self._artifact_location))
                self._experiment_ids[model] = experiment_id
            return experiment_id

    def recorded_digest(self, model: str, window: str) -> str | None:
        with self.translate_errors(f"find the run of window {window}"):
            run = self._find_run(model, window)
            return run.data.tags.get(_REPORT) if run else None

    def start_run(self, model: str, window: str, parent: str | None) -> str:
        with self.translate_errors(f"begin the run of window {window}"):
            existing = self._find_run(model, window)
            failpoint("run.before")
            run_id = (
                str(existing.info.run_id) if existing else self._create_run(model, window, parent)
            )
            failpoint("run.created")
            self._logged_params[run_id] = existing.data.params if existing else {}
            self._experiment_by_run[run_id] = self.experiment_id(model)
            return run_id

    def record(self, run_id: str, run: WindowRun) -> None:
        with self.translate_errors(f"record window {run.window}"):
            self._write_run(run_id, run)
            failpoint("run.after")

    def run_url(self, run_id: str) -> str:
        with self.translate_errors("find a run"):
            experiment_id = (
                self._experiment_by_run.get(run_id)
                or self._client.get_run(run_id).info.experiment_id
            )
        return f"{self._ui_url.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"

    def versions(self, model: str) -> list[str]:
        with self.translate_errors("list the registry's versions"):
            by_digest = {
                version.tags[_DIGEST]: version for version in self._registered_versions(model)
            }
            self._version_numbers |= {
                (model, digest): str(v.version) for digest, v in by_digest.items()
            }
            return list(by_digest)

    def register(self, model: str, version: RegistryVersion) -> None:
        with self.translate_errors(f"register {version.digest[:16]}"):
            if self._version_number(model, version.digest) is not None:
                return
            failpoint("version.before")
            self._ensure_model(model)
            created = self._client.create_model_version(
                model,
                source=f"tidemill://{model}/models/{version.digest}.bundle",
                tags={_DIGEST: version.digest, **_allowed_tags(version.tags)},
                description=version.tags.get("why"),
            )
            failpoint("version.after")
            self._version_numbers[model, version.digest] = str(created.version)

    def champion(self, model: str) -> str | None:
        with self.translate_errors("read the alias"):
            try:
                version = self._client.get_model_version_by_alias(model, ALIAS)
            except MlflowException as error:
                if _is_not_found(error):
                    return None
                raise
            return str(version.tags.get(_DIGEST, f"version {version.version}"))

    def set_champion(self, model: str, digest: str) -> None:
        with self.translate_errors("set the alias"):
            failpoint("alias.before")
            version = self._version_number(model, digest)
            assert version is not None  # only what is registered can be in service
            self._client.set_registered_model_alias(model, ALIAS, version)
            failpoint("alias.after")

    def end_run(self, run_id: str, success: bool) -> None:
        with self.translate_errors("end a run"):
            self._client.set_terminated(run_id, "FINISHED" if success else "FAILED")

    def _existing_experiment_id(self, model: str) -> str | None:
        """The id of the model's experiment, if there is one: to look makes none."""
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

    def _create_run(self, model: str, window: str, parent: str | None) -> str:
        tags = {_MODEL: model, _WINDOW: window}
        if parent is not None:
            tags[MLFLOW_PARENT_RUN_ID] = parent
        run = self._client.create_run(self.experiment_id(model), run_name=window, tags=tags)
        return str(run.info.run_id)

    def _write_run(self, run_id: str, run: WindowRun) -> None:
        """Write what a window's run shows; the report's digest last, as the sign that all is there.

        Parameters of an earlier record stay: MLflow never changes one.
        """
        logged = self._logged_params.pop(run_id)
        with TemporaryDirectory(prefix="tidemill-mlflow-") as folder:
            for name, text in run.texts.items():
                Path(folder, name).write_text(text, encoding="utf-8")
            self._client.log_artifacts(run_id, folder)
        new = {
            key: run_tags
            for key, run_tags in _allowed_keys(run.params).items()
            if key not in logged
        }
        params = [Param(key, run_tags[: _MAX_LENGTH["param"]]) for key, run_tags in new.items()]
        metrics = [
            Metric(key, run_tags, run.timestamp_ms, 0)
            for key, run_tags in _allowed_keys(run.metrics).items()
        ]
        pages = (
            _pages(metrics, _MAX_PER_REQUEST["metric"]),
            _pages(params, _MAX_PER_REQUEST["param"]),
        )
        *earlier, last = list(zip_longest(*pages, fillvalue=())) or [((), ())]
        for page in earlier:
            self._client.log_batch(run_id, *page)
        self._client.set_terminated(run_id)
        failpoint("run.ended")
        run_tags = {f"tidemill.{key}": value for key, value in _allowed_tags(run.tags).items()}
        # Of one request, MLflow writes the tags last.
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

    @contextmanager
    def translate_errors(self, action: str) -> Iterator[None]:
        """Make `TrackerUnavailable` of what MLflow raises meanwhile. `doing`: what was tried."""
        try:
            yield
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
            message = str(getattr(error.__cause__, "orig", error))  # the database's own words
            raise TrackerUnavailable(
                f"MLflow at {_redact_url(self.uri)} did not {action}: {type(error).__name__}: "
                f"{message.splitlines()[0][:300]}",
                "See that it is up (TIDEMILL_MLFLOW__TRACKING_URI). What is missing is made up for "
                "by the next run, or by `tidemill verify MODEL --repair`.",
            ) from error


def _is_not_found(error: MlflowException) -> bool:
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def _allowed_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value[: _MAX_LENGTH["tag"]] for key, value in tags.items() if value}


def _allowed_keys(values: Mapping[str, T]) -> dict[str, T]:
    """The same under keys that MLflow allows, each of its own; field names may hold any letter."""
    renamed: dict[str, T] = {}
    for key, value in values.items():
        sanitized = "".join(c if c.isalnum() or c in "_-. " else "_" for c in key)
        name = sanitized[:240]
        while name in renamed:
            name += "_"
        renamed[name] = value
    return renamed


def _pages(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while page := list(islice(iterator, size)):
        yield page


def _check_reachable(uri: str, timeout: float) -> None:
    """Raise `sqlite3.Error` where this file cannot be written now, `SQLAlchemyError` where this
    PostgreSQL cannot be reached.

    MLflow itself tries for 100 s to open what cannot be opened, and waits 20 s for every lock.
    """
    kind, _, file = uri.partition(":///")
    if kind == "sqlite":
        with closing(sqlite3.connect(file, timeout=timeout)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    elif uri.startswith("postgresql"):
        connect_args = {"connect_timeout": max(1, round(timeout))}
        create_engine(uri, poolclass=NullPool, connect_args=connect_args).connect().close()


def _redact_url(uri: str) -> str:
    """An address without the user and password that it may hold."""
    scheme, separator, remainder = uri.partition("://")
    return f"{scheme}{separator}{remainder.rpartition('@')[2]}"
