"""The ports of the steps: log, store, ledger topic, bundle validator, tracker and clock."""

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Protocol

from tidemill.core.event_log import LedgerPoll, LedgerRecord, OffsetRange, RecordBatch, Topic
from tidemill.core.run_record import RegistryVersion, WindowRun

Clock = Callable[[], int]
"""Milliseconds since 1970-01-01 UTC."""


class EventLog(Protocol):
    """The committed data records of Kafka topics, read by offset, without a consumer group."""

    def topic(self, name: str) -> Topic:
        """The topic of this name. Raises `TopicMissing`, `LogUnavailable`."""
        ...

    def offset_ranges(self, topic: str) -> Mapping[int, OffsetRange]:
        """The offset range of every Kafka partition, queried from the broker now."""
        ...

    def offsets_for_timestamp(self, topic: str, timestamp_ms: int) -> Mapping[int, int | None]:
        """For each Kafka partition, an offset at or before its first record with a timestamp at or
        after this one; None if it has no such record."""
        ...

    def read(
        self, topic: str, ranges: Mapping[int, tuple[int, int]], expected_records: int | None = None
    ) -> Generator[RecordBatch, None, None]:
        """Every committed data record of `[start, end)` of each partition, in offset order.

        Ends when every position has reached its end, with or without records. The caller may stop
        early by closing the iterator; `expected_records` is a hint that it will, after about so
        many records. Raises `OffsetsExpired`, `LogTruncated`, `LogUnavailable`.
        """
        ...


class Store(Protocol):
    """Named bytes, each written once. Names are `/`-separated, of `[0-9A-Za-z._-]` parts.

    A store across a network may raise `StoreUnavailable` from any method. A write that was in
    progress may still be completed later, but never partly.
    """

    def get(self, name: str) -> bytes | None:
        """The bytes of this name; None if there are none."""
        ...

    def put(self, name: str, data: bytes) -> bool:
        """Commit durably if the name is free: the first writer wins.

        True if these bytes were written now, False if the name was taken. Raises `StoreFull` and
        `StoreFailed`; then the bytes are discarded, and the name is still free.
        """
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Write whether or not the name is taken; readers see either the old or the new bytes.

        Raises `StoreFull`, `StoreFailed`.
        """
        ...

    def names(self, prefix: str) -> Iterator[str]:
        """Every name that starts with `prefix` (a folder ending in `/`, or empty), in order."""
        ...

    def delete(self, name: str) -> None:
        """Delete a name; a no-op if it does not exist."""
        ...

    def recover(self, model: str) -> None:
        """Clean up after writers that died. Only the holder of the model's lock may call it."""
        ...


class LedgerTopic(Protocol):
    """The append-only topic of deployments, shared by all models."""

    def identity(self) -> tuple[str, str]:
        """Cluster id and topic id; creates the topic on first use.

        Raises `LedgerMisconfigured`, `LogUnavailable`.
        """
        ...

    def read(self) -> list[LedgerRecord]:
        """Every record that the topic holds now, in offset order."""
        ...

    def append(self, model: str, value: bytes) -> int:
        """Append durably and return the offset. Raises `LogUnavailable` if the outcome is unknown:
        the record may have been appended or not."""
        ...


class LedgerFeed(Protocol):
    """The ledger topic as a server follows it: read-only, from the start, each record once."""

    def poll(self, timeout_seconds: float) -> LedgerPoll:
        """The new records, as soon as there are any, or none after so many seconds.

        If the topic was recreated or has lost records, it starts from the beginning. Raises
        `LogUnavailable` and `TopicMissing`; a later call continues.
        """
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class BundleValidator(Protocol):
    """Loads bundles in a process whose crash is harmless."""

    def validate(self, bundle: bytes) -> None:
        """Load this bundle in a limited child process and predict its golden rows.

        Raises `FeatureSkew` if a prediction differs, `BundleInvalid` if the child dies.
        """
        ...


class Tracker(Protocol):
    """Records windows and deployments for people; it never influences a decision.

    Every method raises `TrackerUnavailable` if the tracker fails or times out.
    """

    def recorded_digest(self, model: str, window: str) -> str | None:
        """The digest under which this window was recorded; None if it was not."""
        ...

    def start_parent_run(self, model: str, start: Callable[[str], str]) -> str | None:
        """The id of the run under which the windows of one Dagster run are recorded.

        `start` finds or creates it in the tracker's data, whose address it gets, and under the
        model's name; it returns the id. None, without a call, if the data have no address.
        """
        ...

    def start_run(self, model: str, window: str, parent_run_id: str | None) -> str:
        """The id of the window's run: the existing one, or a new one.

        A new run is nested under the run `parent_run_id`, unless that is None.
        """
        ...

    def record(self, run_id: str, run: WindowRun) -> None:
        """Write the data of a run that `start_run` returned, or overwrite them; afterwards the
        window counts as recorded."""
        ...

    def run_url(self, run_id: str) -> str:
        """The address of this run in the tracker's UI."""
        ...

    def versions(self, model: str) -> list[str]:
        """The digests of all registered versions."""
        ...

    def register(self, model: str, version: RegistryVersion) -> None:
        """Register a deployed model; a no-op if its digest is registered already."""
        ...

    def champion(self, model: str) -> str | None:
        """The digest that the alias `champion` points to; None if there is no alias."""
        ...

    def set_champion(self, model: str, digest: str) -> None:
        """Point the alias to the registered version of this digest."""
        ...

    def end_run(self, run_id: str, succeeded: bool) -> None:
        """Mark a run as finished."""
        ...
