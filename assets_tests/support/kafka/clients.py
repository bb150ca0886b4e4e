"""Plain Kafka clients: create, alter, fill and read topics without tidemill."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from support.processes.commands import wait_until

TIMEOUT_SECONDS = 60

Records = Sequence[tuple[int, bytes | None]]
"""(timestamp in ms, value) of each record, in the order of appending."""


def admin_client(servers: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": servers})


def administer(
    servers: str, operation: "Callable[[AdminClient], Mapping[Any, Future[Any]]]"
) -> list[Any]:
    """The results of an operation of a new admin client; raises its first error."""
    admin = admin_client(servers)  # without it, the futures would never complete
    return [future.result(TIMEOUT_SECONDS) for future in operation(admin).values()]


def create_topic(
    servers: str, topic: str, partitions: int, replicas: int = 1, **config: str
) -> None:
    """Create a topic with unlimited retention; `config` replaces or adds settings."""
    new_topic = NewTopic(topic, partitions, replicas, config={"retention.ms": "-1", **config})
    administer(servers, lambda admin: admin.create_topics([new_topic]))


def delete_topic(servers: str, topic: str) -> None:
    """Delete a topic, and wait until it is gone."""
    administer(servers, lambda admin: admin.delete_topics([topic]))
    admin = admin_client(servers)
    wait_until(lambda: topic not in admin.list_topics().topics)


def delete_records(servers: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Delete the records below an offset per partition, as retention does; -1 deletes all."""
    places = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
    administer(servers, lambda admin: admin.delete_records(places))


def set_topic_config(servers: str, topic: str, setting: str, value: str) -> None:
    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    administer(servers, lambda admin: admin.incremental_alter_configs([resource]))


def end_offsets(servers: str, topic: str, partitions: int) -> dict[int, int]:
    """The end offset of each partition, open transactions included."""
    places = {TopicPartition(topic, p): OffsetSpec.latest() for p in range(partitions)}
    offsets: dict[int, int] = {}

    def query_succeeds() -> bool:
        try:
            results = administer(servers, lambda admin: admin.list_offsets(places))
        except KafkaException:  # the leader has just changed
            return False
        offsets.update(zip(range(partitions), (result.offset for result in results), strict=True))
        return True

    wait_until(query_succeeds)
    return offsets


def make_producer(servers: str, **config: str) -> Producer:
    """A producer that sends at once."""
    return Producer(
        {
            "bootstrap.servers": servers,
            "enable.idempotence": True,  # else a resent batch may follow a later one
            "linger.ms": 0,
            "message.max.bytes": 4_000_000,
            **{name.replace("_", "."): value for name, value in config.items()},
        }
    )


def append_records(
    servers: str, topic: str, partition: int, records: Records, key: bytes | None = None
) -> None:
    """Append the records to one partition in this order, all with this key."""
    producer = make_producer(servers)
    for timestamp, value in records:
        producer.produce(topic, value, key, partition, timestamp=timestamp)
        producer.poll(0)
    assert producer.flush(TIMEOUT_SECONDS) == 0


def read_records(servers: str, topic: str, partitions: int = 1) -> dict[int, list[Message]]:
    """All committed records of a topic by partition."""
    group = {"group.id": uuid.uuid4().hex, "enable.auto.commit": False}
    consumer = Consumer({"bootstrap.servers": servers, **group, "enable.partition.eof": True})
    records: dict[int, list[Message]] = {partition: [] for partition in range(partitions)}
    try:
        consumer.assign(
            [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in records]
        )
        unread = set(records)
        while unread:
            for message in consumer.consume(10_000, 0.2):
                error = message.error()
                if error is None:
                    records[message.partition()].append(message)
                else:
                    assert error.code() == KafkaError._PARTITION_EOF
                    unread.discard(message.partition())
    finally:
        consumer.close()
    return records
