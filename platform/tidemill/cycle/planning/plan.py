"""Plan: fix the offset ranges of a window as soon as the log has closed it."""

from collections.abc import Callable
from dataclasses import replace

from tidemill.core.errors import PlanLost, WindowOpen
from tidemill.core.plans import INITIAL_KEY, Plan, PlannedRange
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.lineage import checked_lineage_or_none
from tidemill.cycle.names import plan_name
from tidemill.cycle.planning.ranges import RangePlanner
from tidemill.cycle.planning.topic_binding import bind_topic


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
    checked_lineage_or_none(ctx, unplanned[0])  # before anything is planned
    if previous is None:
        previous = _first_plan(ctx, closed_by)
    binding = bind_topic(ctx, previous, unplanned[0])
    planner = RangePlanner(ctx, binding, closed_by)
    starts = planner.start_offsets(unplanned[0], previous)
    for unplanned_window in unplanned:
        ranges = planner.ranges(unplanned_window, starts)
        previous = _commit_plan(planner, unplanned_window, ranges, previous)
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
        existing = _first_plan(ctx, None)
    return existing


def newest_closed(ctx: ModelContext, previous: Plan) -> tuple[Window | None, str]:
    """The newest window after this plan that the log has closed, and why the next one is open.

    None if the log has closed none. Nothing is planned, but the observed end offsets are stored, as
    by every attempt at planning. The number of queries to the log grows with the logarithm of the
    number of windows. Raises what `plan_window` raises, except `WindowOpen`.
    """
    calendar = ctx.spec.calendar
    first = calendar.first
    if previous.window != INITIAL_KEY:
        first = calendar.after(calendar.window(previous.window))
    planner = RangePlanner(ctx, bind_topic(ctx, previous, first))
    starts = planner.start_offsets(first, previous)
    windows = [first]
    open_reason = ""

    def is_closed(index: int) -> bool:
        nonlocal open_reason
        while len(windows) <= index:
            windows.append(calendar.after(windows[-1]))
        ends = starts
        try:
            if index and ctx.spec.windows.close_after_silence is not None:
                # Silence closes a window only if the previous one has left it a record.
                ends = {r.partition: r.end for r in planner.ranges(windows[index - 1], starts)}
            planner.ranges(windows[index], ends)
        except WindowOpen as error:
            open_reason = error.message
            return False
        return True

    last_closed = _last_index(is_closed)
    return (windows[last_closed] if last_closed >= 0 else None), open_reason


def _last_index(holds: Callable[[int], bool]) -> int:
    """The last index from 0 on at which this holds; -1 if it holds at none.

    It holds at every index before one at which it holds. The number of calls grows with the
    logarithm of the result.
    """
    last, step = -1, 1  # the last index at which it is known to hold
    while holds(last + step):
        last, step = last + step, step * 2
    first_not = last + step  # the first at which it is known not to hold
    while first_not - last > 1:
        middle = (last + first_not) // 2
        if holds(middle):
            last = middle
        else:
            first_not = middle
    return last


def _assert_never_planned(ctx: ModelContext, window: Window | None) -> None:
    """Raise `PlanLost` if the window, which has no plan, must have had one."""
    key = window.key if window else INITIAL_KEY
    following = ctx.spec.calendar.after(window) if window else ctx.spec.calendar.first
    if ctx.repository.manifest(key) or ctx.repository.plan(following.key):
        raise PlanLost(
            f"The plan of window {key} of model {ctx.model} is missing in the store, although "
            "later work exists.",
            f"Restore {ctx.model}/{plan_name(key)} from a backup.",
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


def _first_plan(ctx: ModelContext, closed_by: str | None) -> Plan:
    """Plan the topic's history: from `initial.from` (or the oldest record) to the first window."""
    planner = RangePlanner(ctx, bind_topic(ctx, None), closed_by)
    history_start = ctx.spec.history_start_ms
    if history_start is None:
        history_start = 0
        starts = planner.low_watermarks()
    else:
        starts = planner.boundaries(history_start)
    history = Window(history_start, ctx.spec.calendar.first.start, INITIAL_KEY)
    ranges = planner.ranges(history, starts)
    if ctx.historical_data is not None:  # history comes from a file, so these offsets are not used
        ranges = tuple(replace(r, start=r.end) for r in ranges)
    return _commit_plan(planner, history, ranges, None)


def _commit_plan(
    planner: RangePlanner,
    window: Window,
    ranges: tuple[PlannedRange, ...],
    previous: Plan | None,
) -> Plan:
    repository = planner.ctx.repository
    binding = planner.binding
    topic = planner.binding.topic
    return repository.commit_plan(
        Plan(
            model=planner.ctx.model,
            window=window.key,
            start=window.start,
            end=window.end,
            topic=topic.name,
            cluster_id=topic.cluster_id,
            topic_id=topic.topic_id,
            epoch=binding.epoch,
            ranges=ranges,
            previous=repository.hash(plan_name(previous.window)) if previous else None,
            closed_by=planner.closed_by,
            adoption=binding.adoption,
        )
    )
