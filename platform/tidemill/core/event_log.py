"""What a log gives: topics, extents, chunks of records."""

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
    """The offsets of one Kafka partition that can be read: `[low, stable)`.

    `low` moves up by retention; `stable` is the last stable offset, below which every
    transaction has ended.
    """

    low_watermark: int
    last_stable_offset: int


@dataclass(frozen=True)
class TimestampCounts:
    """How many records carry their producer's time, the broker's time of append, and none."""

    create_time: int = 0
    log_append_time: int = 0
    not_available: int = 0


@dataclass(frozen=True)
class RecordBatch:
    """Consecutive committed data records of one Kafka partition, as parallel lists of one length.

    Offsets ascend, with gaps where markers and aborted records lie. A timestamp is milliseconds
    since 1970, None where the record has none. `appended` counts the records that carry the
    broker's time of append instead of the producer's time of creation.
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
    """What a follower of the ledger topic was told.

    `records` are new, in offset order; `behind` counts those that stand behind them and come
    later. `anew`: the topic is another one than before, and these are its first.
    """

    records: tuple[LedgerRecord, ...]
    lag: int
    reset: bool = False
