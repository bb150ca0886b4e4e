"""The sensor of a model that requests one run for all windows that the log has closed."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.errors import TidemillError, WindowOpen
from tidemill.core.retry_policy import next_state
from tidemill.core.spec import ModelSpec
from tidemill.defs.dagster_compat import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)
from tidemill.defs.external_assets import watermark_observation
from tidemill.defs.freshness import freshness_evaluation
from tidemill.defs.resources import TidemillResource
from tidemill.defs.run_failures import window_failure
from tidemill.defs.sensor_cursors import WindowCursor, decode_window_cursor, encode_cursor
from tidemill.defs.windowed_assets import WINDOW_ASSETS

if TYPE_CHECKING:
    from tidemill.cycle.context import ModelContext
    from tidemill.cycle.planning.backlog import Backlog

MIN_INTERVAL_SECONDS = 2
"""The minimum interval between two ticks; Dagster's daemon takes 5 s."""
RECHECK_SECONDS = 2.0
"""A tick without results checks once more after this time: half of the daemon's interval."""
SENSOR_TAG = "tidemill/window_closed"
"""The tag of the sensor's runs, with the model's name."""
_REPORT_EVERY_MS = 300_000  # an unchanged freshness is reported again after this time
_OBSERVE_EVERY_MS = 60_000  # the minimum interval between two observations of the topic
_UNFINISHED_STATUSES = [
    status
    for status in dg.DagsterRunStatus
    if status
    not in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
]


def window_closed_sensor(spec: ModelSpec, status: str) -> dg.SensorDefinition:
    """The sensor `<model>_window_closed`; its default `status` is `running` or `stopped`."""

    @dg.sensor(
        name=f"{spec.name}_window_closed",
        description="Starts one run for all windows that the log has closed, and reports the "
        "model's freshness. A failed window is retried after 1, 2, 4 and 8 minutes and then given "
        "up; errors that need an operator are not retried. The sensor does not go past a window "
        "that was given up.",
        asset_selection=[
            dg.AssetKey([spec.name, name]) for name in ("initial_model", *WINDOW_ASSETS)
        ],
        minimum_interval_seconds=MIN_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus(status.upper()),
    )
    def sensor(
        context: dg.SensorEvaluationContext, tidemill: dg.ResourceParam[TidemillResource]
    ) -> dg.SensorResult:
        cursor = decode_window_cursor(context.cursor)
        try:
            result, cursor = _evaluate_tick(context.instance, tidemill, spec, cursor)
            if not result.run_requests and not result.asset_events:
                time.sleep(RECHECK_SECONDS)
                result, _ = _evaluate_tick(context.instance, tidemill, spec, cursor)
            return result
        except TidemillError as error:
            return dg.SensorResult(skip_reason=f"{type(error).__name__}: {error}")

    return sensor


def _evaluate_tick(
    instance: dg.DagsterInstance,
    tidemill: TidemillResource,
    spec: ModelSpec,
    cursor: WindowCursor,
) -> tuple[dg.SensorResult, WindowCursor]:
    with tidemill.open_cached(spec) as ctx:
        tick = _Tick(instance, tidemill, ctx, cursor)
        return tick.result(), tick.cursor


@dataclass
class _Tick:
    """One evaluation of a model, its last run and its log."""

    instance: dg.DagsterInstance
    tidemill: TidemillResource
    ctx: "ModelContext"
    cursor: WindowCursor

    def result(self) -> dg.SensorResult:
        from tidemill.cycle.planning.backlog import compute_backlog

        last_run = self._last_run()
        if last_run is not None and last_run.status in _UNFINISHED_STATUSES:
            return self._skip(f"Run {last_run.run_id} is in progress.")
        if self.tidemill.is_locked(self.ctx.model):
            return self._skip(f"Another process is working on model {self.ctx.model}.")
        try:
            backlog = compute_backlog(self.ctx, self.cursor.done)
        except WindowOpen as error:
            return self._skip(error.message)
        if last_run is not None and last_run.run_id != self.cursor.last_run_id:
            self._record_outcome(last_run, backlog)
        self.cursor = replace(self.cursor, done=backlog.done.key if backlog.done else None)
        self._clear_resolved_failure(backlog)
        events: list[dg.AssetCheckEvaluation | dg.AssetObservation]
        events = [*self._freshness(backlog), *self._topic_observations(backlog)]
        request, reason = self._request(backlog)
        return dg.SensorResult(
            run_requests=[request] if request else [],
            skip_reason=None if request else reason,
            cursor=encode_cursor(self.cursor),
            asset_events=events,
        )

    def _skip(self, reason: str) -> dg.SensorResult:
        return dg.SensorResult(skip_reason=reason, cursor=encode_cursor(self.cursor))

    def _last_run(self) -> dg.DagsterRun | None:
        tags = {SENSOR_TAG: self.ctx.model}
        return next(iter(self.instance.get_runs(dg.RunsFilter(tags=tags), limit=1)), None)

    def _record_outcome(self, run: dg.DagsterRun, backlog: "Backlog") -> None:
        """Record how the last run ended."""
        failure_state = None
        if run.status != dg.DagsterRunStatus.SUCCESS:
            default = str(backlog.first or backlog.done or "initial")
            failure = window_failure(self.instance, run, default)
            fingerprint = self._fingerprint(failure.window)
            failure_state = next_state(
                self.cursor.failure_state, failure, self.ctx.clock(), fingerprint
            )
        self.cursor = replace(self.cursor, last_run_id=run.run_id, failure_state=failure_state)

    def _clear_resolved_failure(self, backlog: "Backlog") -> None:
        """Clear a failure whose window was completed, or given up and changed since."""
        failure_state = self.cursor.failure_state
        if failure_state is None:
            return
        reported = self.ctx.repository.report(failure_state.window) is not None
        is_pending = backlog.first is not None and backlog.first.key == failure_state.window
        is_resolved = reported and not is_pending
        if is_resolved or (
            failure_state.given_up
            and self._fingerprint(failure_state.window) != failure_state.fingerprint
        ):
            self.cursor = replace(self.cursor, failure_state=None)

    def _fingerprint(self, window: str) -> str:
        """A digest of everything that an operator can change about a window."""
        from tidemill.core import canonical

        repository, chain = self.ctx.repository, self.ctx.chain()
        inputs = {
            "spec": self.ctx.spec.model_dump(mode="json", by_alias=True),
            "learning": self.ctx.learning_spec(),
            "ledger": len(chain.entries),
            "records": [repository.hash(f"batches/{window}/manifest.json")],
            "adoptions": [*repository.adoptions()],
        }
        return canonical.digest(canonical.encode(inputs))

    def _freshness(self, backlog: "Backlog") -> list[dg.AssetCheckEvaluation]:
        """The freshness, if it has changed or was not reported for a while."""
        from tidemill.cycle.planning.backlog import freshness

        current = freshness(self.ctx, backlog)
        evaluation = freshness_evaluation(self.ctx.model, current, self.cursor.failure_state)
        last, now = self.cursor.last_freshness, self.ctx.clock()
        done = current.done.key if current.done else None
        is_unchanged = last is not None and last[:2] == (evaluation.passed, done)
        if last is not None and is_unchanged and now < last[2] + _REPORT_EVERY_MS:
            return []
        self.cursor = replace(self.cursor, last_freshness=(evaluation.passed, done, now))
        return [evaluation]

    def _topic_observations(self, backlog: "Backlog") -> Iterator[dg.AssetObservation]:
        """The topic's watermarks if they have moved, at most once per minute."""
        now, (last_total, observed_at) = self.ctx.clock(), self.cursor.last_offsets or (-1, 0)
        if now < observed_at + _OBSERVE_EVERY_MS:
            return
        offset_ranges = self.ctx.event_log.offset_ranges(self.ctx.spec.topic)
        total = sum(offset_range.last_stable_offset for offset_range in offset_ranges.values())
        if total != last_total:
            self.cursor = replace(self.cursor, last_offsets=(total, now))
            plan = self.ctx.repository.plan(backlog.done.key) if backlog.done else None
            plan = plan if plan and plan.topic == self.ctx.spec.topic else None
            yield watermark_observation(self.ctx.spec, offset_ranges, plan)

    def _request(self, backlog: "Backlog") -> tuple[dg.RunRequest | None, str]:
        """The run that is due, or the reason why there is none."""
        failure_state, now = self.cursor.failure_state, self.ctx.clock()
        is_initialized = (
            self.ctx.repository.initial_model() is not None and self.ctx.chain().head is not None
        )
        if is_initialized and (backlog.first is None or backlog.last is None):
            return None, backlog.open_reason
        if failure_state is not None and failure_state.given_up:
            return None, (
                f"Given up. {failure_state} The sensor continues as soon as that window is "
                "completed, something about it has changed, or this sensor's cursor is reset."
            )
        if failure_state is not None and now < failure_state.next_attempt_ms:
            retry_time = datetime.fromtimestamp(
                failure_state.next_attempt_ms / 1000, UTC
            ).isoformat(timespec="seconds")
            return None, f"{failure_state} It is retried at {retry_time}."
        attempts = failure_state.attempts if failure_state else 0
        key = f"{backlog.first}/{backlog.last}/{self.cursor.last_run_id}/{attempts}"
        if not is_initialized:
            return _run_request(self.ctx.model, ["initial_model"], {}, f"initial/{key}"), ""
        tags = {
            ASSET_PARTITION_RANGE_START_TAG: str(backlog.first),
            ASSET_PARTITION_RANGE_END_TAG: str(backlog.last),
        }
        return _run_request(self.ctx.model, WINDOW_ASSETS, tags, key), ""


def _run_request(
    model: str, assets: tuple[str, ...] | list[str], tags: Mapping[str, str], key: str
) -> dg.RunRequest:
    """One run of these assets. The key contains the previous run, so that a tick that is repeated
    after a crash of the daemon requests the same run, and the next one a new run."""
    return dg.RunRequest(
        run_key=key,
        asset_selection=[dg.AssetKey([model, asset]) for asset in assets],
        tags={SENSOR_TAG: model, **tags},
    )
