"""The tracker follows the store and the ledger, and gaps in its record are filled."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from support.models.harness import ModelHarness, run_window, run_windows
from tidemill.adapters.memory.tracker import MemoryTracker
from tidemill.core.errors import PredecessorMissing, TrackerUnavailable
from tidemill.core.run_record import WindowRun
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.manual_actions import rollback
from tidemill.cycle.tracking import Recorder, find_drift

WINDOWS = 3


@pytest.fixture
def ctx(harness: ModelHarness) -> Iterator[ModelContext]:
    """A model with three windows, each of which was deployed."""
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-1, WINDOWS)
    with harness.open_model() as opened:
        run_windows(opened, 0, WINDOWS - 1)
        yield opened


def window_keys(harness: ModelHarness) -> list[str]:
    return [harness.window(number).key for number in range(WINDOWS)]


def test_a_record_has_the_data_the_learner_the_gate_and_the_run(
    harness: ModelHarness, ctx: ModelContext
) -> None:
    tracker = MemoryTracker()
    recorder = Recorder(ctx, tracker, "parent", {"dagster.run_id": "r1"})
    assert recorder.record_window(harness.window(0)).startswith("memory:")
    recorder.flush()
    run = tracker.runs[harness.model, harness.window(0).key]
    assert run.params["learner.continue.num_iterations"] == "3"
    assert run.params["fields.price.type"] == "number"
    assert run.metrics["rows"] == 200
    assert {"late", "early", "rejected", "base_rate", "loss.champion"} <= run.metrics.keys()
    assert {"field.price.mean", "field.country.values"} <= run.metrics.keys()
    assert run.metrics["field.price.missing"] == 0
    assert run.tags["dagster.run_id"] == "r1"
    plan = ctx.repository.plan(harness.window(0).key)
    assert plan is not None
    offsets = (f"{r.partition}:{r.start}-{r.end}" for r in plan.ranges)
    assert run.tags["offsets"] == " ".join(offsets)
    assert run.texts["report.md"].startswith("#")
    assert tracker.parents[harness.model, harness.window(0).key] == "parent"


def test_a_window_without_a_report_is_not_recorded(
    harness: ModelHarness, ctx: ModelContext
) -> None:
    with pytest.raises(PredecessorMissing):
        Recorder(ctx, MemoryTracker()).record_window(harness.window(WINDOWS))


def test_missing_windows_are_recorded_before_the_next_one(
    harness: ModelHarness, ctx: ModelContext
) -> None:
    tracker = MemoryTracker()
    for number in (0, 2):
        recorder = Recorder(ctx, tracker)
        recorder.record_window(harness.window(number))
        recorder.flush()
    assert [window for _, window in tracker.runs] == window_keys(harness)


class FailingTracker(MemoryTracker):
    """A tracker that becomes unavailable after it has started a run."""

    def record(self, run_id: str, run: WindowRun) -> None:
        raise TrackerUnavailable("The tracker is unavailable.", "Wait for it.")


def test_a_failed_background_write_is_raised_by_the_next_call(
    harness: ModelHarness, ctx: ModelContext
) -> None:
    tracker = FailingTracker()
    next_calls: tuple[Callable[[Recorder], object], ...] = (
        lambda recorder: recorder.flush(),
        lambda recorder: recorder.record_window(harness.window(1)),
        lambda recorder: recorder.record_deployments(),
    )
    for next_call in next_calls:
        recorder = Recorder(ctx, tracker)
        recorder.record_window(harness.window(0))
        with pytest.raises(TrackerUnavailable):
            next_call(recorder)
    assert find_drift(ctx, tracker).windows == tuple(window_keys(harness))


def test_every_deployed_model_is_registered_and_the_alias_points_to_the_head(
    ctx: ModelContext,
) -> None:
    tracker = MemoryTracker()
    Recorder(ctx, tracker).record_deployments()
    deployed = [valid.entry.digest for valid in ctx.chain().entries]
    assert tracker.versions(ctx.model) == deployed
    assert tracker.champion(ctx.model) == deployed[-1]


def test_a_rollback_moves_the_alias_back_and_makes_no_version(ctx: ModelContext) -> None:
    tracker = MemoryTracker()
    recorder = Recorder(ctx, tracker)
    recorder.record_deployments()
    versions = tracker.versions(ctx.model)
    rollback(ctx, versions[1], "ada", "better")
    recorder.record_deployments()
    assert tracker.versions(ctx.model) == versions
    assert tracker.champion(ctx.model) == versions[1]


def test_drift_names_everything_that_is_missing_and_repair_records_it(
    harness: ModelHarness, ctx: ModelContext
) -> None:
    tracker = MemoryTracker()
    recorder = Recorder(ctx, tracker)
    recorder.record_window(harness.window(0))
    recorder.record_deployments()
    head = tracker.aliases[ctx.model]
    tracker.aliases[ctx.model] = tracker.versions(ctx.model)[0]
    lost = tracker.registry[ctx.model].pop(1)
    drift = find_drift(ctx, tracker)
    assert drift.windows == tuple(window_keys(harness)[1:])
    assert drift.versions == (lost.digest,)
    assert (drift.head, drift.champion != head) == (head, True)
    assert len(list(drift.descriptions)) == 4
    Recorder(ctx, tracker).repair(drift)
    assert list(find_drift(ctx, tracker).descriptions) == []


def test_a_recorded_report_that_differs_is_drift(harness: ModelHarness, ctx: ModelContext) -> None:
    tracker = MemoryTracker()
    recorder = Recorder(ctx, tracker)
    recorder.record_window(harness.window(2))
    recorder.record_deployments()
    key = harness.model, harness.window(1).key
    tracker.runs[key] = replace(tracker.runs[key], digest="0" * 64)
    assert find_drift(ctx, tracker).windows == (harness.window(1).key,)


def test_an_unavailable_tracker_changes_nothing_in_the_store(
    harness: ModelHarness, ctx: ModelContext
) -> None:
    tracker = MemoryTracker(unavailable=True)
    names = set(ctx.repository.names(""))
    for action in (
        lambda: Recorder(ctx, tracker).record_window(harness.window(0)),
        lambda: Recorder(ctx, tracker).record_deployments(),
        lambda: find_drift(ctx, tracker),
    ):
        with pytest.raises(TrackerUnavailable):
            action()
    assert set(ctx.repository.names("")) == names
    run_window(ctx, 0)
