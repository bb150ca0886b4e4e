"""The adapters of one process of the prediction server."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tidemill.adapters.bundle_validation.fork_server import ForkServerValidator
from tidemill.adapters.clock import now_ms
from tidemill.adapters.feature_function import load_feature_function
from tidemill.adapters.files import FileStore
from tidemill.adapters.kafka import Cluster, KafkaFeed, create_topic, make_producer
from tidemill.bootstrap.kafka import kafka_cluster
from tidemill.bootstrap.store import make_store
from tidemill.core.errors import LogUnavailable
from tidemill.cycle.model_store import ModelStore
from tidemill.serving.prediction_log import Producer, predictions_topic
from tidemill.serving.worker import Adapters
from tidemill.settings import Settings

logger = logging.getLogger("tidemill.serving")

_MIN_STORE_TIMEOUT_SECONDS = 1.0
"""The least timeout of the store, however short the startup timeout is."""
_TOPIC_CONFIG = {"retention.ms": "604800000"}
_PRODUCER_CONFIG = {
    "enable.idempotence": False,
    "linger.ms": 50,
    "queue.buffering.max.messages": 50_000,
    "queue.buffering.max.kbytes": 65_536,
}


@contextmanager
def open_adapters(settings: Settings, models: Sequence[str]) -> Iterator[Adapters]:
    """The adapters of a worker that serves these models, for the process that calls this.

    Without a cluster in the settings, the embedded broker runs meanwhile.
    """
    serve_settings = settings.serve
    store = make_store(settings, max(serve_settings.startup_timeout, _MIN_STORE_TIMEOUT_SECONDS))
    with ExitStack() as stack:
        cluster = stack.enter_context(kafka_cluster(settings))
        validator = stack.enter_context(ForkServerValidator())
        feed = KafkaFeed(cluster)
        stack.callback(feed.close)
        yield Adapters(
            feed=feed,
            fetch_bundle=lambda model, digest: ModelStore(store, model).bundle(digest),
            local_copies=FileStore(settings.serving_data),
            validator=validator,
            load_function=load_feature_function,
            producer=_make_producer(cluster, models) if serve_settings.prediction_log else None,
            clock=now_ms,
        )


def _make_producer(cluster: Cluster, models: Sequence[str]) -> Producer:
    """The producer of the prediction log, whose topics are created in the background."""
    threading.Thread(target=_create_topics, args=(cluster, models), daemon=True).start()
    producer: Producer = make_producer(cluster, _PRODUCER_CONFIG)
    return producer


def _create_topics(cluster: Cluster, models: Sequence[str]) -> None:
    """Create the prediction topics, with a retention of a week, as soon as Kafka is available."""
    for model in models:
        while True:
            try:
                create_topic(cluster, predictions_topic(model), 1, _TOPIC_CONFIG)
                break
            except LogUnavailable as error:
                logger.warning("Model %s: predictions are not logged yet: %s", model, error)
                time.sleep(1)
