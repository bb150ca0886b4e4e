"""Plan a window: freeze which offsets are its own, as soon as the log has closed it."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

from tidemill.core.errors import PlanLost, WindowOpen
from tidemill.core.log import OffsetRange
from tidemill.core.plans import INITIAL_KEY, BoundarySearch, EndReason, Observation, Plan, PlannedRange
from tidemill.core.windows import Window, from_ms
from tidemill.cycle.attach import Attached, attach
from tidemill.cycle.idle import excuse, observe
from tidemill.cycle.lines import line_if_begun
from tidemill.cycle.mill import Mill

_AT_ONCE = 8
"""So many partitions are read at the same time, each by a client of its own."""


def plan(mill: Mill, window: Window, closed_by: str | None = None) -> Plan:
    """The window's plan; every unplanned window before it is planned first.

    `closed_by` names the person who says that the stream has ended: then every record there is
    belongs to this window or one before. Raises `WindowOpen` where the log has not closed the
    window, `PlanLost`, `TopicRecreated`, `TopicCompacted`, `LogTruncated`, and `LineChanged`: what
    was planned under one spec could not be finished by another.
    """
    standing = mill.archive.plan(window.key)
    if standing is not None:
        return standing
    _no_plan_is_lost(mill, window)
    before, unplanned = _unplanned(mill, window)
    line_if_begun(mill, unplanned[0])
    if before is None:
        before = _first_plan(mill, attach(mill, None), closed_by)
    attached = attach(mill, before, unplanned[0])
    starts = _starts(mill, attached, before, unplanned[0])
    for each in unplanned:
        ranges = _ranges(mill, attached, starts, each, closed_by)
        before = _commit(mill, attached, each, ranges, before, closed_by)
        if (before.epoch, before.adoption) != (attached.epoch, attached.adoption):
            return plan(mill, window, closed_by)  # another writer's plan, who adopted or did not
        starts = before.end_offsets
    return before


def plan_initial(mill: Mill) -> Plan:
    """The first plan of the model: the offsets before its first window."""
    standing = mill.archive.plan(INITIAL_KEY)
    if standing is None:
        _no_plan_is_lost(mill, None)
        standing = _first_plan(mill, attach(mill, None), None)
    return standing


def newest_closed(mill: Mill, before: Plan) -> tuple[Window | None, str]:
    """The newest window after this plan that the log has closed, and why the next one is open.

    None where the log has closed none. Nothing is planned, but what was seen of the stable ends is
    stored, as by every attempt at planning. What is asked of the log grows with the logarithm of
    the number of windows. Raises as `plan` does, but not `WindowOpen`.
    """
    calendar, windows = mill.spec.calendar, [_first_after(mill, before)]
    attached = attach(mill, before, windows[0])
    starts, open_because = _starts(mill, attached, before, windows[0]), ""

    def closed(number: int) -> bool:
        nonlocal open_because
        while len(windows) <= number:
            windows.append(calendar.after(windows[-1]))
        ends = starts
        try:
            if number and mill.spec.windows.close_after_silence is not None:
                # Silence closes a window only if the one before has left it a record.
                ranges = _ranges(mill, attached, ends, windows[number - 1], None)
                ends = {r.partition: r.end for r in ranges}
            _ranges(mill, attached, ends, windows[number], None)
        except WindowOpen as error:
            open_because = error.message
            return False
        return True

    known, step = -1, 1  # the newest number known to be closed
    while closed(known + step):
        known, step = known + step, step * 2
    end = known + step  # the oldest known to be open
    while end - known > 1:
        middle = (known + end) // 2
        known, end = (middle, end) if closed(middle) else (known, middle)
    return (windows[known] if known >= 0 else None), open_because


def _starts(mill: Mill, attached: Attached, before: Plan, window: Window) -> Mapping[int, int]:
    """Where the window begins: where the one before ends; on a topic that no plan was made on,
    where the first window would, at the boundary of its own start."""
    if not attached.anew:
        return before.end_offsets
    lows = {partition: extent.low_watermark for partition, extent in attached.extents.items()}
    searches = _search(mill, attached, lows, window.start)
    return {p: _rest(search, attached.extents[p]) for p, search in searches.items()}


def _first_after(mill: Mill, before: Plan) -> Window:
    calendar = mill.spec.calendar
    first = before.window == INITIAL_KEY
    return calendar.first if first else calendar.after(calendar.window(before.window))


def _no_plan_is_lost(mill: Mill, window: Window | None) -> None:
    """A plan that is not there must never have been there."""
    key = window.key if window else INITIAL_KEY
    after = mill.spec.calendar.after(window) if window else mill.spec.calendar.first
    if mill.archive.manifest(key) or mill.archive.plan(after.key):
        raise PlanLost(
            f"The plan of window {key} of model {mill.model} is gone from the store, "
            "though work after it is there.",
            f"Restore {mill.model}/plans/{key}.json from a backup.",
        )


def _unplanned(mill: Mill, window: Window) -> tuple[Plan | None, list[Window]]:
    """The newest plan before the window, and the windows from there up to it."""
    missing = [window]
    while (earlier := mill.spec.calendar.before(missing[-1])) is not None:
        found = mill.archive.plan(earlier.key)
        if found is not None:
            return found, missing[::-1]
        _no_plan_is_lost(mill, earlier)
        missing.append(earlier)
    return mill.archive.plan(INITIAL_KEY), missing[::-1]


def _first_plan(mill: Mill, attached: Attached, closed_by: str | None) -> Plan:
    """Plan the topic's history: from `initial.from` (or all there is) to the first window."""
    first = mill.spec.calendar.first
    starts = {partition: extent.low_watermark for partition, extent in attached.extents.items()}
    begin = mill.spec.history_start_ms
    if begin is not None:
        searches = _search(mill, attached, starts, begin)
        starts = {p: _rest(s, attached.extents[p]) for p, s in searches.items()}
    ranges = _ranges(mill, attached, starts, Window(begin or 0, first.start, INITIAL_KEY), closed_by)
    if mill.history is not None:  # the model's history is a file: these offsets are nobody's
        ranges = tuple(replace(r, start=r.end) for r in ranges)
    return _commit(
        mill, attached, Window(begin or 0, first.start, INITIAL_KEY), ranges, None, closed_by
    )


def _commit(
    mill: Mill,
    attached: Attached,
    window: Window,
    ranges: tuple[PlannedRange, ...],
    before: Plan | None,
    closed_by: str | None,
) -> Plan:
    topic = attached.topic
    return mill.archive.commit_plan(
        Plan(
            model=mill.model,
            window=window.key,
            start=window.start,
            end=window.end,
            topic=topic.name,
            cluster_id=topic.cluster_id,
            topic_id=topic.topic_id,
            epoch=attached.epoch,
            ranges=ranges,
            previous=mill.archive.hash(f"plans/{before.window}.json") if before else None,
            closed_by=closed_by,
            adoption=attached.adoption,
        )
    )


def _ranges(
    mill: Mill,
    attached: Attached,
    starts: Mapping[int, int],
    window: Window,
    closed_by: str | None,
) -> tuple[PlannedRange, ...]:
    """The window's ranges, or `WindowOpen` if a partition has neither boundary nor excuse."""
    full = {partition: starts.get(partition, 0) for partition in sorted(attached.extents)}
    searches = _search(mill, attached, full, window.end)
    open_ = [partition for partition, search in searches.items() if search.boundary is None]
    excused: EndReason | None = "closed" if closed_by else None
    seen: Mapping[int, Observation] = {}
    if open_ and not closed_by:
        seen = observe(mill, attached)
        excused = excuse(mill, open_, seen, full)
        if excused is None:
            raise _window_open(mill, attached, window, searches, open_)
    return tuple(
        PlannedRange(partition, full[partition], search.boundary)
        if search.boundary is not None
        else PlannedRange(
            partition,
            full[partition],
            max(full[partition], _rest(search, attached.extents[partition])),
            excused or "closed",
            seen.get(partition),
        )
        for partition, search in searches.items()
    )


def _search(
    mill: Mill, attached: Attached, starts: Mapping[int, int], end: int
) -> dict[int, BoundarySearch]:
    """Look for every partition's boundary at event time `end`, reading no further than needed."""
    hints = mill.log.offsets_at(attached.topic.name, end)

    def find(partition: int) -> BoundarySearch:
        search = BoundarySearch(end, mill.spec.windows.confirmation_records)
        extent, hint = attached.extents[partition], hints.get(partition)
        start = max(starts[partition], extent.low_watermark, extent.last_stable_offset if hint is None else hint)
        if start >= extent.last_stable_offset:
            return search
        chunks = mill.log.read(attached.topic.name, {partition: (start, extent.last_stable_offset)}, first=64)
        with closing(chunks):
            for chunk in chunks:
                pairs = zip(chunk.offsets, chunk.timestamps, strict=True)
                if search.feed((o, t) for o, t in pairs if t is not None):
                    break
        return search

    with ThreadPoolExecutor(_AT_ONCE) as pool:  # most of it is waiting for the brokers
        return dict(zip(starts, pool.map(find, starts), strict=True))


def _rest(search: BoundarySearch, extent: OffsetRange) -> int:
    """Where the range ends if no record follows."""
    found = search.at_end_of_log()
    return extent.last_stable_offset if found is None else found


def _window_open(
    mill: Mill,
    attached: Attached,
    window: Window,
    searches: Mapping[int, BoundarySearch],
    open_: list[int],
) -> WindowOpen:
    newest = max((s.newest_timestamp for s in searches.values() if s.newest_timestamp is not None), default=None)
    come = (
        f"the newest record behind its end is of {from_ms(newest).isoformat()}"
        if newest is not None
        else "the log holds no record behind its end"
    )
    return WindowOpen(
        f"Window {window.key} of model {mill.model} is still open: it ends at "
        f"{from_ms(window.end).isoformat()}, partitions {open_} of topic {attached.topic.name} "
        f"have no confirmed boundary there, and {come}.",
        "Wait for events; if the stream has ended, say so by "
        f"`tidemill close {mill.model} --through {window.key}`.",
    )
