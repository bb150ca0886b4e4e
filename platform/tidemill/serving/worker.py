"""One process that serves: its parts put together from the settings, and taken apart again."""

import logging
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import uvloop

from tidemill import bootstrap
from tidemill.adapters.feature_function import load_feature_function
from tidemill.adapters.files import FileStore
from tidemill.adapters.kafka import Cluster, KafkaFeed, create_topic, make_producer
from tidemill.adapters.prover.forked import ForkServerValidator
from tidemill.core.errors import LogUnavailable
from tidemill.core.spec import ModelSpec
from tidemill.cycle.archive import ModelRepository
from tidemill.serving.app import App
from tidemill.serving.following import Follower
from tidemill.serving.http import Bounds, Guard
from tidemill.serving.loading import Loader
from tidemill.serving.local_copy import LocalCopy
from tidemill.serving.metrics import Metrics
from tidemill.serving.prediction_log import PredictionLog, topic_of
from tidemill.serving.schemas import Contract
from tidemill.serving.server import serve
from tidemill.serving.status import Status
from tidemill.settings import Settings

logger = logging.getLogger("tidemill.serving")

_THREADS = 2
"""For batches, so that they do not hold up the single rows."""
_SPARE_FILES = 256
_SHORTEST_PATIENCE = 1.0
"""Seconds that a store may take to give a bundle, however little patience there is."""
_WEEK = {"retention.ms": "604800000"}
_QUEUE = {
    "enable.idempotence": False,
    "linger.ms": 50,
    "queue.buffering.max.messages": 50_000,
    "queue.buffering.max.kbytes": 65_536,
}


def work(
    settings: Settings,
    specs: Mapping[str, ModelSpec],
    address: str,
    port: int,
    first: bool = True,
    listening: Callable[[], None] | None = None,
) -> None:
    """Serve these models at an address until SIGTERM.

    The `first` of several workers keeps the local copy. `listening` is called as soon as it
    listens; without it, it listens when it is ready.
    """
    told = settings.serve
    _allow_files(told.max_connections + _SPARE_FILES)
    with ExitStack() as stack:
        at = stack.enter_context(bootstrap.kafka_cluster(settings))
        metrics = Metrics(shared=told.workers > 1)
        follower = stack.enter_context(_following(settings, specs, at, metrics, first))
        pool = stack.enter_context(ThreadPoolExecutor(_THREADS, "batches"))
        app = App(
            status=Status(follower, dict(specs), _now),
            metrics=metrics,
            bounds=Bounds(told.max_bytes, told.max_chunks, told.body_timeout),
            guard=Guard(told.token.get_secret_value() if told.token else None),
            pool=pool,
            log=stack.enter_context(_log(settings, specs, at, metrics)),
        )
        uvloop.run(serve(app, address, port, told, listening))


@contextmanager
def _following(
    settings: Settings, specs: Mapping[str, ModelSpec], at: Cluster, metrics: Metrics, first: bool
) -> Iterator[Follower]:
    """The follower, at work in a thread of its own."""
    told = settings.serve
    store = bootstrap.make_store(settings, max(told.startup_timeout, _SHORTEST_PATIENCE))
    contracts = {name: Contract(name, spec.fields, told.max_rows) for name, spec in specs.items()}
    with ForkServerValidator() as prover:
        feed = KafkaFeed(at)
        follower = Follower(
            feed,
            contracts,
            lambda model, digest: ModelRepository(store, model).bundle(digest),
            Loader(prover, load_feature_function),
            LocalCopy(FileStore(settings.serving_data)),
            _now,
            patience=round(told.startup_timeout * 1000),
            keeps=first,
            told=metrics.happened,
        )
        stop = threading.Event()
        thread = threading.Thread(target=follower.run, args=(stop,), name="ledger")
        thread.start()
        try:
            yield follower
        finally:
            stop.set()
            prover.abort()
            thread.join()
            feed.close()


@contextmanager
def _log(
    settings: Settings, specs: Mapping[str, ModelSpec], at: Cluster, metrics: Metrics
) -> Iterator[PredictionLog | None]:
    """The log of predictions, if it is asked for."""
    told = settings.serve
    if not told.prediction_log:
        yield None
        return
    wanted = {
        model: {
            name: place for place, name in enumerate(spec.fields) if name in told.prediction_fields
        }
        for model, spec in specs.items()
    }
    log = PredictionLog(
        make_producer(at, _QUEUE),
        wanted,
        lambda model, count: metrics.dropped.labels(model).inc(count),
    )
    threading.Thread(target=_make_topics, args=(at, list(specs)), daemon=True).start()
    yield log
    log.close(told.shutdown_grace_seconds)


def _make_topics(at: Cluster, models: list[str]) -> None:
    """Make the topics of predictions as soon as Kafka is there; they are kept for a week."""
    for model in models:
        while True:
            try:
                create_topic(at, topic_of(model), 1, _WEEK)
                break
            except LogUnavailable as error:
                logger.warning("Model %s: predictions are not logged yet: %s", model, error)
                time.sleep(1)


def _allow_files(count: int) -> None:
    """Raise the limit of open files as far as the system lets us, up to `count`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _now() -> int:
    return time.time_ns() // 1_000_000
