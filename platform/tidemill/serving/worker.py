"""One serving process: assembled from the settings, run, and torn down."""

import logging
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import uvloop

from tidemill import bootstrap
from tidemill.adapters.bundle_validation.fork_server import ForkServerValidator
from tidemill.adapters.feature_function import load_feature_function
from tidemill.adapters.files import FileStore
from tidemill.adapters.kafka import Cluster, KafkaFeed, create_topic, make_producer
from tidemill.core.errors import LogUnavailable
from tidemill.core.spec import ModelSpec
from tidemill.cycle.repository import ModelRepository
from tidemill.serving.app import App
from tidemill.serving.http import RequestLimits, TokenAuth
from tidemill.serving.ledger_follower import LedgerFollower
from tidemill.serving.loading import PredictorLoader
from tidemill.serving.local_copy import LocalCopy
from tidemill.serving.metrics import Metrics
from tidemill.serving.model_follower import ModelFollower
from tidemill.serving.prediction_log import PredictionLog, predictions_topic
from tidemill.serving.schemas import RequestSchema
from tidemill.serving.server import serve
from tidemill.serving.status import Status
from tidemill.settings import Settings

logger = logging.getLogger("tidemill.serving")

_BATCH_THREADS = 2
"""Threads for batches, so that they do not delay single rows."""
_SPARE_FILES = 256
_MIN_STORE_TIMEOUT_SECONDS = 1.0
"""The least timeout of the store, however short the startup timeout is."""
_TOPIC_CONFIG = {"retention.ms": "604800000"}
_PRODUCER_CONFIG = {
    "enable.idempotence": False,
    "linger.ms": 50,
    "queue.buffering.max.messages": 50_000,
    "queue.buffering.max.kbytes": 65_536,
}


def run_worker(
    settings: Settings,
    specs: Mapping[str, ModelSpec],
    address: str,
    port: int,
    is_first: bool = True,
    on_listening: Callable[[], None] | None = None,
) -> None:
    """Serve these models on an address until SIGTERM.

    The first of several workers writes the local copy. `on_listening` is called as soon as the
    server listens; without it, the server starts to listen only when it is ready.
    """
    serve_settings = settings.serve
    _raise_file_limit(serve_settings.max_connections + _SPARE_FILES)
    with ExitStack() as stack:
        cluster = stack.enter_context(bootstrap.kafka_cluster(settings))
        metrics = Metrics(multiprocess=serve_settings.workers > 1)
        follower = stack.enter_context(
            _running_follower(settings, specs, cluster, metrics, is_first)
        )
        executor = stack.enter_context(ThreadPoolExecutor(_BATCH_THREADS, "batches"))
        app = App(
            status=Status(follower.states, follower.connection, specs, _now_ms),
            metrics=metrics,
            limits=RequestLimits(
                serve_settings.max_bytes, serve_settings.max_chunks, serve_settings.body_timeout
            ),
            auth=TokenAuth(
                serve_settings.token.get_secret_value() if serve_settings.token else None
            ),
            executor=executor,
            prediction_log=stack.enter_context(
                _open_prediction_log(settings, specs, cluster, metrics)
            ),
        )
        uvloop.run(serve(app, address, port, serve_settings, on_listening))


@contextmanager
def _running_follower(
    settings: Settings,
    specs: Mapping[str, ModelSpec],
    cluster: Cluster,
    metrics: Metrics,
    is_first: bool,
) -> Iterator[LedgerFollower]:
    """The follower, running in its own thread."""
    serve_settings = settings.serve
    store = bootstrap.make_store(
        settings, max(serve_settings.startup_timeout, _MIN_STORE_TIMEOUT_SECONDS)
    )
    with ForkServerValidator() as validator:
        feed = KafkaFeed(cluster)
        models = [
            ModelFollower(
                RequestSchema(name, spec.fields, serve_settings.max_rows),
                ModelRepository(store, name).bundle,
                PredictorLoader(validator, load_feature_function),
                LocalCopy(FileStore(settings.serving_data)),
                _now_ms,
                writes_local_copy=is_first,
                on_event=metrics.count_event,
            )
            for name, spec in specs.items()
        ]
        follower = LedgerFollower(
            feed, models, _now_ms, round(serve_settings.startup_timeout * 1000)
        )
        stop = threading.Event()
        thread = threading.Thread(target=follower.run, args=(stop,), name="ledger")
        thread.start()
        try:
            yield follower
        finally:
            stop.set()
            validator.abort()
            thread.join()
            feed.close()


@contextmanager
def _open_prediction_log(
    settings: Settings, specs: Mapping[str, ModelSpec], cluster: Cluster, metrics: Metrics
) -> Iterator[PredictionLog | None]:
    """The prediction log, if it is enabled."""
    serve_settings = settings.serve
    if not serve_settings.prediction_log:
        yield None
        return
    logged_fields = {
        model: {
            name: index
            for index, name in enumerate(spec.fields)
            if name in serve_settings.prediction_fields
        }
        for model, spec in specs.items()
    }
    log = PredictionLog(
        make_producer(cluster, _PRODUCER_CONFIG),
        logged_fields,
        lambda model, count: metrics.dropped_predictions.labels(model).inc(count),
    )
    threading.Thread(target=_create_topics, args=(cluster, list(specs)), daemon=True).start()
    yield log
    log.close(serve_settings.shutdown_grace_seconds)


def _create_topics(cluster: Cluster, models: list[str]) -> None:
    """Create the prediction topics, with a retention of a week, as soon as Kafka is available."""
    for model in models:
        while True:
            try:
                create_topic(cluster, predictions_topic(model), 1, _TOPIC_CONFIG)
                break
            except LogUnavailable as error:
                logger.warning("Model %s: predictions are not logged yet: %s", model, error)
                time.sleep(1)


def _raise_file_limit(count: int) -> None:
    """Raise the limit of open files as far as the system allows, up to `count`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
