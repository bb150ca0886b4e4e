"""The tracker follows store and ledger, and makes up for what it missed."""

from collections.abc import Iterator

import pytest

from model_harness import ModelHarness, run_window, run_windows
from tidemill.adapters.memory.tracker import MemoryTracker
from tidemill.core.errors import PredecessorMissing, TrackerUnavailable
from tidemill.core.run_record import WindowRun
from tidemill.cycle.context import ModelContext
from tidemill.cycle.manual_actions import rollback
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


def test_a_record_tells_of_the_data_the_learner_the_gate_and_who_ran_it(
    harness: ModelHarness, ctx: ModelContext
) -> None:
    tracker = MemoryTracker()
    recorder = Recorder(ctx, tracker, "parent", {"dagster.run_id": "r1"})
    assert recorder.record_window(harness.window(0)).startswith("memory:")
    recorder.flush()
    told = tracker.runs[harness.model, harness.window(0).key]
    assert told.params["learner.continue.trees"] == "3"
    assert told.params["fields.price.type"] == "number"
    assert told.metrics["rows"] == 200
    assert {"late", "ahead", "rejected", "base_rate", "loss.champion"} <= told.metrics.keys()
    assert {"field.price.mean", "field.country.values"} <= told.metrics.keys()
    assert told.metrics["field.price.missing"] == 0
    assert told.tags["dagster.run_id"] == "r1"
    plan = ctx.repository.plan(harness.window(0).key)
    assert plan is not None
    offsets = (f"{r.partition}:{r.start}-{r.end}" for r in plan.ranges)
    assert told.tags["offsets"] == " ".join(offsets)
    assert told.texts["report.md"].startswith("#")
    assert tracker.parents[harness.model, harness.window(0).key] == "parent"


def test_a_window_without_a_report_is_not_recorded(
    harness: ModelHarness, ctx: ModelContext
) -> None:
    with pytest.raises(PredecessorMissing):
        Recorder(ctx, MemoryTracker()).record_window(harness.window(WINDOWS))


def test_windows_that_were_missed_are_recorded_before_the_next_one(
    harness: ModelHarness, ctx: ModelContext
) -> None:
    tracker = MemoryTracker()
    for number in (0, 2):
        recorder = Recorder(ctx, tracker)
        recorder.record_window(harness.window(number))
        recorder.flush()
    assert [window for _, window in tracker.runs] == window_keys(harness)


class FailingTracker(MemoryTracker):
    """A tracker that goes away after it has begun a run."""

    def record(self, run_id: str, run: WindowRun) -> None:
        raise TrackerUnavailable("The tracker has gone.", "Wait for it.")


def test_a_record_that_fails_while_the_next_window_is_at_work_is_told_of_there(
    harness: ModelHarness, ctx: ModelContext
) -> None:
    tracker = FailingTracker()
    for act in (
        lambda recorder: recorder.written(),
        lambda recorder: recorder.window(harness.window(1)),
        lambda recorder: recorder.deployments(),
    ):
        recorder = Recorder(ctx, tracker)
        recorder.record_window(harness.window(0))
        with pytest.raises(TrackerUnavailable):
            act(recorder)
    assert find_drift(ctx, tracker).windows == tuple(window_keys(harness))


def test_every_deployed_model_is_registered_and_the_alias_stands_at_the_head(
    ctx: ModelContext,
) -> None:
    tracker = MemoryTracker()
    Recorder(ctx, tracker).record_deployments()
    deployed = [standing.entry.digest for standing in ctx.chain().entries]
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


def test_drift_names_each_thing_that_is_missing_and_repair_makes_up_for_all(
    harness: ModelHarness, ctx: ModelContext
) -> None:
    tracker = MemoryTracker()
    recorder = Recorder(ctx, tracker)
    recorder.record_window(harness.window(0))
    recorder.record_deployments()
    head = tracker.aliases[ctx.model]
    tracker.aliases[ctx.model] = tracker.versions(ctx.model)[0]
    lost = tracker.registry[ctx.model].pop(1)
    found = find_drift(ctx, tracker)
    assert found.windows == tuple(window_keys(harness)[1:])
    assert found.versions == (lost.digest,)
    assert (found.head, found.champion != head) == (head, True)
    assert len(list(found.descriptions)) == 4
    Recorder(ctx, tracker).repair(found)
    assert list(find_drift(ctx, tracker).descriptions) == []


def test_another_report_of_a_window_would_be_drift(
    harness: ModelHarness, ctx: ModelContext
) -> None:
    from dataclasses import replace

    tracker = MemoryTracker()
    recorder = Recorder(ctx, tracker)
    recorder.record_window(harness.window(2))
    recorder.record_deployments()
    key = harness.model, harness.window(1).key
    tracker.runs[key] = replace(tracker.runs[key], digest="0" * 64)
    assert find_drift(ctx, tracker).windows == (harness.window(1).key,)


def test_a_tracker_that_is_away_changes_nothing_here(
    harness: ModelHarness, ctx: ModelContext
) -> None:
    tracker = MemoryTracker(unavailable=True)
    names = set(ctx.repository.names(""))
    for act in (
        lambda: Recorder(ctx, tracker).record_window(harness.window(0)),
        lambda: Recorder(ctx, tracker).record_deployments(),
        lambda: find_drift(ctx, tracker),
    ):
        with pytest.raises(TrackerUnavailable):
            act()
    assert set(ctx.repository.names("")) == names
    run_window(ctx, 0)
