"""Plans: the offsets of each Kafka partition that belong to a window, permanently."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from tidemill.core.canonical import FORMAT

INITIAL_KEY = "initial"
"""The key of a model's first plan, of the offsets before its first window."""

EndReason = Literal["boundary", "idle", "silent", "closed"]


@dataclass(frozen=True)
class Observation:
    """How long the end offset of one Kafka partition has not changed.

    `first_seen_ms` and `last_seen_ms` are the host clock's milliseconds since 1970 when
    `end_offset`, the last stable offset, was first and last seen.
    """

    end_offset: int
    first_seen_ms: int
    last_seen_ms: int

    @property
    def unchanged_for_ms(self) -> int:
        """Milliseconds for which the end offset is known to be unchanged."""
        return self.last_seen_ms - self.first_seen_ms

    def updated(self, end_offset: int, now_ms: int) -> "Observation":
        """The observation after `end_offset` was seen at `now_ms`."""
        if end_offset != self.end_offset or now_ms < self.first_seen_ms:
            return Observation(end_offset, now_ms, now_ms)
        return Observation(end_offset, self.first_seen_ms, max(now_ms, self.last_seen_ms))


@dataclass(frozen=True)
class Observations:
    """The last observations of a topic, by Kafka partition (as text, as JSON requires of keys)."""

    partitions: dict[str, Observation]
    format: int = FORMAT


@dataclass(frozen=True)
class PlannedRange:
    """Offsets `[start, end)` of one Kafka partition, and the reason for their end."""

    partition: int
    start: int
    end: int
    end_reason: EndReason = "boundary"
    observation: Observation | None = None


@dataclass(frozen=True)
class Plan:
    """The frozen ranges of one window.

    `start` and `end` are event time in milliseconds since 1970. `previous` is the sha256 of the
    previous plan, None for the first. `epoch` numbers the topics that the model has been attached
    to, from 0. `adoption` is the number of the newest adoption when the window was planned (0:
    none): it determines permanently under which lineage the window is learned.
    """

    model: str
    window: str
    start: int
    end: int
    topic: str
    cluster_id: str
    topic_id: str
    epoch: int
    ranges: tuple[PlannedRange, ...]
    previous: str | None
    closed_by: str | None = None
    adoption: int = 0
    format: int = FORMAT

    @property
    def end_offsets(self) -> dict[int, int]:
        """The offset at which the next window starts, per Kafka partition."""
        return {r.partition: r.end for r in self.ranges}

    @property
    def offset_ranges(self) -> dict[int, tuple[int, int]]:
        """The ranges that are not empty."""
        return {r.partition: (r.start, r.end) for r in self.ranges if r.end > r.start}

    @property
    def offset_count(self) -> int:
        """The number of offsets in all ranges."""
        return sum(r.end - r.start for r in self.ranges)


@dataclass
class _BoundaryCandidate:
    """A record that may be the boundary, and counts of the records after it."""

    offset: int
    following: int = 0
    earlier: int = 0


@dataclass
class BoundarySearch:
    """Search for the boundary of one Kafka partition at event time `end`.

    The boundary is the first record with a timestamp at or after `end` for which at most half of
    the next `confirmation_records` records are earlier than `end`, so a single record with a
    timestamp in the future has no effect. Records are fed in offset order, without transaction
    markers, aborted records and records without a timestamp.
    """

    end: int
    confirmation_records: int
    boundary: int | None = None
    newest_timestamp: int | None = None
    _candidates: deque[_BoundaryCandidate] = field(default_factory=deque)

    def feed(self, records: Iterable[tuple[int, int]]) -> bool:
        """Process (offset, timestamp) pairs; True as soon as the boundary is confirmed."""
        for offset, timestamp in records:
            self.newest_timestamp = (
                timestamp
                if self.newest_timestamp is None
                else max(self.newest_timestamp, timestamp)
            )
            if self._feed_one(offset, timestamp):
                return True
        return self.boundary is not None

    def at_end_of_log(self) -> int | None:
        """The boundary if no record follows: the same rule, applied to the existing records."""
        if self.boundary is not None:
            return self.boundary
        return next((c.offset for c in self._candidates if 2 * c.earlier <= c.following), None)

    def _feed_one(self, offset: int, timestamp: int) -> bool:
        is_earlier = timestamp < self.end
        half = self.confirmation_records // 2
        for candidate in self._candidates:
            candidate.following += 1
            candidate.earlier += is_earlier
        while self._candidates and self._candidates[0].earlier > half:
            self._candidates.popleft()
        if (
            self._candidates
            and self._candidates[0].following - self._candidates[0].earlier
            >= self.confirmation_records - half
        ):
            self.boundary = self._candidates[0].offset
            return True
        if not is_earlier:
            self._candidates.append(_BoundaryCandidate(offset))
        return False
