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
from tidemill.core.spec import ModelSpec
from tidemill.core.watch import WindowFailure, FailureState, next_state
from tidemill.defs.freshness import answer
from tidemill.defs.lineage import watermarks
from tidemill.defs.walk import WINDOWED
from tidemill.defs.watching import looking

if TYPE_CHECKING:
    from tidemill.cycle.due import Backlog
    from tidemill.cycle.mill import ModelContext

INTERVAL = 2
"""Seconds between two ticks, at least; Dagster's daemon takes 5."""
AGAIN = 2.0
"""Seconds after which a tick that found nothing looks once more: half of what the daemon waits."""
SENSOR_TAG = "tidemill/window_closed"
"""The tag of the sensor's runs: the model."""
_TELL_AGAIN = 300_000  # milliseconds after which an unchanged freshness is told again
_WATERMARKS = 60_000  # milliseconds, at least, from one observation of the topic to the next
_UNFINISHED = [
    status
    for status in dg.DagsterRunStatus
    if status
    not in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
]


@dataclass(frozen=True)
class Cursor:
    """What the sensor knows from tick to tick; a reset makes it look anew at everything.

    `done` is a window that was reported, `run` the last run whose end was taken note of; `told` is
    the freshness told last (passed, window done, milliseconds), `ends`
    the topic's stable ends when told last (their sum, milliseconds).
    """

    done: str | None = None
    run: str | None = None
    trouble: FailureState | None = None
    told: tuple[bool, str | None, int] | None = None
    ends: tuple[int, int] | None = None


def window_closed(model: str, spec: ModelSpec, status: str) -> dg.SensorDefinition:
    """The sensor `<model>_window_closed`; `status` is `running` or `stopped`, to begin with."""

    @dg.sensor(
        name=f"{model}_window_closed",
        description="Starts one run for all windows that the log has closed, and tells how fresh "
        "the model is. A window that fails is tried again after 1, 2, 4 and 8 minutes; then, or "
        "at once where only a person can mend it, the sensor stops in front of it and says so.",
        asset_selection=[dg.AssetKey([model, name]) for name in ("initial_model", *WINDOWED)],
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus(status.upper()),
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        cursor = (
            msgspec.json.decode(context.cursor, type=Cursor, strict=False)
            if context.cursor
            else Cursor()
        )
        try:
            result, cursor = _look(context.instance, model, spec, cursor)
            if not result.run_requests and not result.asset_events:
                time.sleep(AGAIN)
                result, _ = _look(context.instance, model, spec, cursor)
            return result
        except TidemillError as error:
            return dg.SensorResult(skip_reason=f"{type(error).__name__}: {error}")

    return sensor


def _look(
    instance: dg.DagsterInstance, model: str, spec: ModelSpec, cursor: Cursor
) -> tuple[dg.SensorResult, Cursor]:
    with looking(model, spec) as mill:
        tick = _Tick(instance, mill, cursor)
        return tick.result(), tick.cursor


@dataclass
class _Tick:
    """One look at a model, its last run and its log."""

    instance: dg.DagsterInstance
    mill: "ModelContext"
    cursor: Cursor

    def result(self) -> dg.SensorResult:
        from tidemill.cycle.due import compute_backlog

        last = self._last_run()
        if last is not None and last.status in _UNFINISHED:
            return self._skip(f"Run {last.run_id} is at work.")
        if self._at_work():
            return self._skip(f"Somebody else is at work on model {self.mill.model}.")
        try:
            seen = compute_backlog(self.mill, self.cursor.done)
        except WindowOpen as error:
            return self._skip(error.message)
        if last is not None and last.run_id != self.cursor.run:
            self._take_note(last, seen)
        self.cursor = replace(self.cursor, done=seen.done.key if seen.done else None)
        self._settle(seen)
        events: list[dg.AssetCheckEvaluation | dg.AssetObservation]
        events = [*self._freshness(seen), *self._watermarks(seen)]
        request, why = self._request(seen)
        return dg.SensorResult(
            run_requests=[request] if request else [],
            skip_reason=None if request else why,
            cursor=msgspec.json.encode(self.cursor).decode(),
            asset_events=events,
        )

    def _skip(self, why: str) -> dg.SensorResult:
        return dg.SensorResult(skip_reason=why, cursor=msgspec.json.encode(self.cursor).decode())

    def _last_run(self) -> dg.DagsterRun | None:
        tags = {SENSOR_TAG: self.mill.model}
        return next(iter(self.instance.get_runs(dg.RunsFilter(tags=tags), limit=1)), None)

    def _at_work(self) -> bool:
        from tidemill import bootstrap
        from tidemill.settings import Settings

        return bootstrap.is_locked(self.mill.model, Settings())

    def _take_note(self, run: dg.DagsterRun, seen: "Backlog") -> None:
        """Take note of how the last run ended."""
        trouble = None
        if run.status != dg.DagsterRunStatus.SUCCESS:
            failure = _failure(self.instance, run, str(seen.first or seen.done or "initial"))
            situation = self._situation(failure.window)
            trouble = next_state(self.cursor.trouble, failure, self.mill.clock(), situation)
        self.cursor = replace(self.cursor, run=run.run_id, trouble=trouble)

    def _settle(self, seen: "Backlog") -> None:
        """Forget about trouble that is over, or that somebody has changed something about."""
        trouble = self.cursor.trouble
        if trouble is None:
            return
        reported = self.mill.repository.report(trouble.window) is not None
        redo = seen.first is not None and seen.first.key == trouble.window
        over = reported and not redo
        if over or (trouble.given_up and self._situation(trouble.window) != trouble.fingerprint):
            self.cursor = replace(self.cursor, trouble=None)

    def _situation(self, window: str) -> str:
        """A digest of what a person may change about a window."""
        from tidemill.core import canonical
        from tidemill.cycle.lines import adoptions

        archive, chain = self.mill.repository, self.mill.chain()
        told = {
            "spec": self.mill.spec.model_dump(mode="json", by_alias=True),
            "learning": self.mill.learning_spec(),
            "ledger": len(chain.entries),
            "records": [archive.hash(f"batches/{window}/manifest.json")],
            "adoptions": [*adoptions(archive)],
        }
        return canonical.digest(canonical.encode(told))

    def _freshness(self, seen: "Backlog") -> list[dg.AssetCheckEvaluation]:
        """The freshness, where it has changed or was not told for a while."""
        from tidemill.cycle.due import freshness

        evaluation = answer(
            self.mill.model, found := freshness(self.mill, seen), self.cursor.trouble
        )
        told, now = self.cursor.told, self.mill.clock()
        done = found.done.key if found.done else None
        if (
            told is not None
            and told[:2] == (evaluation.passed, done)
            and now < told[2] + _TELL_AGAIN
        ):
            return []
        self.cursor = replace(self.cursor, told=(evaluation.passed, done, now))
        return [evaluation]

    def _watermarks(self, seen: "Backlog") -> Iterator[dg.AssetObservation]:
        """How far the topic has come, at most once a minute."""
        now, (ends, at) = self.mill.clock(), self.cursor.ends or (-1, 0)
        if now < at + _WATERMARKS:
            return
        extents = self.mill.event_log.offset_ranges(self.mill.spec.topic)
        if (found := sum(extent.last_stable_offset for extent in extents.values())) != ends:
            self.cursor = replace(self.cursor, ends=(found, now))
            plan = self.mill.repository.plan(seen.done.key) if seen.done else None
            plan = plan if plan and plan.topic == self.mill.spec.topic else None
            yield watermarks(self.mill.spec, extents, plan)

    def _request(self, seen: "Backlog") -> tuple[dg.RunRequest | None, str]:
        """The run that is due, or why there is none."""
        trouble, now = self.cursor.trouble, self.mill.clock()
        begun = self.mill.repository.initial_model() is not None and self.mill.chain().head is not None
        if begun and (seen.first is None or seen.last is None):
            return None, seen.open_reason
        if trouble is not None and trouble.given_up:
            return None, (
                f"Given up. {trouble} Goes on as soon as that window is done, or something about "
                "it has changed, or this sensor's cursor is reset."
            )
        if trouble is not None and now < trouble.next_attempt_ms:
            at = datetime.fromtimestamp(trouble.next_attempt_ms / 1000, UTC).isoformat(timespec="seconds")
            return None, f"{trouble} It is tried again at {at}."
        key = f"{seen.first}/{seen.last}/{self.cursor.run}/{trouble.attempts if trouble else 0}"
        if not begun:
            return _run(self.mill.model, ["initial_model"], {}, f"initial/{key}"), ""
        tags = {
            ASSET_PARTITION_RANGE_START_TAG: str(seen.first),
            ASSET_PARTITION_RANGE_END_TAG: str(seen.last),
        }
        return _run(self.mill.model, WINDOWED, tags, key), ""


def _run(
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
        failed = entry.dagster_event.step_failure_data
        user = failed.user_failure_data
        told = {name: value.value for name, value in (user.metadata if user else {}).items()}
        sentence = (user.description if user else None) or str(failed.error_display_string)[:2000]
        return WindowFailure(_text(told, "window", window), _text(told, "error", "Unnamed"), sentence)
    return WindowFailure(window, "RunLost", f"Run {run.run_id} ended without a word.")


def _text(told: Mapping[str, Any], name: str, otherwise: str) -> str:
    found = told.get(name)
    return found if isinstance(found, str) else otherwise
