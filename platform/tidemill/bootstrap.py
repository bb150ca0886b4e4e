"""The composition root: builds adapters from the settings, and a model's context from them."""

import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pydantic import SecretStr

from tidemill import failpoints
from tidemill.core.errors import AlreadyRunning, LogUnavailable, SpecInvalid, UnknownModel
from tidemill.core.spec import MODEL_NAME, ModelSpec
from tidemill.cycle.context import ModelContext
from tidemill.cycle.repository import ModelRepository
from tidemill.local.postgres import Postgres
from tidemill.model_files import find_models, read_spec
from tidemill.settings import Settings
from tidemill.settings_groups import KafkaSettings

if TYPE_CHECKING:
    from tidemill.adapters.kafka import Cluster
    from tidemill.adapters.mlflow import MlflowTracker
    from tidemill.ports import Store

_LOCK_RETRY_SECONDS = 0.1  # longer than `is_locked` holds the lock


def model_files(settings: Settings) -> dict[str, Path]:
    """The models of these settings, for every command, for the server and for Dagster: those in
    `TIDEMILL_MODELS` (by default the packaged ones) and the live model of `tidemill up`."""
    return find_models(settings.model_folders)


def load_spec(model: str, settings: Settings) -> ModelSpec:
    """The spec of a model. Raises `UnknownModel`, `SpecInvalid`."""
    return read_spec(_model_file(model, settings))


def _model_file(model: str, settings: Settings) -> Path:
    files = model_files(settings)
    if model not in files or not MODEL_NAME.fullmatch(model):
        raise UnknownModel(
            f"No model {model[:80]!r} is defined.",
            f"The defined models are: {', '.join(files)}. A model is a folder with a defs.yaml in "
            f"{settings.models} (TIDEMILL_MODELS).",
        )
    return files[model]


def make_store(settings: Settings, max_timeout_seconds: float = math.inf) -> "Store":
    """The store of the settings: in a folder, or on S3-compatible storage.

    Calls to the latter time out after `s3.timeout` seconds, or `max_timeout_seconds` if shorter.
    """
    location, s3 = settings.store, settings.s3
    if isinstance(location, Path):
        from tidemill.adapters.files import FileStore

        return FileStore(location)
    from tidemill.adapters.s3 import S3Store

    timeout = min(s3.timeout, max_timeout_seconds)
    return S3Store(location.name, location.prefix, timeout, s3.endpoint, s3.region, s3.credentials)


@contextmanager
def kafka_cluster(settings: Settings, *, start: bool = True) -> Iterator["Cluster"]:
    """The cluster of the settings; without one, the embedded broker, which runs while it is used.

    Without `start`, the broker must be running already; otherwise raises `LogUnavailable`.
    """
    from tidemill.adapters.kafka import Cluster
    from tidemill.local import broker

    kafka = settings.kafka
    if kafka.bootstrap_servers is not None:
        servers, timeout = kafka.bootstrap_servers, kafka.timeout
        yield Cluster(servers, timeout, kafka.ledger_topic, _security_config(kafka))
    elif not start:
        running = broker.status(settings.kafka_data)
        if running is None:
            raise LogUnavailable(
                f"The embedded Kafka of {settings.kafka_data} is not running.",
                "Start it with `tidemill kafka start`.",
            )
        yield Cluster(running.bootstrap_servers, kafka.timeout, kafka.ledger_topic)
    else:
        with broker.running(settings.kafka_data) as servers:
            yield Cluster(servers, kafka.timeout, kafka.ledger_topic)


def _security_config(kafka: KafkaSettings) -> dict[str, str]:
    """The authentication settings of the clients, by librdkafka's property names."""
    security_settings = kafka.model_dump(exclude={"bootstrap_servers", "timeout", "ledger_topic"})
    return {
        name.replace("_", "."): value.get_secret_value()
        if isinstance(value, SecretStr)
        else str(value)
        for name, value in security_settings.items()
        if value is not None
    }


@contextmanager
def open_model(
    spec: ModelSpec,
    settings: Settings,
    *,
    actor: str = "tidemill",
    exclusive: bool = False,
    start: bool = True,
) -> Iterator[ModelContext]:
    """A model's context over the real adapters; `exclusive` holds the model's lock meanwhile.

    Kafka is the cluster of the settings, or the embedded broker, which is started if necessary (and
    if `start` allows it) and then stopped at the end. Raises `AlreadyRunning`, `SpecInvalid` for a
    feature function that cannot be loaded, `LogUnavailable`, `StoreUnavailable`.
    """
    from tidemill.adapters import kafka
    from tidemill.adapters.bundle_validation.fork_server import ForkServerValidator
    from tidemill.adapters.feature_function import load_feature_function

    failpoints.arm(settings.failpoints)
    with ExitStack() as stack:
        store = make_store(settings)
        if exclusive:
            stack.enter_context(exclusive_lock(spec.name, settings))
            store.recover(spec.name)
        cluster = stack.enter_context(kafka_cluster(settings, start=start))
        validator = stack.enter_context(ForkServerValidator())
        if exclusive:  # a validation will follow, and the fork server's imports take a while
            validator.start()
        event_log = stack.enter_context(kafka.KafkaLog(cluster))
        yield ModelContext(
            spec=spec,
            event_log=event_log,
            repository=ModelRepository(store, spec.name),
            ledger=stack.enter_context(kafka.KafkaLedger(cluster)),
            validator=validator,
            clock=lambda: time.time_ns() // 1_000_000,
            feature_function=load_feature_function(spec.features) if spec.features else None,
            load_function=load_feature_function,
            historical_data=_historical_data_reader(spec, settings),
            num_threads=settings.num_threads,
            actor=actor,
        )


@contextmanager
def open_model_readonly(
    spec: ModelSpec, settings: Settings
) -> Iterator[tuple[ModelContext, ModelRepository]]:
    """A model's context with its store, but with an empty log and an empty ledger.

    The second value is a repository over the same store that hides the reports and keeps everything
    that is written in memory.
    """
    from tidemill.adapters import memory
    from tidemill.adapters.feature_function import load_feature_function

    store = make_store(settings)
    feature_function = load_feature_function(spec.features) if spec.features else None
    event_log, ledger, validator = (
        memory.MemoryLog(),
        memory.MemoryLedger(),
        memory.InProcessValidator(),
    )
    repository = ModelRepository(store, spec.name)
    load_function = load_feature_function
    ctx = ModelContext(
        spec,
        event_log,
        repository,
        ledger,
        validator,
        lambda: 0,
        feature_function,
        load_function,
    )
    yield ctx, ModelRepository(memory.OverlayStore(store, f"{spec.name}/reports/"), spec.name)


@contextmanager
def exclusive_lock(model: str, settings: Settings) -> Iterator[None]:
    """Hold the model's lock; the kernel releases it if the process dies. Raises `AlreadyRunning`.

    It only saves work: two writers are safe without it, because the first writer of a record wins.
    """
    with _lock_file(model, settings) as lock:
        if not (
            _try_lock(lock, fcntl.LOCK_EX) or _try_lock(lock, fcntl.LOCK_EX, _LOCK_RETRY_SECONDS)
        ):
            lock.seek(0)
            raise AlreadyRunning(
                f"Model {model} is in use by process {lock.read().strip() or 'unknown'}.",
                "Wait until that process ends, or stop it; completed work is kept.",
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def is_locked(model: str, settings: Settings) -> bool:
    """Whether a process holds the model's lock now; `exclusive_lock` waits out this check."""
    with _lock_file(model, settings) as lock:
        return not _try_lock(lock, fcntl.LOCK_SH)


def _lock_file(model: str, settings: Settings) -> IO[str]:
    folder = settings.home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"{model}.lock").open("a+")


def _try_lock(lock: IO[str], operation: int, delay_seconds: float = 0) -> bool:
    """Wait this many seconds, then try to lock; whether that succeeded."""
    time.sleep(delay_seconds)
    try:
        fcntl.flock(lock, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_alert_sender(settings: Settings) -> Callable[[Mapping[str, object]], None] | None:
    """A function that sends an alert as configured; None if alerts are not configured."""
    alerts = settings.alerts
    if alerts.webhook is None and alerts.command is None:
        return None
    from tidemill.adapters.alert import send

    webhook = alerts.webhook.get_secret_value() if alerts.webhook else None
    return partial(send, webhook=webhook, command=alerts.command, timeout=alerts.timeout)


def make_tracker(settings: Settings) -> "MlflowTracker | None":
    """The MLflow tracker of the settings: a server or a local database; None if it is off."""
    mlflow_settings = settings.mlflow
    if mlflow_settings.tracking_uri == "off":
        return None
    from tidemill.adapters.mlflow import MlflowTracker

    if mlflow_settings.tracking_uri is not None:
        return MlflowTracker(
            mlflow_settings.tracking_uri, None, mlflow_settings.ui_url, mlflow_settings.timeout
        )
    folder, server = settings.mlflow_data, local_postgres(settings)
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = (folder / "artifacts").as_uri()
    uri = f"sqlite:///{folder / 'mlflow.db'}" if server.port is None else server.url("mlflow")
    return MlflowTracker(uri, artifacts, mlflow_settings.ui_url, mlflow_settings.timeout)


def local_postgres(settings: Settings) -> Postgres:
    """The local PostgreSQL, whether or not it is in use."""
    return Postgres(settings.postgres_data)


@contextmanager
def local_databases(settings: Settings) -> Iterator[None]:
    """If the local PostgreSQL is in use, run it meanwhile, for the data of Dagster and MLflow.

    Raises `PrerequisiteMissing`, `ServiceFailed`.
    """
    server = local_postgres(settings)
    with nullcontext() if server.port is None else server.running():
        yield


def _historical_data_reader(
    spec: ModelSpec, settings: Settings
) -> Callable[[], tuple[str, bytes]] | None:
    """A function that reads name and bytes of `initial.file`; None if the spec names no file."""
    if spec.initial.file is None:
        return None
    path = _model_file(spec.name, settings).parent / spec.initial.file

    def read() -> tuple[str, bytes]:
        try:
            return path.name, path.read_bytes()
        except OSError as error:
            raise SpecInvalid(
                f"`initial.file` of model {spec.name} cannot be read: {error}.",
                "Put the file there, or change `initial.file` in defs.yaml.",
            ) from error

    return read
