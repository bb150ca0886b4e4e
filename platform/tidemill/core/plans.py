"""Plans: which offsets of each Kafka partition belong to which window, for ever."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

INITIAL_KEY = "initial"
"""The key of a model's first plan: the offsets before its first window."""

EndReason = Literal["boundary", "idle", "silent", "closed"]


@dataclass(frozen=True)
class Observation:
    """Since when the stable end of one Kafka partition stands where it stands.

    `first_at` and `last_at` are the host clock's milliseconds when `end` was first and last seen.
    """

    end_offset: int
    first_seen_ms: int
    last_seen_ms: int

    @property
    def unchanged_for_ms(self) -> int:
        """Milliseconds for which the end is known not to have moved."""
        return self.last_seen_ms - self.first_seen_ms

    def updated(self, end_offset: int, now_ms: int) -> "Observation":
        """What is known after seeing `end` at `now`."""
        if end_offset != self.end_offset or now_ms < self.first_seen_ms:
            return Observation(end_offset, now_ms, now_ms)
        return Observation(end_offset, self.first_seen_ms, max(now_ms, self.last_seen_ms))


@dataclass(frozen=True)
class PlannedRange:
    """Offsets `[start, end)` of one Kafka partition, and why they end there."""

    partition: int
    start: int
    end: int
    end_reason: EndReason = "boundary"
    observation: Observation | None = None


@dataclass(frozen=True)
class Plan:
    """The frozen ranges of one window.

    `start` and `end` are event time in milliseconds since 1970. `previous` is the sha256 of
    the plan before, None for the first. `epoch` counts the topics the model has been attached to,
    from 0. `adoption` is the number of the newest adoption that the plan knows (0: none): it says
    for ever which line the window is learned under.
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

    @property
    def end_offsets(self) -> dict[int, int]:
        """Where the next window begins in each Kafka partition."""
        return {r.partition: r.end for r in self.ranges}

    @property
    def offset_ranges(self) -> dict[int, tuple[int, int]]:
        """The ranges that hold any offset."""
        return {r.partition: (r.start, r.end) for r in self.ranges if r.end > r.start}

    @property
    def offset_count(self) -> int:
        """Offsets in all ranges together."""
        return sum(r.end - r.start for r in self.ranges)


@dataclass
class _BoundaryCandidate:
    """A record that may be the boundary, and what came after it."""

    offset: int
    following: int = 0
    earlier: int = 0


@dataclass
class BoundarySearch:
    """Looks for the boundary of one Kafka partition at event time `end`.

    The boundary is the first record with a timestamp at or after `end`, of whose next `confirm`
    records at most half have an earlier one: so a single record stamped in the future moves
    nothing. Feed records in offset order; markers, aborted records and records without a timestamp
    are not fed.
    """

    end: int
    confirmation_records: int
    boundary: int | None = None
    newest_timestamp: int | None = None
    _candidates: deque[_BoundaryCandidate] = field(default_factory=deque)

    def feed(self, records: Iterable[tuple[int, int]]) -> bool:
        """Take (offset, timestamp) pairs; True as soon as the boundary is confirmed."""
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
        """The boundary if no record follows: the same rule over the records that are there."""
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
