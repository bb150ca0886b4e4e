"""The sensor of a model: it starts one run for all windows that the log has closed."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import msgspec
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)

from tidemill.core.errors import TidemillError, WindowOpen
from tidemill.core.retry_policy import FailureState, WindowFailure, next_state
from tidemill.core.spec import ModelSpec
from tidemill.defs.connection_cache import open_readonly
from tidemill.defs.external_assets import watermark_observation
from tidemill.defs.freshness import freshness_evaluation
from tidemill.defs.windowed_assets import WINDOW_ASSETS

if TYPE_CHECKING:
    from tidemill.cycle.backlog import Backlog
    from tidemill.cycle.context import ModelContext

MIN_INTERVAL_SECONDS = 2
"""Seconds between two ticks, at least; Dagster's daemon takes 5."""
RECHECK_SECONDS = 2.0
"""Seconds after which a tick that found nothing looks once more: half of what the daemon waits."""
SENSOR_TAG = "tidemill/window_closed"
"""The tag of the sensor's runs: the model."""
_REPORT_EVERY_MS = 300_000  # milliseconds after which an unchanged freshness is told again
_OBSERVE_EVERY_MS = 60_000  # milliseconds, at least, from one observation of the topic to the next
_UNFINISHED_STATUSES = [
    status
    for status in dg.DagsterRunStatus
    if status
    not in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
]


@dataclass(frozen=True)
class WindowCursor:
    """What the sensor knows from tick to tick; a reset makes it look anew at everything.

    `done` is a window that was reported, `run` the last run whose end was taken note of; `told` is
    the freshness told last (passed, window done, milliseconds), `ends`
    the topic's stable ends when told last (their sum, milliseconds).
    """

    done: str | None = None
    last_run_id: str | None = None
    failure_state: FailureState | None = None
    last_freshness: tuple[bool, str | None, int] | None = None
    last_offsets: tuple[int, int] | None = None


def window_closed_sensor(model: str, spec: ModelSpec, status: str) -> dg.SensorDefinition:
    """The sensor `<model>_window_closed`; `status` is `running` or `stopped`, to begin with."""

    @dg.sensor(
        name=f"{model}_window_closed",
        description="Starts one run for all windows that the log has closed, and tells how fresh "
        "the model is. A window that fails is tried again after 1, 2, 4 and 8 minutes; then, or "
        "at once where only a person can mend it, the sensor stops in front of it and says so.",
        asset_selection=[dg.AssetKey([model, name]) for name in ("initial_model", *WINDOW_ASSETS)],
        minimum_interval_seconds=MIN_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus(status.upper()),
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        cursor = (
            msgspec.json.decode(context.cursor, type=WindowCursor, strict=False)
            if context.cursor
            else WindowCursor()
        )
        try:
            result, cursor = _evaluate_tick(context.instance, model, spec, cursor)
            if not result.run_requests and not result.asset_events:
                time.sleep(RECHECK_SECONDS)
                result, _ = _evaluate_tick(context.instance, model, spec, cursor)
            return result
        except TidemillError as error:
            return dg.SensorResult(skip_reason=f"{type(error).__name__}: {error}")

    return sensor


def _evaluate_tick(
    instance: dg.DagsterInstance, model: str, spec: ModelSpec, cursor: WindowCursor
) -> tuple[dg.SensorResult, WindowCursor]:
    with open_readonly(model, spec) as ctx:
        tick = _Tick(instance, ctx, cursor)
        return tick.result(), tick.cursor


@dataclass
class _Tick:
    """One look at a model, its last run and its log."""

    instance: dg.DagsterInstance
    ctx: "ModelContext"
    cursor: WindowCursor

    def result(self) -> dg.SensorResult:
        from tidemill.cycle.backlog import compute_backlog

        last_run = self._last_run()
        if last_run is not None and last_run.status in _UNFINISHED_STATUSES:
            return self._skip(f"Run {last_run.run_id} is at work.")
        if self._is_locked():
            return self._skip(f"Somebody else is at work on model {self.ctx.model}.")
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
            cursor=msgspec.json.encode(self.cursor).decode(),
            asset_events=events,
        )

    def _skip(self, reason: str) -> dg.SensorResult:
        return dg.SensorResult(skip_reason=reason, cursor=msgspec.json.encode(self.cursor).decode())

    def _last_run(self) -> dg.DagsterRun | None:
        tags = {SENSOR_TAG: self.ctx.model}
        return next(iter(self.instance.get_runs(dg.RunsFilter(tags=tags), limit=1)), None)

    def _is_locked(self) -> bool:
        from tidemill import bootstrap
        from tidemill.settings import Settings

        return bootstrap.is_locked(self.ctx.model, Settings())

    def _record_outcome(self, run: dg.DagsterRun, backlog: "Backlog") -> None:
        """Take note of how the last run ended."""
        failure_state = None
        if run.status != dg.DagsterRunStatus.SUCCESS:
            failure = _failure(self.instance, run, str(backlog.first or backlog.done or "initial"))
            fingerprint = self._fingerprint(failure.window)
            failure_state = next_state(
                self.cursor.failure_state, failure, self.ctx.clock(), fingerprint
            )
        self.cursor = replace(self.cursor, last_run_id=run.run_id, failure_state=failure_state)

    def _clear_resolved_failure(self, backlog: "Backlog") -> None:
        """Forget about trouble that is over, or that somebody has changed something about."""
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
        """A digest of what a person may change about a window."""
        from tidemill.core import canonical
        from tidemill.cycle.lineage import adoptions

        repository, chain = self.ctx.repository, self.ctx.chain()
        inputs = {
            "spec": self.ctx.spec.model_dump(mode="json", by_alias=True),
            "learning": self.ctx.learning_spec(),
            "ledger": len(chain.entries),
            "records": [repository.hash(f"batches/{window}/manifest.json")],
            "adoptions": [*adoptions(repository)],
        }
        return canonical.digest(canonical.encode(inputs))

    def _freshness(self, backlog: "Backlog") -> list[dg.AssetCheckEvaluation]:
        """The freshness, where it has changed or was not told for a while."""
        from tidemill.cycle.backlog import freshness

        evaluation = freshness_evaluation(
            self.ctx.model, current := freshness(self.ctx, backlog), self.cursor.failure_state
        )
        last, now = self.cursor.last_freshness, self.ctx.clock()
        done = current.done.key if current.done else None
        if (
            last is not None
            and last[:2] == (evaluation.passed, done)
            and now < last[2] + _REPORT_EVERY_MS
        ):
            return []
        self.cursor = replace(self.cursor, last_freshness=(evaluation.passed, done, now))
        return [evaluation]

    def _topic_observations(self, backlog: "Backlog") -> Iterator[dg.AssetObservation]:
        """How far the topic has come, at most once a minute."""
        now, (last_total, observed_at) = self.ctx.clock(), self.cursor.last_offsets or (-1, 0)
        if now < observed_at + _OBSERVE_EVERY_MS:
            return
        offset_ranges = self.ctx.event_log.offset_ranges(self.ctx.spec.topic)
        if (
            total := sum(offset_range.last_stable_offset for offset_range in offset_ranges.values())
        ) != last_total:
            self.cursor = replace(self.cursor, last_offsets=(total, now))
            plan = self.ctx.repository.plan(backlog.done.key) if backlog.done else None
            plan = plan if plan and plan.topic == self.ctx.spec.topic else None
            yield watermark_observation(self.ctx.spec, offset_ranges, plan)

    def _request(self, backlog: "Backlog") -> tuple[dg.RunRequest | None, str]:
        """The run that is due, or why there is none."""
        failure_state, now = self.cursor.failure_state, self.ctx.clock()
        is_initialized = (
            self.ctx.repository.initial_model() is not None and self.ctx.chain().head is not None
        )
        if is_initialized and (backlog.first is None or backlog.last is None):
            return None, backlog.open_reason
        if failure_state is not None and failure_state.given_up:
            return None, (
                f"Given up. {failure_state} Goes on as soon as that window is done, or something about "
                "it has changed, or this sensor's cursor is reset."
            )
        if failure_state is not None and now < failure_state.next_attempt_ms:
            retry_time = datetime.fromtimestamp(
                failure_state.next_attempt_ms / 1000, UTC
            ).isoformat(timespec="seconds")
            return None, f"{failure_state} It is tried again at {retry_time}."
        key = f"{backlog.first}/{backlog.last}/{self.cursor.last_run_id}/{failure_state.attempts if failure_state else 0}"
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
    """One run of these assets. The key names the run before, so that a tick that is repeated after
    a crash of the daemon asks for the same run, and the next one for another."""
    return dg.RunRequest(
        run_key=key,
        asset_selection=[dg.AssetKey([model, asset]) for asset in assets],
        tags={SENSOR_TAG: model, **tags},
    )


def _failure(instance: dg.DagsterInstance, run: dg.DagsterRun, window: str) -> WindowFailure:
    """What a run says of its own failure; `window` where it does not say which."""
    if run.status == dg.DagsterRunStatus.CANCELED:
        return WindowFailure(window, "Canceled", f"Run {run.run_id} was canceled.")
    failures = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    for entry in failures:
        assert entry.dagster_event is not None
        step_failure = entry.dagster_event.step_failure_data
        user_failure = step_failure.user_failure_data
        metadata = {
            name: value.value
            for name, value in (user_failure.metadata if user_failure else {}).items()
        }
        message = (user_failure.description if user_failure else None) or str(
            step_failure.error_display_string
        )[:2000]
        return WindowFailure(
            _text(metadata, "window", window), _text(metadata, "error", "Unnamed"), message
        )
    return WindowFailure(window, "RunLost", f"Run {run.run_id} ended without a word.")


def _text(metadata: Mapping[str, Any], name: str, default: str) -> str:
    value = metadata.get(name)
    return value if isinstance(value, str) else default
