"""The tracker follows store and ledger, and makes up for what it missed."""

from collections.abc import Iterator

import pytest

from bench import Bench, run, turn
from tidemill.adapters.memory.tracker import MemoryTracker
from tidemill.core.errors import PredecessorMissing, TrackerUnavailable
from tidemill.core.tracking import WindowRun
from tidemill.cycle.intervene import rollback
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.record import Recorder, find_drift

WINDOWS = 3


@pytest.fixture
def mill(bench: Bench) -> Iterator[ModelContext]:
    """A model with three windows, each of which was deployed."""
    bench.define(gate={"policy": "always"})
    bench.feed(-1, WINDOWS)
    with bench.mill() as opened:
        run(opened, 0, WINDOWS - 1)
        yield opened


def keys(bench: Bench) -> list[str]:
    return [bench.window(number).key for number in range(WINDOWS)]


def test_a_record_tells_of_the_data_the_learner_the_gate_and_who_ran_it(
    bench: Bench, mill: ModelContext
) -> None:
    tracker = MemoryTracker()
    recorder = Recorder(mill, tracker, "parent", {"dagster.run_id": "r1"})
    assert recorder.record_window(bench.window(0)).startswith("memory:")
    recorder.flush()
    told = tracker.runs[bench.model, bench.window(0).key]
    assert told.params["learner.continue.trees"] == "3"
    assert told.params["fields.price.type"] == "number"
    assert told.metrics["rows"] == 200
    assert {"late", "ahead", "rejected", "base_rate", "loss.champion"} <= told.metrics.keys()
    assert {"field.price.mean", "field.country.values"} <= told.metrics.keys()
    assert told.metrics["field.price.missing"] == 0
    assert told.tags["dagster.run_id"] == "r1"
    plan = mill.repository.plan(bench.window(0).key)
    assert plan is not None
    offsets = (f"{r.partition}:{r.start}-{r.end}" for r in plan.ranges)
    assert told.tags["offsets"] == " ".join(offsets)
    assert told.texts["report.md"].startswith("#")
    assert tracker.parents[bench.model, bench.window(0).key] == "parent"


def test_a_window_without_a_report_is_not_recorded(bench: Bench, mill: ModelContext) -> None:
    with pytest.raises(PredecessorMissing):
        Recorder(mill, MemoryTracker()).record_window(bench.window(WINDOWS))


def test_windows_that_were_missed_are_recorded_before_the_next_one(
    bench: Bench, mill: ModelContext
) -> None:
    tracker = MemoryTracker()
    for number in (0, 2):
        recorder = Recorder(mill, tracker)
        recorder.record_window(bench.window(number))
        recorder.flush()
    assert [window for _, window in tracker.runs] == keys(bench)


class GoneMeanwhile(MemoryTracker):
    """A tracker that goes away after it has begun a run."""

    def record(self, run_id: str, run: WindowRun) -> None:
        raise TrackerUnavailable("The tracker has gone.", "Wait for it.")


def test_a_record_that_fails_while_the_next_window_is_at_work_is_told_of_there(
    bench: Bench, mill: ModelContext
) -> None:
    tracker = GoneMeanwhile()
    for act in (
        lambda recorder: recorder.written(),
        lambda recorder: recorder.window(bench.window(1)),
        lambda recorder: recorder.deployments(),
    ):
        recorder = Recorder(mill, tracker)
        recorder.record_window(bench.window(0))
        with pytest.raises(TrackerUnavailable):
            act(recorder)
    assert find_drift(mill, tracker).windows == tuple(keys(bench))


def test_every_deployed_model_is_registered_and_the_alias_stands_at_the_head(mill: ModelContext) -> None:
    tracker = MemoryTracker()
    Recorder(mill, tracker).record_deployments()
    deployed = [standing.entry.digest for standing in mill.chain().entries]
    assert tracker.versions(mill.model) == deployed
    assert tracker.champion(mill.model) == deployed[-1]


def test_a_roll_back_moves_the_alias_back_and_makes_no_version(mill: ModelContext) -> None:
    tracker = MemoryTracker()
    recorder = Recorder(mill, tracker)
    recorder.record_deployments()
    versions = tracker.versions(mill.model)
    rollback(mill, versions[1], "ada", "better")
    recorder.record_deployments()
    assert tracker.versions(mill.model) == versions
    assert tracker.champion(mill.model) == versions[1]


def test_drift_names_each_thing_that_is_missing_and_repair_makes_up_for_all(
    bench: Bench, mill: ModelContext
) -> None:
    tracker = MemoryTracker()
    recorder = Recorder(mill, tracker)
    recorder.record_window(bench.window(0))
    recorder.record_deployments()
    head = tracker.aliases[mill.model]
    tracker.aliases[mill.model] = tracker.versions(mill.model)[0]
    lost = tracker.registry[mill.model].pop(1)
    found = find_drift(mill, tracker)
    assert found.windows == tuple(keys(bench)[1:])
    assert found.versions == (lost.digest,)
    assert (found.head, found.champion != head) == (head, True)
    assert len(list(found.descriptions)) == 4
    Recorder(mill, tracker).repair(found)
    assert list(find_drift(mill, tracker).descriptions) == []


def test_another_report_of_a_window_would_be_drift(bench: Bench, mill: ModelContext) -> None:
    from dataclasses import replace

    tracker = MemoryTracker()
    recorder = Recorder(mill, tracker)
    recorder.record_window(bench.window(2))
    recorder.record_deployments()
    key = bench.model, bench.window(1).key
    tracker.runs[key] = replace(tracker.runs[key], digest="0" * 64)
    assert find_drift(mill, tracker).windows == (bench.window(1).key,)


def test_a_tracker_that_is_away_changes_nothing_here(bench: Bench, mill: ModelContext) -> None:
    tracker = MemoryTracker(unavailable=True)
    names = set(mill.repository.names(""))
    for act in (
        lambda: Recorder(mill, tracker).record_window(bench.window(0)),
        lambda: Recorder(mill, tracker).record_deployments(),
        lambda: find_drift(mill, tracker),
    ):
        with pytest.raises(TrackerUnavailable):
            act()
    assert set(mill.repository.names("")) == names
    turn(mill, 0)
