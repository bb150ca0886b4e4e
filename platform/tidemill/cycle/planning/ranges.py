"""Ranges: where a window ends in each Kafka partition."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from tidemill.core.errors import WindowOpen
from tidemill.core.plans import BoundarySearch, EndReason, Observation, Plan, PlannedRange
from tidemill.core.windows import Window, from_ms
from tidemill.cycle.context import ModelContext
from tidemill.cycle.planning.idleness import idle_reason, record_end_offsets
from tidemill.cycle.planning.topic_binding import TopicBinding

_MAX_WORKERS = 8
"""Partitions that are read at the same time, each by its own client."""


@dataclass(frozen=True)
class RangePlanner:
    """Finds the offset ranges of windows in the topic as it is bound now.

    `closed_by` names the actor who declares that the stream has ended, None if it has not.
    """

    ctx: ModelContext
    binding: TopicBinding
    closed_by: str | None = None

    def ranges(self, window: Window, starts: Mapping[int, int]) -> tuple[PlannedRange, ...]:
        """The window's ranges from these first offsets on, which are 0 where there is none.

        Raises `WindowOpen` if a partition has no boundary and is not idle.
        """
        offset_ranges = self.binding.offset_ranges
        start_offsets = {partition: starts.get(partition, 0) for partition in sorted(offset_ranges)}
        searches = self._search_boundaries(start_offsets, window.end)
        open_partitions = [p for p, search in searches.items() if search.boundary is None]
        end_reason: EndReason | None = "closed" if self.closed_by else None
        observations: Mapping[int, Observation] = {}
        if open_partitions and not self.closed_by:
            observations = record_end_offsets(self.ctx, self.binding)
            end_reason = idle_reason(self.ctx, open_partitions, observations, start_offsets)
            if end_reason is None:
                raise self._window_open_error(window, searches, open_partitions)
        return tuple(
            PlannedRange(partition, start_offsets[partition], search.boundary)
            if search.boundary is not None
            else PlannedRange(
                partition,
                start_offsets[partition],
                max(start_offsets[partition], self._end_of_range(partition, search)),
                end_reason or "closed",
                observations.get(partition),
            )
            for partition, search in searches.items()
        )

    def start_offsets(self, window: Window, previous: Plan) -> Mapping[int, int]:
        """The window's first offsets: the ends of the previous window; in a new epoch, the
        boundaries at the window's own start, as for the first window."""
        if not self.binding.new_epoch:
            return previous.end_offsets
        return self.boundaries(window.start)

    def boundaries(self, timestamp_ms: int) -> dict[int, int]:
        """Each partition's boundary at this event time; its end if no later record follows."""
        searches = self._search_boundaries(self.low_watermarks(), timestamp_ms)
        return {p: self._end_of_range(p, search) for p, search in searches.items()}

    def low_watermarks(self) -> dict[int, int]:
        """The oldest offset that each partition still holds."""
        ranges = self.binding.offset_ranges.items()
        return {partition: offset_range.low_watermark for partition, offset_range in ranges}

    def _search_boundaries(
        self, starts: Mapping[int, int], timestamp_ms: int
    ) -> dict[int, BoundarySearch]:
        """Search every partition's boundary, from its offset in `starts` on."""
        hints = self.ctx.event_log.offsets_for_timestamp(self.binding.topic.name, timestamp_ms)

        def find_boundary(partition: int) -> BoundarySearch:
            end = self.binding.offset_ranges[partition].last_stable_offset
            hint = hints.get(partition)
            start = max(
                starts[partition],
                self.binding.offset_ranges[partition].low_watermark,
                end if hint is None else hint,
            )
            search = BoundarySearch(timestamp_ms, self.ctx.spec.windows.confirmation_records)
            if start < end:
                self._feed(search, partition, start, end)
            return search

        with ThreadPoolExecutor(_MAX_WORKERS) as pool:  # the threads mostly wait for the brokers
            return dict(zip(starts, pool.map(find_boundary, starts), strict=True))

    def _feed(self, search: BoundarySearch, partition: int, start: int, end: int) -> None:
        """Read records until the boundary is found or the partition ends, and no further."""
        record_batches = self.ctx.event_log.read(
            self.binding.topic.name, {partition: (start, end)}, expected_records=64
        )
        with closing(record_batches):
            for record_batch in record_batches:
                pairs = zip(record_batch.offsets, record_batch.timestamps, strict=True)
                if search.feed((o, t) for o, t in pairs if t is not None):
                    return

    def _end_of_range(self, partition: int, search: BoundarySearch) -> int:
        """The end offset of the range if no further record follows."""
        boundary = search.at_end_of_log()
        if boundary is None:
            return self.binding.offset_ranges[partition].last_stable_offset
        return boundary

    def _window_open_error(
        self,
        window: Window,
        searches: Mapping[int, BoundarySearch],
        open_partitions: list[int],
    ) -> WindowOpen:
        newest = max(
            (s.newest_timestamp for s in searches.values() if s.newest_timestamp is not None),
            default=None,
        )
        progress = (
            f"the newest record after its end is of {from_ms(newest).isoformat()}"
            if newest is not None
            else "the log holds no record after its end"
        )
        model = self.ctx.model
        return WindowOpen(
            f"Window {window.key} of model {model} is still open: it ends at "
            f"{from_ms(window.end).isoformat()}, partitions {open_partitions} of topic "
            f"{self.binding.topic.name} have no confirmed boundary there, and {progress}.",
            "Wait for events; if the stream has ended, close it with "
            f"`tidemill close {model} --through {window.key}`.",
        )
