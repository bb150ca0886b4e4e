"""A naive reference model of planning, record by record, without regard to speed.

It implements the rules of platform/docs/design/windows.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["data", "open", "aborted", "marker"]


@dataclass
class Record:
    """What one offset holds; `usable` means that its value can be decoded."""

    kind: Kind
    timestamp: int | None = None
    usable: bool = True


@dataclass
class Partition:
    """The record at each offset; records below `low` have expired."""

    records: list[Record] = field(default_factory=list)
    low: int = 0

    @property
    def stable_end(self) -> int:
        kinds = [record.kind for record in self.records]
        return kinds.index("open") if "open" in kinds else len(kinds)

    def data(self, start: int, end: int) -> dict[int, Record]:
        """The data records of a range."""
        return {o: self.records[o] for o in range(start, end) if self.records[o].kind == "data"}

    def end_transaction(self, *, commit: bool) -> None:
        for record in self.records:
            if record.kind == "open":
                record.kind = "data" if commit else "aborted"
        self.records.append(Record("marker"))


@dataclass(frozen=True)
class Cut:
    """The part of a window in one partition."""

    start: int
    end: int
    ended_by: str


@dataclass(frozen=True)
class Counts:
    rows: int
    rejected: int
    gaps: int
    late: int
    early: int

    @property
    def all(self) -> int:
        return self.rows + self.rejected + self.gaps


@dataclass
class Observation:
    """An end offset, and when it was first and last observed unchanged."""

    end: int
    first: int
    last: int


@dataclass
class Reference:
    """A topic, the windows cut from it so far, and the observations of its end offsets.

    The first of `windows` is the history before the first window.
    """

    confirmation_records: int
    idle_timeout: int
    close_after_silence: int | None
    partitions: list[Partition]
    windows: list[dict[int, Cut]] = field(default_factory=list)
    observations: dict[int, Observation] = field(default_factory=dict)

    def boundary(self, partition: int, start: int, end: int, *, complete: bool) -> int | None:
        """The end offset of the window that ends at `end`; None if it is undecided.

        `complete`: no record will follow the existing ones.
        """
        partition_log = self.partitions[partition]
        data = partition_log.data(max(start, partition_log.low), partition_log.stable_end)
        stamps = [(o, r.timestamp) for o, r in data.items() if r.timestamp is not None]
        for i, (offset, timestamp) in enumerate(stamps):
            if timestamp < end:
                continue
            following = [t for _, t in stamps[i + 1 : i + 1 + self.confirmation_records]]
            below = sum(t < end for t in following)
            if len(following) - below >= self.confirmation_records - self.confirmation_records // 2:
                return offset
            if complete and 2 * below <= len(following):
                return offset
            if not complete and below <= self.confirmation_records // 2:
                return None  # it may be this one: its next records will decide
        return max(start, partition_log.stable_end) if complete else None

    def cut(self, end: int, now: int, *, closed: bool) -> dict[int, Cut] | None:
        """The next window, which ends at `end`; None if it is still open."""
        starts = {p: self._start(p) for p in range(len(self.partitions))}
        boundaries = {p: self.boundary(p, s, end, complete=False) for p, s in starts.items()}
        undecided = [p for p, offset in boundaries.items() if offset is None]
        reason = "closed" if closed else None
        if undecided and not closed:
            self._observe(now)
            reason = self._idle_reason(undecided, starts)
            if reason is None:
                return None
        cuts = {}
        for p, offset in boundaries.items():
            end_boundary = self.boundary(p, starts[p], end, complete=True)
            assert end_boundary is not None
            cuts[p] = (
                Cut(starts[p], end_boundary, reason or "")
                if offset is None
                else _cut_at_boundary(starts[p], offset)
            )
        self.windows.append(cuts)
        return cuts

    def counts(self, cuts: Mapping[int, Cut], start: int, end: int) -> Counts:
        """The counts of the batch of these cuts; `start` and `end` are the window's event times."""
        offsets = sum(cut.end - cut.start for cut in cuts.values())
        data = sum(len(self.partitions[p].data(c.start, c.end)) for p, c in cuts.items())
        rows = [self.partitions[p].records[o].timestamp or 0 for p, o in self.rows(cuts)]
        late, early = sum(t < start for t in rows), sum(t >= end for t in rows)
        return Counts(len(rows), data - len(rows), offsets - data, late, early)

    def rows(self, cuts: Mapping[int, Cut]) -> set[tuple[int, int]]:
        """Partition and offset of each record that becomes a row."""
        return {
            (p, offset)
            for p, cut in cuts.items()
            for offset, record in self.partitions[p].data(cut.start, cut.end).items()
            if record.usable and record.timestamp is not None
        }

    def expired(self, cuts: Mapping[int, Cut]) -> dict[int, tuple[int, int]]:
        """The first and last expired offset of each partition of these cuts."""
        lows = {p: self.partitions[p].low for p in cuts}
        return {
            p: (cut.start, min(lows[p], cut.end) - 1)
            for p, cut in cuts.items()
            if cut.start < min(lows[p], cut.end)
        }

    def _start(self, partition: int) -> int:
        """The end of the previous window; the first window starts at the low watermark."""
        if not self.windows:
            return self.partitions[partition].low
        previous = self.windows[-1].get(partition)
        return previous.end if previous else 0

    def _observe(self, now: int) -> None:
        for p, partition in enumerate(self.partitions):
            observation = self.observations.get(p)
            if (
                observation is None
                or observation.end != partition.stable_end
                or now < observation.first
            ):
                self.observations[p] = Observation(partition.stable_end, now, now)
            else:
                observation.last = max(observation.last, now)

    def _idle_reason(self, undecided: list[int], starts: Mapping[int, int]) -> str | None:
        unchanged_for = {
            p: observation.last - observation.first for p, observation in self.observations.items()
        }
        some_are_confirmed = len(undecided) < len(self.partitions)
        if some_are_confirmed and all(unchanged_for[p] >= self.idle_timeout for p in undecided):
            return "idle"
        silence = self.close_after_silence
        something_is_left = any(self.observations[p].end > start for p, start in starts.items())
        if silence is not None and something_is_left and min(unchanged_for.values()) >= silence:
            return "silent"
        return None


def _cut_at_boundary(start: int, boundary: int) -> Cut:
    return Cut(start, boundary, "boundary")
