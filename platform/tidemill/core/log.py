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
class Extent:
    """The offsets of one Kafka partition that can be read: `[low, stable)`.

    `low` moves up by retention; `stable` is the last stable offset, below which every
    transaction has ended.
    """

    low: int
    stable: int


@dataclass(frozen=True)
class Timestamps:
    """How many records carry their producer's time, the broker's time of append, and none."""

    created: int = 0
    appended: int = 0
    none: int = 0


@dataclass(frozen=True)
class Chunk:
    """Consecutive committed data records of one Kafka partition, as parallel lists of one length.

    Offsets ascend, with gaps where markers and aborted records lie. A timestamp is milliseconds
    since 1970, None where the record has none. `appended` counts the records that carry the
    broker's time of append instead of the producer's time of creation.
    """

    partition: int
    offsets: list[int]
    timestamps: list[int | None]
    values: list[bytes | None]
    appended: int = 0


@dataclass(frozen=True)
class LedgerRecord:
    """One record of the ledger topic."""

    offset: int
    value: bytes


@dataclass(frozen=True)
class Heard:
    """What a follower of the ledger topic was told.

    `records` are new, in offset order; `behind` counts those that stand behind them and come
    later. `anew`: the topic is another one than before, and these are its first.
    """

    records: tuple[LedgerRecord, ...]
    behind: int
    anew: bool = False
