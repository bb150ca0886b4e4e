"""Backtest: what another gate would have decided on the windows that have reports already."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tidemill.core.errors import PredecessorMissing
from tidemill.core.gate import Decision
from tidemill.core.report_records import Report
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.lineage import contexts_by_lineage
from tidemill.cycle.names import report_name
from tidemill.cycle.operations.summary import Summary, summarize
from tidemill.cycle.repository import ModelRepository
from tidemill.cycle.steps.evaluate import evaluate


@dataclass(frozen=True)
class VerdictChange:
    """A window with two different verdicts, each with its reasons."""

    window: str
    committed: Decision
    backtested: Decision
    committed_reasons: tuple[str, ...]
    backtested_reasons: tuple[str, ...]


@dataclass(frozen=True)
class BacktestResult:
    """Two gates over the same windows, from the same state before the first of them.

    `changes` are the gate's keys that differ, as (value of defs.yaml, backtested value). In the
    summaries' `losses` (means over all rows), `champion` is the model that would have been served
    in each window, and `challenger` always the newest. `manual_entries` counts the manual entries,
    which both gates apply in the same windows. Windows up to `pruned` cannot be evaluated again.
    """

    model: str
    changes: dict[str, tuple[Any, Any]]
    committed: Summary
    backtested: Summary
    verdict_changes: tuple[VerdictChange, ...]
    manual_entries: int
    pruned: str | None


def windows_to_backtest(
    ctx: ModelContext, first: Window | None, last: Window | None
) -> list[Window]:
    """The windows from `first` to `last` (both inclusive) that have reports and are not pruned.

    Raises `PredecessorMissing` if there are none.
    """
    marker = ctx.repository.prune_marker()
    calendar = ctx.spec.calendar
    window = first or calendar.first
    if marker is not None and window.end <= marker.window_end_ms:
        window = calendar.after(calendar.window(marker.window))
    windows: list[Window] = []
    while (last is None or window.end <= last.end) and ctx.repository.report(
        window.key
    ) is not None:
        windows.append(window)
        window = calendar.after(window)
    if not windows:
        raise PredecessorMissing(
            f"No window of model {ctx.model} from {window.key} on has a report, so there is "
            "nothing to evaluate again.",
            f"Run `tidemill backfill {ctx.model}` first, or choose other windows.",
        )
    return windows


def backtest(
    ctx: ModelContext,
    spec: ModelSpec,
    scratch: ModelRepository,
    windows: list[Window],
    progress: Callable[[str], None],
) -> BacktestResult:
    """Evaluate these windows again with the gate of `spec`, into `scratch`.

    `scratch` shows the model's store without its reports, and keeps what is written. Nothing is
    trained: the existing batches, candidates and holdout fits are used. Raises `DigestMismatch`.
    """
    backtest_ctx = replace(ctx.with_repository(scratch), spec=spec)
    context_for = contexts_by_lineage(backtest_ctx)
    previous = ctx.spec.calendar.before(windows[0])
    if previous is not None:
        ctx.repository.copy_to(report_name(previous.key), scratch)
    reports = [_evaluate_again(ctx, context_for(window), window, progress) for window in windows]
    marker = ctx.repository.prune_marker()
    return BacktestResult(
        model=ctx.model,
        changes=_changes(ctx.spec, spec),
        committed=summarize(ctx, windows[0], windows[-1]),
        backtested=summarize(backtest_ctx, windows[0], windows[-1]),
        verdict_changes=tuple(
            VerdictChange(old.window, old.verdict, new.verdict, old.reasons, new.reasons)
            for old, new in reports
            if new.verdict != old.verdict
        ),
        manual_entries=sum(len(old.entries) for old, _ in reports),
        pruned=marker.window if marker else None,
    )


def _evaluate_again(
    ctx: ModelContext,
    backtest_ctx: ModelContext,
    window: Window,
    progress: Callable[[str], None],
) -> tuple[Report, Report]:
    """The committed report of a window, and that of the other gate with the same entries."""
    progress(window.key)
    committed = ctx.records.require_report(window)
    return committed, evaluate(backtest_ctx, window, committed.entries)


def _changes(committed_spec: ModelSpec, backtest_spec: ModelSpec) -> dict[str, tuple[Any, Any]]:
    old, new = (
        committed_spec.gate.model_dump(mode="json"),
        backtest_spec.gate.model_dump(mode="json"),
    )
    return {key: (old[key], new[key]) for key in old if old[key] != new[key]}
