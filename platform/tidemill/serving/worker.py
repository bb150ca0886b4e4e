"""One serving process: assembled over its adapters, run, and torn down."""

import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import uvloop

from tidemill.core.features import FeatureFunction
from tidemill.ports import BundleValidator, Clock, LedgerFeed, Store
from tidemill.serving.app import App
from tidemill.serving.config import ServerConfig
from tidemill.serving.http import RequestLimits, TokenAuth
from tidemill.serving.ledger_follower import LedgerFollower
from tidemill.serving.loading import PredictorLoader
from tidemill.serving.local_copy import LocalCopy
from tidemill.serving.metrics import Metrics
from tidemill.serving.model_follower import ModelFollower
from tidemill.serving.prediction_log import PredictionLog, Producer
from tidemill.serving.schemas import RequestSchema
from tidemill.serving.server import serve
from tidemill.serving.status import Status
from tidemill.serving.supervisor import Worker
from tidemill.settings_groups import ServeSettings

_BATCH_THREADS = 2
"""Threads for batches, so that they do not delay single rows."""
_SPARE_FILES = 256


class AbortableValidator(BundleValidator, Protocol):
    """A bundle validator that does not delay a shutdown."""

    def abort(self) -> None:
        """Abort the running validation, which then fails, and all later ones; thread-safe."""
        ...


@dataclass(frozen=True)
class Adapters:
    """What a worker uses besides its models' definitions.

    `fetch_bundle` is called with a model and a digest and returns verified bytes, or raises.
    `local_copies` is a store of the server's own. The feature functions are loaded by their
    reference. `producer` is that of the prediction log; None if it is disabled.
    """

    feed: LedgerFeed
    fetch_bundle: Callable[[str, str], bytes]
    local_copies: Store
    validator: AbortableValidator
    load_function: Callable[[str], FeatureFunction]
    producer: Producer | None
    clock: Clock


OpenAdapters = Callable[[], AbstractContextManager[Adapters]]
"""Each process opens its own adapters, because connections and threads do not survive a fork."""


def run_worker(config: ServerConfig, open_adapters: OpenAdapters, worker: Worker) -> None:
    """Serve until SIGTERM. Raises `PrerequisiteMissing` if it cannot listen on the port."""
    settings = config.settings
    _raise_file_limit(settings.max_connections + _SPARE_FILES)
    with ExitStack() as stack:
        adapters = stack.enter_context(open_adapters())
        metrics = Metrics(multiprocess=settings.workers > 1)
        follower = _make_follower(config, adapters, metrics, worker.writes_local_copy)
        stack.enter_context(_running(follower, adapters.validator))
        executor = stack.enter_context(ThreadPoolExecutor(_BATCH_THREADS, "batches"))
        prediction_log = None
        if adapters.producer is not None:
            prediction_log = _make_prediction_log(config, adapters.producer, metrics)
            stack.callback(prediction_log.close, settings.shutdown_grace_seconds)
        app = App(
            status=Status(follower.states, follower.connection, config.specs, adapters.clock),
            metrics=metrics,
            limits=RequestLimits(settings.max_bytes, settings.max_chunks, settings.body_timeout),
            auth=_make_auth(settings),
            executor=executor,
            prediction_log=prediction_log,
        )
        uvloop.run(serve(app, config, listen_before_ready=worker.listens_before_ready))


def _make_follower(
    config: ServerConfig, adapters: Adapters, metrics: Metrics, writes_local_copy: bool
) -> LedgerFollower:
    settings = config.settings
    models = [
        ModelFollower(
            RequestSchema(name, spec.fields, settings.max_rows),
            partial(adapters.fetch_bundle, name),
            PredictorLoader(adapters.validator, adapters.load_function),
            LocalCopy(adapters.local_copies),
            adapters.clock,
            writes_local_copy=writes_local_copy,
            on_event=metrics.count_event,
        )
        for name, spec in config.specs.items()
    ]
    startup_timeout_ms = round(settings.startup_timeout * 1000)
    return LedgerFollower(adapters.feed, models, adapters.clock, startup_timeout_ms)


@contextmanager
def _running(follower: LedgerFollower, validator: AbortableValidator) -> Iterator[None]:
    """Run the follower in its own thread meanwhile."""
    stop = threading.Event()
    thread = threading.Thread(target=follower.run, args=(stop,), name="ledger")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        validator.abort()
        thread.join()


def _make_prediction_log(
    config: ServerConfig, producer: Producer, metrics: Metrics
) -> PredictionLog:
    return PredictionLog(
        producer,
        config.logged_fields,
        lambda model, count: metrics.dropped_predictions.labels(model).inc(count),
    )


def _make_auth(settings: ServeSettings) -> TokenAuth:
    return TokenAuth(settings.token.get_secret_value() if settings.token else None)


def _raise_file_limit(count: int) -> None:
    """Raise the limit of open files as far as the system allows, up to `count`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
