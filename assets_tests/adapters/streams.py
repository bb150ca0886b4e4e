"""A small simulated stream, and the records of its topic."""

import polars as pl
from confluent_kafka import Message

from support.kafka import clients

MINUTE = 60_000
PARTITIONS = 4


def make_stream(size: int, text: str = "") -> pl.DataFrame:
    """A stream of `size` events, one per minute from 1970-01-01T00:01Z, each due 30 s later."""
    seq = pl.int_range(size, dtype=pl.Int64)
    return pl.select(
        seq=seq.cast(pl.UInt32),
        partition=(seq * 7 // 3) % PARTITIONS,
        key=pl.format("key {}", seq % 10),
        timestamp=(seq + 1) * MINUTE,
        due=(seq + 1) * MINUTE + MINUTE // 2,
        value=pl.concat_str(pl.lit('{"event":'), seq, pl.lit(f',"text":"{text}"}}')),
    )


def read_records(bootstrap_servers: str, topic: str) -> dict[int, list[Message]]:
    """All records by partition, read with a plain Kafka consumer."""
    return clients.read_records(bootstrap_servers, topic, PARTITIONS)


def record_count(bootstrap_servers: str, topic: str) -> int:
    """The number of records in all partitions."""
    return sum(clients.end_offsets(bootstrap_servers, topic, PARTITIONS).values())


def read_sequences(bootstrap_servers: str, topic: str) -> dict[int, list[int]]:
    return {
        partition: [int(dict(message.headers())["seq"]) for message in messages]
        for partition, messages in read_records(bootstrap_servers, topic).items()
    }


def sequences_by_partition(events: pl.DataFrame) -> dict[int, list[int]]:
    return {
        partition: events.filter(pl.col("partition") == partition)["seq"].to_list()
        for partition in range(PARTITIONS)
    }
