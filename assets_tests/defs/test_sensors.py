"""The window sensor over a real log: which runs it requests, and when it gives up."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import dagster as dg
import pytest

from support.models.harness import MINUTE, SPEC, ModelHarness, run_windows
from tidemill import bootstrap
from tidemill.core.spec import ModelSpec
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.adopt import adopt
from tidemill.defs import sensors
from tidemill.defs.in_process_run import backfill
from tidemill.defs.resources import TidemillResource
from tidemill.defs.sensors import SENSOR_TAG, window_closed_sensor
from tidemill.settings import Settings

START_TAG, END_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass
class SensorDriver:
    """Ticks of a sensor, with the cursor carried over and a clock that the test sets."""

    harness: ModelHarness
    instance: dg.DagsterInstance
    cursor: str | None = None
    clock_offset_ms: int = 0
    tidemill: TidemillResource = field(init=False)

    def __post_init__(self) -> None:
        self.tidemill = TidemillResource(self.harness.settings, self._open_model)

    @contextmanager
    def _open_model(
        self, spec: ModelSpec, settings: Settings, **options: Any
    ) -> Iterator[ModelContext]:
        with bootstrap.open_model(spec, settings, **options) as ctx:
            clock = ctx.clock
            yield replace(ctx, clock=lambda: clock() + self.clock_offset_ms)

    def change_settings(self, **kafka: Any) -> None:
        settings = self.tidemill.settings
        changed = settings.kafka.model_copy(update=kafka)
        self.tidemill.settings = settings.model_copy(update={"kafka": changed})

    def tick(self) -> dg.SensorResult:
        sensor = window_closed_sensor(self.harness.load_spec(), "stopped")
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"tidemill": self.tidemill}
        )
        result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor or self.cursor
        return result

    def requested_range(self) -> tuple[str, str]:
        """The windows of a tick's only run request."""
        (request,) = self.tick().run_requests or []
        assert request.tags[SENSOR_TAG] == self.harness.model
        return request.tags[START_TAG], request.tags[END_TAG]

    def skip_reason(self) -> str:
        result = self.tick()
        assert not result.run_requests
        return str(result.skip_reason.skip_message if result.skip_reason else "")

    def record_run(self, error: str, window: int, status: str = "FAILURE") -> None:
        """Record a run of the sensor with this result, as the daemon would."""

        @dg.op(name="windows")
        def windows() -> None:
            metadata = {"error": error, "window": self.harness.window(window).key}
            if status == "FAILURE":
                raise dg.Failure(f"{error}: it broke.", metadata=metadata)

        @dg.job(name="sensor_job")
        def job() -> None:
            windows()

        job.execute_in_process(
            instance=self.instance, tags={SENSOR_TAG: self.harness.model}, raise_on_error=False
        )


@pytest.fixture
def sensor_driver(harness: ModelHarness, monkeypatch: pytest.MonkeyPatch) -> Iterator[SensorDriver]:
    monkeypatch.setattr(sensors, "RECHECK_SECONDS", 0.0)
    with dg.DagsterInstance.ephemeral() as instance:
        driver = SensorDriver(harness, instance)
        yield driver
        driver.tidemill.close()


def check_evaluations(result: dg.SensorResult) -> list[dg.AssetCheckEvaluation]:
    events = result.asset_events or ()
    return [event for event in events if isinstance(event, dg.AssetCheckEvaluation)]


def run_first_windows(driver: SensorDriver, windows: int) -> None:
    """Create the initial model and process the first windows."""
    with driver.harness.open_model() as ctx:
        run_windows(ctx, 0, windows - 1)


def test_before_the_first_window_closes_no_run_is_requested(sensor_driver: SensorDriver) -> None:
    assert "is still open" in sensor_driver.skip_reason()


def test_the_initial_model_comes_first(sensor_driver: SensorDriver) -> None:
    sensor_driver.harness.produce_windows(-1, 1)
    (request,) = sensor_driver.tick().run_requests or []
    assert request.asset_selection == [dg.AssetKey([sensor_driver.harness.model, "initial_model"])]


def test_all_closed_windows_are_one_run(sensor_driver: SensorDriver) -> None:
    sensor_driver.harness.produce_windows(-1, 3)
    run_first_windows(sensor_driver, 1)
    assert sensor_driver.requested_range() == (
        sensor_driver.harness.window(1).key,
        sensor_driver.harness.window(2).key,
    )


def test_a_repeated_tick_requests_the_same_run(sensor_driver: SensorDriver) -> None:
    sensor_driver.harness.produce_windows(-1, 2)
    run_first_windows(sensor_driver, 1)
    keys = {
        request.run_key for _ in range(2) for request in sensor_driver.tick().run_requests or []
    }
    assert len(keys) == 1


def test_while_the_model_is_locked_no_run_is_requested(
    sensor_driver: SensorDriver,
) -> None:
    sensor_driver.harness.produce_windows(-1, 2)
    run_first_windows(sensor_driver, 1)
    with bootstrap.exclusive_lock(sensor_driver.harness.model, sensor_driver.harness.settings):
        assert "Another process is working on model" in sensor_driver.skip_reason()
    assert sensor_driver.requested_range()


def test_a_failed_window_is_retried_with_backoff_and_given_up_after_five_failures(
    sensor_driver: SensorDriver,
) -> None:
    sensor_driver.harness.produce_windows(-1, 2)
    run_first_windows(sensor_driver, 1)
    for wait in (1, 2, 4, 8):
        sensor_driver.record_run("LogUnavailable", 1)
        assert "It is retried at" in sensor_driver.skip_reason()
        sensor_driver.clock_offset_ms += wait * MINUTE - 10_000
        assert "It is retried at" in sensor_driver.skip_reason()
        sensor_driver.clock_offset_ms += 10_000
        assert sensor_driver.requested_range()
    sensor_driver.record_run("LogUnavailable", 1)
    reason = sensor_driver.skip_reason()
    assert reason.startswith(
        f"Given up. Window {sensor_driver.harness.window(1)} failed 5 times: Log"
    )


def test_a_non_retryable_error_gives_up_at_once_until_something_changes(
    sensor_driver: SensorDriver,
) -> None:
    sensor_driver.harness.produce_windows(-1, 2)
    run_first_windows(sensor_driver, 1)
    sensor_driver.record_run("TooManyRejects", 1)
    result = sensor_driver.tick()
    (check,) = check_evaluations(result)
    assert not check.passed
    assert "TooManyRejects: it broke." in str(check.metadata["given_up"].value)
    assert "Given up." in sensor_driver.skip_reason()
    sensor_driver.harness.define(max_reject_share=0.5)
    assert sensor_driver.requested_range()


def test_a_changed_spec_gives_up_at_once_and_continues_once_adopted(
    sensor_driver: SensorDriver,
) -> None:
    harness = sensor_driver.harness
    harness.produce_windows(-1, 2)
    run_first_windows(sensor_driver, 1)
    harness.define(learner=SPEC["learner"] | {"seed": 1})
    assert sensor_driver.requested_range() == (harness.window(1).key,) * 2
    sensor_driver.record_run("LineageChanged", 1)
    assert "Given up." in sensor_driver.skip_reason()
    with harness.open_model() as ctx:
        adopt(ctx, harness.window(1), "ada", "another seed")
    assert sensor_driver.requested_range() == (harness.window(1).key,) * 2


def test_a_locked_model_does_not_count_as_a_failure(sensor_driver: SensorDriver) -> None:
    sensor_driver.harness.produce_windows(-1, 2)
    run_first_windows(sensor_driver, 1)
    sensor_driver.record_run("AlreadyRunning", 1)
    assert sensor_driver.requested_range()


def test_a_canceled_run_is_not_retried(sensor_driver: SensorDriver) -> None:
    sensor_driver.harness.produce_windows(-1, 2)
    run_first_windows(sensor_driver, 1)
    sensor_driver.record_run("", 1, "SUCCESS")
    (run,) = sensor_driver.instance.get_runs()
    sensor_driver.instance.report_run_canceled(run)
    assert "was canceled" in sensor_driver.skip_reason()


def test_a_failure_is_cleared_once_the_window_was_processed(
    sensor_driver: SensorDriver,
) -> None:
    sensor_driver.harness.produce_windows(-1, 3)
    run_first_windows(sensor_driver, 1)
    sensor_driver.record_run("TooManyRejects", 1)
    assert "Given up." in sensor_driver.skip_reason()
    run_first_windows(sensor_driver, 2)
    assert sensor_driver.requested_range() == (sensor_driver.harness.window(2).key,) * 2


def test_unavailable_kafka_is_a_skip_reason_and_not_a_crash(
    sensor_driver: SensorDriver,
) -> None:
    sensor_driver.change_settings(bootstrap_servers="127.0.0.1:1", timeout=1)
    assert sensor_driver.skip_reason().startswith("LogUnavailable: ")


def test_a_sensor_never_starts_the_embedded_broker(
    sensor_driver: SensorDriver,
) -> None:
    sensor_driver.change_settings(bootstrap_servers=None)
    assert "Start it with `tidemill kafka start`" in sensor_driver.skip_reason()


def test_freshness_is_reported_when_it_changes_and_every_five_minutes(
    sensor_driver: SensorDriver,
) -> None:
    sensor_driver.harness.define(freshness={"clock": "event_time"})
    sensor_driver.harness.produce_windows(-1, 1)
    run_first_windows(sensor_driver, 1)
    evaluations = [check_evaluations(sensor_driver.tick()) for _ in range(2)]
    assert [len(tick) for tick in evaluations] == [1, 0]
    sensor_driver.clock_offset_ms = sensors._REPORT_EVERY_MS
    (check,) = check_evaluations(sensor_driver.tick())
    assert check.passed
    assert check.metadata["lag_seconds"].value == 0


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # Dagster's
def test_backfilling_an_old_window_does_not_make_a_stale_model_fresh(
    sensor_driver: SensorDriver,
) -> None:
    """By the wall clock this model is far behind."""
    sensor_driver.harness.produce_windows(-1, 2)
    run_first_windows(sensor_driver, 2)
    (before,) = check_evaluations(sensor_driver.tick())
    with dg.DagsterInstance.ephemeral() as instance:
        old = sensor_driver.harness.window(0).key
        assert backfill(
            instance,
            sensor_driver.harness.load_spec(),
            old,
            old,
            tidemill=sensor_driver.tidemill,
        ).success
    sensor_driver.clock_offset_ms = sensors._REPORT_EVERY_MS
    (after,) = check_evaluations(sensor_driver.tick())
    for check in (before, after):
        assert not check.passed
        assert (
            check.metadata["newest_completed_window"].value == sensor_driver.harness.window(1).key
        )


def test_watermarks_are_observed_when_they_move_and_at_most_once_per_minute(
    sensor_driver: SensorDriver,
) -> None:
    sensor_driver.harness.produce_windows(-1, 1)
    run_first_windows(sensor_driver, 1)

    def observations() -> list[dg.AssetObservation]:
        events = sensor_driver.tick().asset_events or ()
        return [event for event in events if isinstance(event, dg.AssetObservation)]

    (first,) = observations()
    assert first.asset_key == dg.AssetKey(["kafka", sensor_driver.harness.model])
    assert first.metadata["last_stable_offset"].value == 600
    assert first.metadata["unplanned"].value == 200
    sensor_driver.harness.produce_windows(2, 2)
    assert observations() == []
    sensor_driver.clock_offset_ms = 61_000
    (second,) = observations()
    assert second.metadata["last_stable_offset"].value == 800
    sensor_driver.clock_offset_ms = 122_000
    assert observations() == []


def test_a_cursor_is_plain_json(sensor_driver: SensorDriver) -> None:
    sensor_driver.harness.produce_windows(-1, 1)
    run_first_windows(sensor_driver, 1)
    sensor_driver.tick()
    assert json.loads(sensor_driver.cursor or "")["done"] == sensor_driver.harness.window(0).key


@pytest.mark.parametrize(
    "cursor",
    [
        '{"done": null, "run": "r", "ends": [1, 2],'
        ' "trouble": {"window": "w", "told": "no"}}',  # codespell:ignore
        '{"failure_state": {"window": "w", "situation": "no"}}',
        "no JSON",
    ],
)
def test_a_cursor_of_another_format_is_an_empty_one(
    sensor_driver: SensorDriver, cursor: str
) -> None:
    sensor_driver.harness.produce_windows(-1, 2)
    run_first_windows(sensor_driver, 1)
    sensor_driver.cursor = cursor
    assert sensor_driver.requested_range() == (sensor_driver.harness.window(1).key,) * 2
    assert json.loads(sensor_driver.cursor)["failure_state"] is None
