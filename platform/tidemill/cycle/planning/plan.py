"""Plan: fix the offset ranges of a window as soon as the log has closed it."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

from tidemill.core.errors import PlanLost, WindowOpen
from tidemill.core.event_log import OffsetRange
from tidemill.core.plans import (
    INITIAL_KEY,
    BoundarySearch,
    EndReason,
    Observation,
    Plan,
    PlannedRange,
)
from tidemill.core.windows import Window, from_ms
from tidemill.cycle.context import ModelContext
from tidemill.cycle.lineage import lineage_or_none
from tidemill.cycle.names import plan_name
from tidemill.cycle.planning.idleness import idle_reason, record_end_offsets
from tidemill.cycle.planning.topic_binding import TopicBinding, bind_topic

_MAX_WORKERS = 8
"""Partitions that are read at the same time, each by its own client."""


def plan_window(ctx: ModelContext, window: Window, closed_by: str | None = None) -> Plan:
    """The window's plan; every unplanned window before it is planned first.

    `closed_by` names the actor who declares that the stream has ended; then every existing record
    belongs to this window or an earlier one. Raises `WindowOpen` if the log has not closed the
    window, `PlanLost`, `TopicRecreated`, `TopicCompacted`, `LogTruncated`, and `LineageChanged`,
    because a window planned under one learning spec could not be completed under another.
    """
    existing = ctx.repository.plan(window.key)
    if existing is not None:
        return existing
    _assert_never_planned(ctx, window)
    previous, unplanned = _previous_and_unplanned(ctx, window)
    lineage_or_none(ctx, unplanned[0])
    if previous is None:
        previous = _first_plan(ctx, bind_topic(ctx, None), closed_by)
    binding = bind_topic(ctx, previous, unplanned[0])
    starts = _start_offsets(ctx, binding, previous, unplanned[0])
    for unplanned_window in unplanned:
        ranges = _ranges(ctx, binding, starts, unplanned_window, closed_by)
        previous = _commit_plan(ctx, binding, unplanned_window, ranges, previous, closed_by)
        if (previous.epoch, previous.adoption) != (binding.epoch, binding.adoption):
            # Another writer committed this plan, under another adoption.
            return plan_window(ctx, window, closed_by)
        starts = previous.end_offsets
    return previous


def plan_initial(ctx: ModelContext) -> Plan:
    """The first plan of the model: the offsets before its first window."""
    existing = ctx.repository.plan(INITIAL_KEY)
    if existing is None:
        _assert_never_planned(ctx, None)
        existing = _first_plan(ctx, bind_topic(ctx, None), None)
    return existing


def newest_closed(ctx: ModelContext, previous: Plan) -> tuple[Window | None, str]:
    """The newest window after this plan that the log has closed, and why the next one is open.

    None if the log has closed none. Nothing is planned, but the observed end offsets are stored, as
    by every attempt at planning. The number of queries to the log grows with the logarithm of the
    number of windows. Raises what `plan_window` raises, except `WindowOpen`.
    """
    calendar, windows = ctx.spec.calendar, [_window_after(ctx, previous)]
    binding = bind_topic(ctx, previous, windows[0])
    starts, open_reason = _start_offsets(ctx, binding, previous, windows[0]), ""

    def is_closed(index: int) -> bool:
        nonlocal open_reason
        while len(windows) <= index:
            windows.append(calendar.after(windows[-1]))
        ends = starts
        try:
            if index and ctx.spec.windows.close_after_silence is not None:
                # Silence closes a window only if the previous one has left it a record.
                ranges = _ranges(ctx, binding, ends, windows[index - 1], None)
                ends = {r.partition: r.end for r in ranges}
            _ranges(ctx, binding, ends, windows[index], None)
        except WindowOpen as error:
            open_reason = error.message
            return False
        return True

    last_closed, step = -1, 1  # the newest index known to be closed
    while is_closed(last_closed + step):
        last_closed, step = last_closed + step, step * 2
    first_open = last_closed + step  # the oldest known to be open
    while first_open - last_closed > 1:
        middle = (last_closed + first_open) // 2
        last_closed, first_open = (
            (middle, first_open) if is_closed(middle) else (last_closed, middle)
        )
    return (windows[last_closed] if last_closed >= 0 else None), open_reason


def _start_offsets(
    ctx: ModelContext, binding: TopicBinding, previous: Plan, window: Window
) -> Mapping[int, int]:
    """The window's first offsets: the ends of the previous window; in a new epoch, the boundaries
    at the window's own start, as for the first window."""
    if not binding.new_epoch:
        return previous.end_offsets
    low_watermarks = {
        partition: offset_range.low_watermark
        for partition, offset_range in binding.offset_ranges.items()
    }
    searches = _search_boundaries(ctx, binding, low_watermarks, window.start)
    return {p: _end_of_range(search, binding.offset_ranges[p]) for p, search in searches.items()}


def _window_after(ctx: ModelContext, previous: Plan) -> Window:
    calendar = ctx.spec.calendar
    first = previous.window == INITIAL_KEY
    return calendar.first if first else calendar.after(calendar.window(previous.window))


def _assert_never_planned(ctx: ModelContext, window: Window | None) -> None:
    """Raise `PlanLost` if the window, which has no plan, must have had one."""
    key = window.key if window else INITIAL_KEY
    following = ctx.spec.calendar.after(window) if window else ctx.spec.calendar.first
    if ctx.repository.manifest(key) or ctx.repository.plan(following.key):
        raise PlanLost(
            f"The plan of window {key} of model {ctx.model} is missing in the store, although "
            "later work exists.",
            f"Restore {ctx.model}/plans/{key}.json from a backup.",
        )


def _previous_and_unplanned(ctx: ModelContext, window: Window) -> tuple[Plan | None, list[Window]]:
    """The newest plan before the window, and the windows from there up to it."""
    missing = [window]
    while (earlier := ctx.spec.calendar.before(missing[-1])) is not None:
        plan = ctx.repository.plan(earlier.key)
        if plan is not None:
            return plan, missing[::-1]
        _assert_never_planned(ctx, earlier)
        missing.append(earlier)
    return ctx.repository.plan(INITIAL_KEY), missing[::-1]


def _first_plan(ctx: ModelContext, binding: TopicBinding, closed_by: str | None) -> Plan:
    """Plan the topic's history: from `initial.from` (or the oldest record) to the first window."""
    first = ctx.spec.calendar.first
    starts = {
        partition: offset_range.low_watermark
        for partition, offset_range in binding.offset_ranges.items()
    }
    history_start = ctx.spec.history_start_ms
    if history_start is not None:
        searches = _search_boundaries(ctx, binding, starts, history_start)
        starts = {p: _end_of_range(s, binding.offset_ranges[p]) for p, s in searches.items()}
    ranges = _ranges(
        ctx, binding, starts, Window(history_start or 0, first.start, INITIAL_KEY), closed_by
    )
    if ctx.historical_data is not None:  # history comes from a file, so these offsets are not used
        ranges = tuple(replace(r, start=r.end) for r in ranges)
    return _commit_plan(
        ctx, binding, Window(history_start or 0, first.start, INITIAL_KEY), ranges, None, closed_by
    )


def _commit_plan(
    ctx: ModelContext,
    binding: TopicBinding,
    window: Window,
    ranges: tuple[PlannedRange, ...],
    previous: Plan | None,
    closed_by: str | None,
) -> Plan:
    topic = binding.topic
    return ctx.repository.commit_plan(
        Plan(
            model=ctx.model,
            window=window.key,
            start=window.start,
            end=window.end,
            topic=topic.name,
            cluster_id=topic.cluster_id,
            topic_id=topic.topic_id,
            epoch=binding.epoch,
            ranges=ranges,
            previous=ctx.repository.hash(plan_name(previous.window)) if previous else None,
            closed_by=closed_by,
            adoption=binding.adoption,
        )
    )


def _ranges(
    ctx: ModelContext,
    binding: TopicBinding,
    starts: Mapping[int, int],
    window: Window,
    closed_by: str | None,
) -> tuple[PlannedRange, ...]:
    """The window's ranges. Raises `WindowOpen` if a partition has no boundary and is not idle."""
    start_offsets = {
        partition: starts.get(partition, 0) for partition in sorted(binding.offset_ranges)
    }
    searches = _search_boundaries(ctx, binding, start_offsets, window.end)
    open_partitions = [
        partition for partition, search in searches.items() if search.boundary is None
    ]
    end_reason: EndReason | None = "closed" if closed_by else None
    observations: Mapping[int, Observation] = {}
    if open_partitions and not closed_by:
        observations = record_end_offsets(ctx, binding)
        end_reason = idle_reason(ctx, open_partitions, observations, start_offsets)
        if end_reason is None:
            raise _window_open_error(ctx, binding, window, searches, open_partitions)
    return tuple(
        PlannedRange(partition, start_offsets[partition], search.boundary)
        if search.boundary is not None
        else PlannedRange(
            partition,
            start_offsets[partition],
            max(start_offsets[partition], _end_of_range(search, binding.offset_ranges[partition])),
            end_reason or "closed",
            observations.get(partition),
        )
        for partition, search in searches.items()
    )


def _search_boundaries(
    ctx: ModelContext, binding: TopicBinding, starts: Mapping[int, int], end: int
) -> dict[int, BoundarySearch]:
    """Search every partition's boundary at event time `end`, reading no further than necessary."""
    hints = ctx.event_log.offsets_for_timestamp(binding.topic.name, end)

    def find_boundary(partition: int) -> BoundarySearch:
        search = BoundarySearch(end, ctx.spec.windows.confirmation_records)
        offset_range, hint = binding.offset_ranges[partition], hints.get(partition)
        start = max(
            starts[partition],
            offset_range.low_watermark,
            offset_range.last_stable_offset if hint is None else hint,
        )
        if start >= offset_range.last_stable_offset:
            return search
        record_batches = ctx.event_log.read(
            binding.topic.name,
            {partition: (start, offset_range.last_stable_offset)},
            expected_records=64,
        )
        with closing(record_batches):
            for record_batch in record_batches:
                pairs = zip(record_batch.offsets, record_batch.timestamps, strict=True)
                if search.feed((o, t) for o, t in pairs if t is not None):
                    break
        return search

    with ThreadPoolExecutor(_MAX_WORKERS) as pool:  # the threads mostly wait for the brokers
        return dict(zip(starts, pool.map(find_boundary, starts), strict=True))


def _end_of_range(search: BoundarySearch, offset_range: OffsetRange) -> int:
    """The end offset of the range if no further record follows."""
    boundary = search.at_end_of_log()
    return offset_range.last_stable_offset if boundary is None else boundary


def _window_open_error(
    ctx: ModelContext,
    binding: TopicBinding,
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
    return WindowOpen(
        f"Window {window.key} of model {ctx.model} is still open: it ends at "
        f"{from_ms(window.end).isoformat()}, partitions {open_partitions} of topic "
        f"{binding.topic.name} have no confirmed boundary there, and {progress}.",
        "Wait for events; if the stream has ended, close it with "
        f"`tidemill close {ctx.model} --through {window.key}`.",
    )
