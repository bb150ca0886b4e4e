"""The sensor of a model, tick by tick, over a real log: what it starts, and when it stops."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pytest

from bench import MINUTE, SPEC, Bench, run
from tidemill import bootstrap
from tidemill.cycle.adopt import adopt
from tidemill.defs import sensors, watching
from tidemill.defs.launch import backfill
from tidemill.defs.sensors import SENSOR_TAG, window_closed_sensor

START_TAG, END_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass
class Ticks:
    """A sensor's ticks, one after another, with the cursor between them and a clock by hand."""

    bench: Bench
    instance: dg.DagsterInstance
    cursor: str | None = None
    later: int = 0

    def tick(self) -> dg.SensorResult:
        sensor = window_closed_sensor(self.bench.model, self.bench.spec_of(), "stopped")
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor or self.cursor
        return result

    def range(self) -> tuple[str, str]:
        """The windows that the only run request of a tick asks for."""
        (request,) = self.tick().run_requests or []
        assert request.tags[SENSOR_TAG] == self.bench.model
        return request.tags[START_TAG], request.tags[END_TAG]

    def why(self) -> str:
        result = self.tick()
        assert not result.run_requests
        return str(result.skip_reason.skip_message if result.skip_reason else "")

    def ended(self, error: str, window: int, status: str = "FAILURE") -> None:
        """A run of the sensor that ended so, as the daemon would have had it."""

        @dg.op(name="windows")
        def windows() -> None:
            told = {"error": error, "window": self.bench.window(window).key}
            if status == "FAILURE":
                raise dg.Failure(f"{error}: it broke.", metadata=told)

        @dg.job(name="of_the_sensor")
        def job() -> None:
            windows()

        job.execute_in_process(
            instance=self.instance, tags={SENSOR_TAG: self.bench.model}, raise_on_error=False
        )


@pytest.fixture
def ticks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticks]:
    for name, value in bench.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sensors, "AGAIN", 0.0)
    with dg.DagsterInstance.ephemeral() as instance:
        made = Ticks(bench, instance)
        real = bootstrap.open_model

        def with_clock(*args: Any, **told: Any) -> Any:
            return _clocked(real(*args, **told), made)

        monkeypatch.setattr(bootstrap, "open_mill", with_clock)
        yield made
        watching._CONNECTIONS.pop(bench.model).close()


def _clocked(opened: Any, ticks: Ticks) -> Any:
    from contextlib import contextmanager
    from dataclasses import replace

    @contextmanager
    def clocked() -> Iterator[Any]:
        with opened as mill:
            now = mill.now
            yield replace(mill, now=lambda: now() + ticks.later)

    return clocked()


def checks(result: dg.SensorResult) -> list[dg.AssetCheckEvaluation]:
    events = result.asset_events or ()
    return [event for event in events if isinstance(event, dg.AssetCheckEvaluation)]


def served(ticks: Ticks, windows: int) -> None:
    """The initial model and the first windows, worked through."""
    with ticks.bench.mill() as mill:
        run(mill, 0, windows - 1)


def test_before_the_first_window_has_begun_nothing_is_started(ticks: Ticks) -> None:
    assert "is still open" in ticks.why()


def test_the_initial_model_comes_first(ticks: Ticks) -> None:
    ticks.bench.feed(-1, 1)
    (request,) = ticks.tick().run_requests or []
    assert request.asset_selection == [dg.AssetKey([ticks.bench.model, "initial_model"])]


def test_all_windows_that_are_closed_are_one_run(ticks: Ticks) -> None:
    ticks.bench.feed(-1, 3)
    served(ticks, 1)
    assert ticks.range() == (ticks.bench.window(1).key, ticks.bench.window(2).key)


def test_a_tick_that_is_repeated_asks_for_the_same_run(ticks: Ticks) -> None:
    ticks.bench.feed(-1, 2)
    served(ticks, 1)
    keys = {request.run_key for _ in range(2) for request in ticks.tick().run_requests or []}
    assert len(keys) == 1


def test_while_somebody_else_works_on_the_model_nothing_is_started(ticks: Ticks) -> None:
    ticks.bench.feed(-1, 2)
    served(ticks, 1)
    with bootstrap.exclusive_lock(ticks.bench.model, ticks.bench.settings):
        assert "Somebody else is at work" in ticks.why()
    assert ticks.range()


def test_a_window_that_fails_is_tried_again_after_a_minute_then_two_and_given_up_after_five(
    ticks: Ticks,
) -> None:
    ticks.bench.feed(-1, 2)
    served(ticks, 1)
    for wait in (1, 2, 4, 8):
        ticks.ended("LogUnavailable", 1)
        assert "It is tried again at" in ticks.why()
        ticks.later += wait * MINUTE - 10_000
        assert "It is tried again at" in ticks.why()
        ticks.later += 10_000
        assert ticks.range()
    ticks.ended("LogUnavailable", 1)
    told = ticks.why()
    assert told.startswith(f"Given up. Window {ticks.bench.window(1)} failed 5 times: Log")


def test_what_a_retry_cannot_mend_stops_at_once_until_something_is_changed(ticks: Ticks) -> None:
    ticks.bench.feed(-1, 2)
    served(ticks, 1)
    ticks.ended("TooManyRejects", 1)
    result = ticks.tick()
    (check,) = checks(result)
    assert not check.passed
    assert "TooManyRejects: it broke." in str(check.metadata["given up"].value)
    assert "Given up." in ticks.why()
    ticks.bench.define(max_reject_share=0.5)
    assert ticks.range()


def test_a_changed_spec_stops_at_once_and_goes_on_as_soon_as_it_is_adopted(ticks: Ticks) -> None:
    bench = ticks.bench
    bench.feed(-1, 2)
    served(ticks, 1)
    bench.define(learner=SPEC["learner"] | {"seed": 1})
    assert ticks.range() == (bench.window(1).key,) * 2
    ticks.ended("LineChanged", 1)
    assert "Given up." in ticks.why()
    with bench.mill() as mill:
        adopt(mill, bench.window(1), "ada", "another seed")
    assert ticks.range() == (bench.window(1).key,) * 2


def test_a_window_in_other_hands_is_no_failure(ticks: Ticks) -> None:
    ticks.bench.feed(-1, 2)
    served(ticks, 1)
    ticks.ended("AlreadyRunning", 1)
    assert ticks.range()


def test_a_canceled_run_is_not_started_again_by_itself(ticks: Ticks) -> None:
    ticks.bench.feed(-1, 2)
    served(ticks, 1)
    ticks.ended("", 1, "SUCCESS")
    (run_,) = ticks.instance.get_runs()
    ticks.instance.report_run_canceled(run_)
    assert "was canceled" in ticks.why()


def test_trouble_is_over_when_somebody_has_worked_the_window_through(ticks: Ticks) -> None:
    ticks.bench.feed(-1, 3)
    served(ticks, 1)
    ticks.ended("TooManyRejects", 1)
    assert "Given up." in ticks.why()
    served(ticks, 2)
    assert ticks.range() == (ticks.bench.window(2).key,) * 2


def test_kafka_that_is_away_is_a_reason_and_no_crash(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("TIDEMILL_KAFKA__TIMEOUT", "1")
    assert ticks.why().startswith("LogUnavailable: ")


def test_a_sensor_never_starts_the_embedded_broker(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIDEMILL_KAFKA__BOOTSTRAP_SERVERS")
    assert "Start it by `tidemill kafka start`" in ticks.why()


def test_freshness_is_told_when_it_changes_and_every_five_minutes(ticks: Ticks) -> None:
    ticks.bench.define(freshness={"clock": "log"})
    ticks.bench.feed(-1, 1)
    served(ticks, 1)
    told = [checks(ticks.tick()) for _ in range(2)]
    assert [len(each) for each in told] == [1, 0]
    ticks.later = sensors._REPORT_EVERY_MS
    (check,) = checks(ticks.tick())
    assert check.passed
    assert check.metadata["lag"].value == 0


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # Dagster's
def test_an_old_window_filled_in_again_does_not_make_a_stale_model_fresh(ticks: Ticks) -> None:
    """2013 or any other past: by the wall clock this model is years behind."""
    ticks.bench.feed(-1, 2)
    served(ticks, 2)
    (before,) = checks(ticks.tick())
    with dg.DagsterInstance.ephemeral() as instance:
        old = ticks.bench.window(0).key
        assert backfill(instance, ticks.bench.model, ticks.bench.spec_of(), old, old).success
    ticks.later = sensors._REPORT_EVERY_MS
    (again,) = checks(ticks.tick())
    for check in (before, again):
        assert not check.passed
        assert check.metadata["newest window done"].value == ticks.bench.window(1).key


def test_the_topics_watermarks_are_told_when_they_move_and_at_most_once_a_minute(
    ticks: Ticks,
) -> None:
    ticks.bench.feed(-1, 1)
    served(ticks, 1)

    def seen() -> list[dg.AssetObservation]:
        events = ticks.tick().asset_events or ()
        return [event for event in events if isinstance(event, dg.AssetObservation)]

    (first,) = seen()
    assert first.asset_key == dg.AssetKey(["kafka", ticks.bench.model])
    assert first.metadata["stable end"].value == 600
    assert first.metadata["unplanned"].value == 200
    ticks.bench.feed(2, 2)
    assert seen() == []
    ticks.later = 61_000
    (second,) = seen()
    assert second.metadata["stable end"].value == 800
    ticks.later = 122_000
    assert seen() == []


def test_a_cursor_is_plain_json(ticks: Ticks) -> None:
    ticks.bench.feed(-1, 1)
    served(ticks, 1)
    ticks.tick()
    assert json.loads(ticks.cursor or "")["done"] == ticks.bench.window(0).key
