"""Faults 10 and 38: `adopt` over a real Kafka, killed at every commit."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from faults.topics import recreate_topic
from support.models import oracle
from support.models.harness import SPEC, ModelHarness, run_window, run_windows
from support.models.store_snapshot import take_snapshot
from support.processes.commands import run_command
from support.processes.workers import KILLED, exit_code_of, failpoints_in, failure_output
from tidemill import failpoints
from tidemill.core.errors import LineageChanged, TopicRecreated
from tidemill.core.records import Candidate
from tidemill.cycle.audit.verify import verify
from tidemill.cycle.operations import adopt as adopt_module
from tidemill.cycle.operations.adopt import adopt
from tidemill.cycle.operations.restore import restore
from tidemill.cycle.steps.extract import extract

NEXT = 3
"""The first unplanned window; windows 0 to 2 are completed."""
REASON_OPTIONS = ("--reason", "the shop was rebuilt", "--actor", "ada")
SEED = SPEC["learner"] | {"seed": 7}


def run_adopt(harness: ModelHarness, *options: str) -> dict[str, object]:
    """The JSON output of `tidemill adopt`."""
    args = (
        "adopt",
        harness.model,
        "--from",
        harness.window(NEXT).key,
        *REASON_OPTIONS,
        "--json",
        *options,
    )
    result = run_command(harness.env, "tidemill", *args)
    assert result.returncode == 0, result.stderr
    output: dict[str, object] = json.loads(result.stdout)
    return output


def load_candidate(harness: ModelHarness, number: int) -> Candidate:
    with harness.open_model() as ctx:
        return ctx.records.require_candidate(harness.window(number))


@pytest.mark.faults
@pytest.mark.parametrize("last", [NEXT + 1, NEXT + 6], ids=["fewer", "more"])
def test_adopting_a_recreated_topic_continues_in_a_new_epoch(
    harness: ModelHarness, kafka_folder: Path, last: int
) -> None:
    """Fault 10: the old topic had windows -3 to 4; the lineage continues."""
    harness.produce_windows(-3, 4)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, NEXT - 1)
    recreate_topic(harness)
    harness.produce_windows(1, last, rows=160, seed=1)
    with harness.open_model() as ctx, pytest.raises(TopicRecreated, match="tidemill adopt"):
        extract(ctx, harness.window(NEXT))
    adopted = run_adopt(harness)
    assert (adopted["epoch"], adopted["topic_changed"], adopted["changed_keys"]) == (1, True, [])
    assert run_adopt(harness)["number"] == adopted["number"] == 1
    with harness.open_model() as ctx:
        run_window(ctx, NEXT)
        planned = ctx.repository.plan(harness.window(NEXT).key)
        assert planned is not None
        assert planned.offset_ranges == {0: (160, 240), 1: (160, 240)}
        assert [s.entry.kind for s in ctx.chain().entries].count("adopt") == 1
    assert load_candidate(harness, NEXT).lineage == load_candidate(harness, NEXT - 1).lineage
    report = oracle.assert_consistent(harness)
    assert len(report.taken_as_archived) == 1 + NEXT  # the old topic's windows and history
    assert oracle.assert_matches_log(harness, kafka_folder) == 160


def test_adopting_a_changed_spec_and_topic_together_starts_a_lineage_and_an_epoch(
    harness: ModelHarness, kafka_folder: Path
) -> None:
    """Faults 10 and 38."""
    harness.produce_windows(-3, 4)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, NEXT - 1)
    recreate_topic(harness)
    harness.produce_windows(NEXT - 1, NEXT + 1)
    harness.define(learner=SEED, fields={"country": "category", "price": "number"})
    with (
        harness.open_model() as ctx,
        pytest.raises(LineageChanged, match=r"`fields\.visits`, `learner"),
    ):
        extract(ctx, harness.window(NEXT))
    adopted = run_adopt(harness)
    assert (adopted["changed_keys"], adopted["epoch"]) == (["fields.visits", "learner.seed"], 1)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, NEXT)  # repeated steps are no-ops
    first = load_candidate(harness, NEXT)
    assert (first.kind, first.parent) == ("retrain", load_candidate(harness, NEXT - 1).digest)
    assert first.lineage == adopted["lineage"]
    oracle.assert_consistent(harness)
    assert oracle.assert_matches_log(harness, kafka_folder) == 200


@pytest.mark.faults
def test_a_wrong_window_or_an_unchanged_model_is_refused_by_the_command(
    harness: ModelHarness,
) -> None:
    harness.produce_windows(-1, 1)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 0)
    before = take_snapshot(harness)
    for key, changes, message in (
        (harness.window(1).key, {}, "nothing to adopt"),
        (harness.window(0).key, {"learner": SEED}, f"--from {harness.window(1)} --reason"),
        (harness.window(1).key, {"label": "paid"}, "a new name"),
    ):
        harness.define(**changes)
        result = run_command(
            harness.env, "tidemill", "adopt", harness.model, "--from", key, *REASON_OPTIONS
        )
        assert result.returncode == 1
        assert "OperationNotAllowed: " in result.stderr
        assert message in " ".join(result.stderr.split())
    assert take_snapshot(harness) == before


def copy_with_ledger(harness: ModelHarness, name: str) -> ModelHarness:
    """A twin with a copy of the store, and the ledger restored to a separate topic."""
    twin = harness.twin(name)
    shutil.copytree(harness.settings.store, twin.settings.store)
    with twin.open_model() as ctx:
        restore(ctx)
    return twin


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_adopt_killed_twice_at_any_failpoint_is_finished_by_a_repeat_and_recorded_once(
    harness: ModelHarness,
) -> None:
    harness.produce_windows(-2, 2)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, NEXT - 2)
    recreate_topic(harness)
    harness.produce_windows(0, 4)
    harness.define(learner=SEED)
    undone = copy_with_ledger(harness, "undone")
    window = harness.window(NEXT - 1)
    run_adoption = partial(adopt, window=window, actor="ada", reason="the shop was rebuilt")
    reached: list[str] = []
    failpoints.on_reached(reached.append)
    with harness.open_model() as ctx:
        run_adoption(ctx)
    failpoints.on_reached(None)
    expected, kills = take_snapshot(harness), 0
    own_failpoints = failpoints_in([Path(adopt_module.__file__)]) | {
        "adoption.before",
        "adoption.after",
    }
    assert own_failpoints | {"append.before", "append.after", "entry.before", "put.linked"} <= set(
        reached
    )
    for place in sorted(set(reached)):
        for hit in range(1, reached.count(place) + 1):
            twin = copy_with_ledger(undone, f"{place}.{hit}")
            assert exit_code_of(twin, run_adoption, f"{place}:kill:{hit}") == KILLED
            kills += 1 + (exit_code_of(twin, run_adoption, f"{place}:kill") == KILLED)
            assert exit_code_of(twin, run_adoption) == 0, failure_output(twin)
            assert take_snapshot(twin) == expected, place
            with twin.open_model() as ctx:
                assert verify(ctx).findings == []
    assert kills >= len(reached)
    with harness.open_model() as ctx:
        run_window(ctx, NEXT - 1)
    oracle.assert_consistent(harness)
    print(f"{kills} kills at {len(reached)} points of {len(set(reached))} places")
