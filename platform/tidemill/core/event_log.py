"""Values read from a log: topics, offset ranges, batches of records."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """A topic as its cluster describes it."""

    name: str
    cluster_id: str
    topic_id: str
    compacted: bool


@dataclass(frozen=True)
class OffsetRange:
    """The offsets of one Kafka partition that can be read: `[low watermark, last stable offset)`.

    Retention raises the low watermark. Below the last stable offset, every transaction has ended.
    """

    low_watermark: int
    last_stable_offset: int


@dataclass(frozen=True)
class TimestampCounts:
    """Numbers of records by the kind of their timestamp: producer's, broker's at append, none."""

    create_time: int = 0
    log_append_time: int = 0
    not_available: int = 0


@dataclass(frozen=True)
class RecordBatch:
    """Consecutive committed data records of one Kafka partition, as parallel lists of one length.

    Offsets ascend, with gaps at transaction markers and aborted records. A timestamp is in
    milliseconds since 1970, None if the record has none. `log_append_time_count` counts the
    records with the broker's time of append instead of the producer's time of creation.
    """

    partition: int
    offsets: list[int]
    timestamps: list[int | None]
    values: list[bytes | None]
    log_append_time_count: int = 0


@dataclass(frozen=True)
class LedgerRecord:
    """One record of the ledger topic."""

    offset: int
    value: bytes


@dataclass(frozen=True)
class LedgerPoll:
    """The result of one poll of the ledger topic.

    `records` are new, in offset order; `lag` counts the records after them that are not read yet.
    `reset`: the topic is not the previous one, and these are its first records.
    """

    records: tuple[LedgerRecord, ...]
    lag: int
    reset: bool = False
