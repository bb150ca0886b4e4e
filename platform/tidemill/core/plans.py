"""Plans: which offsets of each Kafka partition belong to which window, for ever."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

INITIAL = "initial"
"""The key of a model's first plan: the offsets before its first window."""

Ending = Literal["boundary", "idle", "silent", "closed"]


@dataclass(frozen=True)
class Observation:
    """Since when the stable end of one Kafka partition stands where it stands.

    `first_at` and `last_at` are the host clock's milliseconds when `end` was first and last seen.
    """

    end: int
    first_at: int
    last_at: int

    @property
    def still_for(self) -> int:
        """Milliseconds for which the end is known not to have moved."""
        return self.last_at - self.first_at

    def again(self, end: int, now: int) -> "Observation":
        """What is known after seeing `end` at `now`."""
        if end != self.end or now < self.first_at:
            return Observation(end, now, now)
        return Observation(end, self.first_at, max(now, self.last_at))


@dataclass(frozen=True)
class Range:
    """Offsets `[start, end)` of one Kafka partition, and why they end there."""

    partition: int
    start: int
    end: int
    ended_by: Ending = "boundary"
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
    ranges: tuple[Range, ...]
    previous: str | None
    closed_by: str | None = None
    adoption: int = 0

    @property
    def ends(self) -> dict[int, int]:
        """Where the next window begins in each Kafka partition."""
        return {r.partition: r.end for r in self.ranges}

    @property
    def offsets(self) -> dict[int, tuple[int, int]]:
        """The ranges that hold any offset."""
        return {r.partition: (r.start, r.end) for r in self.ranges if r.end > r.start}

    @property
    def records(self) -> int:
        """Offsets in all ranges together."""
        return sum(r.end - r.start for r in self.ranges)


@dataclass
class _Claim:
    """A record that may be the boundary, and what came after it."""

    offset: int
    seen: int = 0
    below: int = 0


@dataclass
class BoundarySearch:
    """Looks for the boundary of one Kafka partition at event time `end`.

    The boundary is the first record with a timestamp at or after `end`, of whose next `confirm`
    records at most half have an earlier one: so a single record stamped in the future moves
    nothing. Feed records in offset order; markers, aborted records and records without a timestamp
    are not fed.
    """

    end: int
    confirm: int
    found: int | None = None
    newest: int | None = None
    _claims: deque[_Claim] = field(default_factory=deque)

    def feed(self, records: Iterable[tuple[int, int]]) -> bool:
        """Take (offset, timestamp) pairs; True as soon as the boundary is confirmed."""
        for offset, timestamp in records:
            self.newest = timestamp if self.newest is None else max(self.newest, timestamp)
            if self._take(offset, timestamp):
                return True
        return self.found is not None

    def rest(self) -> int | None:
        """The boundary if no record follows: the same rule over the records that are there."""
        if self.found is not None:
            return self.found
        return next((c.offset for c in self._claims if 2 * c.below <= c.seen), None)

    def _take(self, offset: int, timestamp: int) -> bool:
        below = timestamp < self.end
        half = self.confirm // 2
        for claim in self._claims:
            claim.seen += 1
            claim.below += below
        while self._claims and self._claims[0].below > half:
            self._claims.popleft()
        if self._claims and self._claims[0].seen - self._claims[0].below >= self.confirm - half:
            self.found = self._claims[0].offset
            return True
        if not below:
            self._claims.append(_Claim(offset))
        return False
