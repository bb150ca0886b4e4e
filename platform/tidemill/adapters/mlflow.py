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
from tidemill.core.tracking import RegistryVersion, WindowRun
from tidemill.failpoints import failpoint

T = TypeVar("T")

ALIAS = "champion"
_MODEL, _WINDOW, _REPORT = "tidemill.model", "tidemill.window", "tidemill.report"
_DIGEST = "tidemill.digest"
_LONGEST = {"param": 6000, "tag": 8000}  # characters, as MLflow has them
_PAGE = {"param": 100, "metric": 800}  # of one request, which takes 1,000 things in all


class MlflowTracker:
    """The port `Tracker` over a tracking server, or a database and folder of one's own.

    `seconds` is how long one request may take; it is tried once. `ui` is where people see runs.
    """

    def __init__(self, uri: str, artifacts: str | None, ui: str, seconds: float) -> None:
        self.uri, self._artifacts, self._ui, self._seconds = uri, artifacts, ui, seconds
        self._experiments: dict[str, str] = {}
        self._addresses: dict[str, str] = {}  # experiments by run
        self._params: dict[str, Mapping[str, str]] = {}  # what runs that were begun show already
        self._versions: dict[tuple[str, str], str] = {}

    @cached_property
    def _client(self) -> MlflowClient:
        limits: Any = variables
        limits.MLFLOW_HTTP_REQUEST_TIMEOUT.set(max(1, round(self._seconds)))
        limits.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)
        if not self.uri.startswith("http"):
            _look_at(self.uri, self._seconds)
        return MlflowClient(self.uri, self.uri)

    def experiment(self, model: str) -> str:
        """The id of the model's experiment, which has its name."""
        with self.named("find the experiment"):
            found = self._known(model)
            if found is None:
                found = str(self._client.create_experiment(model, self._artifacts))
                self._experiments[model] = found
            return found

    def recorded(self, model: str, window: str) -> str | None:
        with self.named(f"find the run of window {window}"):
            found = self._find(model, window)
            return found.data.tags.get(_REPORT) if found else None

    def begin(self, model: str, window: str, parent: str | None) -> str:
        with self.named(f"begin the run of window {window}"):
            found = self._find(model, window)
            failpoint("run.before")
            run_id = str(found.info.run_id) if found else self._create(model, window, parent)
            failpoint("run.created")
            self._params[run_id] = found.data.params if found else {}
            self._addresses[run_id] = self.experiment(model)
            return run_id

    def record(self, run_id: str, run: WindowRun) -> None:
        with self.named(f"record window {run.window}"):
            self._fill(run_id, run)
            failpoint("run.after")

    def address(self, run: str) -> str:
        with self.named("find a run"):
            known = self._addresses.get(run) or self._client.get_run(run).info.experiment_id
        return f"{self._ui.rstrip('/')}/#/experiments/{known}/runs/{run}"

    def versions(self, model: str) -> list[str]:
        with self.named("list the registry's versions"):
            found = {version.tags[_DIGEST]: version for version in self._registered(model)}
            self._versions |= {(model, digest): str(v.version) for digest, v in found.items()}
            return list(found)

    def register(self, model: str, version: RegistryVersion) -> None:
        with self.named(f"register {version.digest[:16]}"):
            if self._version(model, version.digest) is not None:
                return
            failpoint("version.before")
            self._ensure_model(model)
            made = self._client.create_model_version(
                model,
                source=f"tidemill://{model}/models/{version.digest}.bundle",
                tags={_DIGEST: version.digest, **_tags(version.tags)},
                description=version.tags.get("why"),
            )
            failpoint("version.after")
            self._versions[model, version.digest] = str(made.version)

    def champion(self, model: str) -> str | None:
        with self.named("read the alias"):
            try:
                found = self._client.get_model_version_by_alias(model, ALIAS)
            except MlflowException as error:
                if _absent(error):
                    return None
                raise
            return str(found.tags.get(_DIGEST, f"version {found.version}"))

    def set_champion(self, model: str, digest: str) -> None:
        with self.named("set the alias"):
            failpoint("alias.before")
            version = self._version(model, digest)
            assert version is not None  # only what is registered can be in service
            self._client.set_registered_model_alias(model, ALIAS, version)
            failpoint("alias.after")

    def end(self, run: str, success: bool) -> None:
        with self.named("end a run"):
            self._client.set_terminated(run, "FINISHED" if success else "FAILED")

    def _known(self, model: str) -> str | None:
        """The id of the model's experiment, if there is one: to look makes none."""
        if model not in self._experiments:
            found = self._client.get_experiment_by_name(model)
            if found is None:
                return None
            self._experiments[model] = str(found.experiment_id)
        return self._experiments[model]

    def _find(self, model: str, window: str) -> Run | None:
        experiment = self._known(model)
        if experiment is None:
            return None
        told = f"tags.`{_MODEL}` = '{model}' and tags.`{_WINDOW}` = '{window}'"
        found = self._client.search_runs([experiment], told, max_results=1)
        return found[0] if found else None

    def _create(self, model: str, window: str, parent: str | None) -> str:
        tags = {_MODEL: model, _WINDOW: window}
        if parent is not None:
            tags[MLFLOW_PARENT_RUN_ID] = parent
        made = self._client.create_run(self.experiment(model), run_name=window, tags=tags)
        return str(made.info.run_id)

    def _fill(self, run_id: str, run: WindowRun) -> None:
        """Write what a window's run shows; the report's digest last, as the sign that all is there.

        Parameters of an earlier record stay: MLflow never changes one.
        """
        known = self._params.pop(run_id)
        with TemporaryDirectory(prefix="tidemill-mlflow-") as folder:
            for name, text in run.texts.items():
                Path(folder, name).write_text(text, encoding="utf-8")
            self._client.log_artifacts(run_id, folder)
        new = {key: told for key, told in _named(run.params).items() if key not in known}
        params = [Param(key, told[: _LONGEST["param"]]) for key, told in new.items()]
        metrics = [Metric(key, told, run.timestamp_ms, 0) for key, told in _named(run.metrics).items()]
        pages = _pages(metrics, _PAGE["metric"]), _pages(params, _PAGE["param"])
        *earlier, last = list(zip_longest(*pages, fillvalue=())) or [((), ())]
        for page in earlier:
            self._client.log_batch(run_id, *page)
        self._client.set_terminated(run_id)
        failpoint("run.ended")
        told = {f"tidemill.{key}": value for key, value in _tags(run.tags).items()}
        # Of one request, MLflow writes the tags last.
        tags = [RunTag(*tag) for tag in (told | {_REPORT: run.digest}).items()]
        self._client.log_batch(run_id, *last, tags)

    def _registered(self, model: str) -> Iterator[ModelVersion]:
        token = None
        while True:
            told = f"name = '{model}'"
            page = self._client.search_model_versions(told, max_results=1000, page_token=token)
            yield from (version for version in page if _DIGEST in version.tags)
            token = page.token
            if not token:
                return

    def _version(self, model: str, digest: str) -> str | None:
        if (model, digest) not in self._versions:
            told = f"name = '{model}' and tags.`{_DIGEST}` = '{digest}'"
            for version in self._client.search_model_versions(told, max_results=1):
                self._versions[model, digest] = str(version.version)
        return self._versions.get((model, digest))

    def _ensure_model(self, model: str) -> None:
        if any(known == model for known, _ in self._versions):
            return
        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    @contextmanager
    def named(self, doing: str) -> Iterator[None]:
        """Make `TrackerUnavailable` of what MLflow raises meanwhile. `doing`: what was tried."""
        try:
            yield
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
            said = str(getattr(error.__cause__, "orig", error))  # the database's own words
            raise TrackerUnavailable(
                f"MLflow at {_shown(self.uri)} did not {doing}: {type(error).__name__}: "
                f"{said.splitlines()[0][:300]}",
                "See that it is up (TIDEMILL_MLFLOW__TRACKING_URI). What is missing is made up for "
                "by the next run, or by `tidemill verify MODEL --repair`.",
            ) from error


def _absent(error: MlflowException) -> bool:
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value[: _LONGEST["tag"]] for key, value in tags.items() if value}


def _named(told: Mapping[str, T]) -> dict[str, T]:
    """The same under keys that MLflow allows, each of its own; field names may hold any letter."""
    named: dict[str, T] = {}
    for key, value in told.items():
        plain = "".join(c if c.isalnum() or c in "_-. " else "_" for c in key)
        name = plain[:240]
        while name in named:
            name += "_"
        named[name] = value
    return named


def _pages(things: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(things)
    while page := list(islice(rest, size)):
        yield page


def _look_at(uri: str, seconds: float) -> None:
    """Raise `sqlite3.Error` where this file cannot be written now, `SQLAlchemyError` where this
    PostgreSQL cannot be reached.

    MLflow itself tries for 100 s to open what cannot be opened, and waits 20 s for every lock.
    """
    kind, _, file = uri.partition(":///")
    if kind == "sqlite":
        with closing(sqlite3.connect(file, timeout=seconds)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    elif uri.startswith("postgresql"):
        patience = {"connect_timeout": max(1, round(seconds))}
        create_engine(uri, poolclass=NullPool, connect_args=patience).connect().close()


def _shown(uri: str) -> str:
    """An address without the user and password that it may hold."""
    scheme, mark, rest = uri.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
