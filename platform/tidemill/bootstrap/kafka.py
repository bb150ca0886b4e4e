"""The Kafka cluster of the settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import SecretStr

from tidemill.core.errors import LogUnavailable
from tidemill.settings import Settings
from tidemill.settings_groups import KafkaSettings

if TYPE_CHECKING:
    from tidemill.adapters.kafka import Cluster


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
