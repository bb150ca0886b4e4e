"""What the steps need of the world: a log, a store, a ledger topic, a proof, a tracker, a clock."""

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Protocol

from tidemill.core.event_log import LedgerPoll, LedgerRecord, OffsetRange, RecordBatch, Topic
from tidemill.core.run_record import RegistryVersion, WindowRun

Clock = Callable[[], int]
"""Milliseconds since 1970-01-01 UTC."""


class EventLog(Protocol):
    """A Kafka topic's committed data records, read by offset and never by group."""

    def topic(self, name: str) -> Topic:
        """Raises `TopicMissing`, `LogUnavailable`."""
        ...

    def offset_ranges(self, topic: str) -> Mapping[int, OffsetRange]:
        """Fresh extents of every Kafka partition, as the broker has them now."""
        ...

    def offsets_for_timestamp(self, topic: str, timestamp_ms: int) -> Mapping[int, int | None]:
        """For each Kafka partition an offset at or before its first record with a timestamp at or
        after this one; None where there is none."""
        ...

    def read(
        self, topic: str, ranges: Mapping[int, tuple[int, int]], expected_records: int | None = None
    ) -> Generator[RecordBatch, None, None]:
        """Every committed data record of `[start, end)` of each partition, in offset order.

        Ends when every position has reached its end, records or not. The caller may stop early by
        closing the iterator; `first` says that it expects to, after about so many records. Raises
        `OffsetsExpired`, `LogTruncated`, `LogUnavailable`.
        """
        ...


class Store(Protocol):
    """Named bytes, each written once. Names are `/`-separated, of `[0-9A-Za-z._-]` parts.

    A store across a network raises `StoreUnavailable` from any method; bytes that were on their
    way then may come to stand under their name, whole.
    """

    def get(self, name: str) -> bytes | None:
        """The bytes of this name; None where there are none."""
        ...

    def put(self, name: str, data: bytes) -> bool:
        """Commit durably if the name is free: the first writer wins.

        True if these bytes were written now, False if the name was taken. Raises `StoreFull`,
        `StoreFailed`; then they are discarded, and the name is as free as before.
        """
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Write whether or not the name is taken; readers see the old or the new bytes.

        Raises `StoreFull`, `StoreFailed`.
        """
        ...

    def names(self, prefix: str) -> Iterator[str]:
        """Every name that begins with `prefix` (a folder, ending in `/`, or empty), in order."""
        ...

    def delete(self, name: str) -> None:
        """Remove a name; nothing happens where it is not taken."""
        ...

    def recover(self, model: str) -> None:
        """Put in order what dead writers left; only for the holder of the model's lock."""
        ...


class LedgerTopic(Protocol):
    """The append-only topic of deployments, shared by all models."""

    def identity(self) -> tuple[str, str]:
        """Cluster id and topic id; creates the topic on first use.

        Raises `LedgerMisconfigured`, `LogUnavailable`.
        """
        ...

    def read(self) -> list[LedgerRecord]:
        """Every record that stands in the topic now, in offset order."""
        ...

    def append(self, model: str, value: bytes) -> int:
        """Append durably and give the offset. Raises `LogUnavailable` where the outcome is not
        known; the record may then stand or not."""
        ...


class LedgerFeed(Protocol):
    """The ledger topic as a server follows it: from its start, each record once, never writing."""

    def poll(self, timeout_seconds: float) -> LedgerPoll:
        """What came, as soon as something has, or nothing after so many seconds.

        Where the topic was recreated, or lost records, it begins anew. Raises `LogUnavailable`
        and `TopicMissing`; a later call goes on.
        """
        ...

    def close(self) -> None:
        """Let go of all connections."""
        ...


class BundleValidator(Protocol):
    """Loads bundles where a crash does no harm."""

    def validate(self, bundle: bytes) -> None:
        """Load this bundle in a limited child process and let it answer its golden rows.

        Raises `FeatureSkew` where an answer differs, `BundleUnfit` where the child dies.
        """
        ...


class Tracker(Protocol):
    """Keeps a record of windows and deployments for people; nothing is ever decided by it.

    Every method raises `TrackerUnavailable` where the tracker does not do it in time.
    """

    def recorded_digest(self, model: str, window: str) -> str | None:
        """The digest under which this window was recorded; None where it was not."""
        ...

    def start_run(self, model: str, window: str, parent_run_id: str | None) -> str:
        """The id of the window's run: the one there is, or a new one.

        A new run is nested under the run `parent`, if one is named.
        """
        ...

    def record(self, run_id: str, run: WindowRun) -> None:
        """Write what a run that was begun here shows, or write it anew; then it is recorded."""
        ...

    def run_url(self, run_id: str) -> str:
        """Where people see this run."""
        ...

    def versions(self, model: str) -> list[str]:
        """The digests of all registered versions."""
        ...

    def register(self, model: str, version: RegistryVersion) -> None:
        """Register a model that was deployed, if its digest is not registered yet."""
        ...

    def champion(self, model: str) -> str | None:
        """The digest that the alias `champion` stands at; None where there is no alias."""
        ...

    def set_champion(self, model: str, digest: str) -> None:
        """Let the alias stand at the registered version of this digest."""
        ...

    def end_run(self, run_id: str, succeeded: bool) -> None:
        """Let a run be over."""
        ...
