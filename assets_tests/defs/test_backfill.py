"""A range of windows is one run, and completed windows are kept."""

import os
import signal
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from support.dagster.event_log import ASSETS, CHECKS
from tidemill.core.errors import (
    AlreadyRunning,
    FeatureSkew,
    TooManyRejects,
    UnknownWindow,
    WindowOpen,
)
from tidemill.core.windows import Window
from tidemill.defs.in_process_run import Materialized, backfill

DAYS = [f"2024-01-0{day}" for day in range(1, 6)]


def materialization_counts(instance: dg.DagsterInstance) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for asset in ASSETS:
        key = dg.AssetKey(["tides", asset])
        records = instance.fetch_materializations(key, limit=1000).records
        counts.update((asset, str(r.partition_key)) for r in records)
    return counts


def evaluations(instance: dg.DagsterInstance) -> list[tuple[str, str, bool]]:
    """Check, window and whether it passed."""
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    logs = [e for r in instance.get_runs() for e in instance.all_logs(r.run_id, of_type=kind)]
    results = [e.dagster_event.asset_check_evaluation_data for e in logs]
    return [(e.check_name, str(e.partition), e.passed) for e in results]


def failing_at(step: str, key: str, error: Exception):
    def before_step(current_step: str, window: Window) -> None:
        if (current_step, window.key) == (step, key):
            raise error

    return before_step


def test_a_range_is_one_run_with_one_materialization_and_evaluation_each(
    instance, spec, tidemill_resource, fake_steps
):
    outcome = backfill(instance, spec, DAYS[0], DAYS[4], tidemill=tidemill_resource)
    assert outcome.success
    assert outcome.error is None
    assert materialization_counts(instance) == Counter((a, d) for a in ASSETS for d in DAYS)
    results = evaluations(instance)
    assert sorted(results) == sorted((check, day, True) for check in CHECKS for day in DAYS)
    runs = instance.get_runs()
    assert [r.status for r in runs] == [dg.DagsterRunStatus.SUCCESS] * 2  # one is initial_model's
    assert fake_steps.ledger == [DAYS[4]]


def test_all_steps_of_a_window_run_before_the_next_window(
    instance, spec, tidemill_resource, fake_steps
):
    backfill(instance, spec, DAYS[0], DAYS[1], tidemill=tidemill_resource)
    steps = ["extract", "update", "evaluate", "deploy"]
    assert fake_steps.calls == [(s, d) for d in DAYS[:2] for s in steps]


def test_the_initial_model_is_materialized_once(instance, spec, tidemill_resource):
    for day in DAYS[:2]:
        backfill(instance, spec, day, day, tidemill=tidemill_resource)
    key = dg.AssetKey(["tides", "initial_model"])
    assert len(instance.fetch_materializations(key, limit=10).records) == 1


def test_only_selected_assets_are_run(instance, spec, tidemill_resource, fake_steps):
    chosen = ["evaluation_report", "kafka_batch"]
    backfill(instance, spec, DAYS[0], DAYS[1], selection=chosen, tidemill=tidemill_resource)
    assert {step for step, _ in fake_steps.calls} == {"extract", "evaluate"}
    assert {asset for asset, _ in materialization_counts(instance)} == set(chosen)


def test_each_window_deploys_if_requested(instance, spec, tidemill_resource, fake_steps):
    backfill(instance, spec, DAYS[0], DAYS[2], deploy="each", tidemill=tidemill_resource)
    assert fake_steps.ledger == DAYS[:3]


def test_a_failure_keeps_completed_windows_and_deploys_the_last_one(
    instance, spec, tidemill_resource, fake_steps
):
    fake_steps.before_step = failing_at(
        "extract", DAYS[2], WindowOpen("It is open.", "Wait for the log.")
    )
    outcome = backfill(instance, spec, DAYS[0], DAYS[4], tidemill=tidemill_resource)
    assert not outcome.success
    assert isinstance(outcome.error, WindowOpen)
    assert fake_steps.ledger == [DAYS[1]]
    assert materialization_counts(instance) == Counter((a, d) for a in ASSETS for d in DAYS[:2])

    fake_steps.before_step = lambda step, window: None
    assert backfill(instance, spec, DAYS[2], DAYS[4], tidemill=tidemill_resource).success
    assert materialization_counts(instance) == Counter((a, d) for a in ASSETS for d in DAYS)
    assert fake_steps.ledger == [DAYS[1], DAYS[4]]


def test_a_failure_names_window_error_and_remedy(instance, spec, tidemill_resource, fake_steps):
    fake_steps.before_step = failing_at(
        "update", DAYS[1], WindowOpen("It is open.", "Wait for the log.")
    )
    outcome = backfill(instance, spec, DAYS[0], DAYS[2], tidemill=tidemill_resource)
    logs = instance.all_logs(outcome.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    failure = logs[0].dagster_event.step_failure_data.user_failure_data
    assert failure.description == f"Window {DAYS[1]}: WindowOpen: It is open. Wait for the log."
    metadata = {name: value.value for name, value in failure.metadata.items()}
    assert metadata["error"] == "WindowOpen"
    assert metadata["window"] == DAYS[1]
    assert metadata["remedy"] == "Wait for the log."


@pytest.mark.parametrize(
    ("step", "error", "check"),
    [
        ("extract", TooManyRejects("Too many.", "Fix it."), "reject_share"),
        ("deploy", FeatureSkew("It differs.", "Fix it."), "golden_rows"),
    ],
)
def test_a_blocking_check_fails_with_its_step(
    instance, spec, tidemill_resource, fake_steps, step, error, check
):
    fake_steps.before_step = failing_at(step, DAYS[1], error)
    outcome = backfill(instance, spec, DAYS[0], DAYS[2], tidemill=tidemill_resource)
    assert outcome.error is error
    assert [e for e in evaluations(instance) if not e[2]] == [(check, DAYS[1], False)]
    assert (CHECKS[check], DAYS[1]) not in materialization_counts(instance)


def test_an_interrupt_wrapped_by_kafkas_client_is_an_interrupt(
    instance, spec, tidemill_resource, fake_steps
):
    wrapped = SystemError("returned a result with an exception set")
    wrapped.__cause__ = dg.DagsterExecutionInterruptedError()
    fake_steps.before_step = failing_at("extract", DAYS[1], wrapped)
    with pytest.raises(KeyboardInterrupt):
        backfill(instance, spec, DAYS[0], DAYS[2], tidemill=tidemill_resource)
    assert materialization_counts(instance) == Counter((a, DAYS[0]) for a in ASSETS)


def test_few_rows_warn_and_do_not_block(instance, spec, tidemill_resource, fake_steps):
    fake_steps.rows = spec.warn_below_rows - 1
    assert backfill(instance, spec, DAYS[0], DAYS[0], tidemill=tidemill_resource).success
    assert ("few_rows", DAYS[0], False) in evaluations(instance)


def test_progress_reports_each_asset_of_each_window_as_it_completes(
    instance, spec, tidemill_resource, fake_steps
):
    reported: list[Materialized] = []
    call_counts: list[int] = []

    def progress(materialized: Materialized) -> None:
        reported.append(materialized)
        call_counts.append(len(fake_steps.calls))

    backfill(instance, spec, DAYS[0], DAYS[1], progress=progress, tidemill=tidemill_resource)
    expected = [("initial_model", None), *((a, d) for d in DAYS[:2] for a in ASSETS)]
    assert [(item.asset, item.window) for item in reported] == expected
    assert call_counts == list(range(9))
    assert reported[1].metadata["rows"] == fake_steps.rows


@pytest.mark.parametrize("key", ["2024-01-1", "2023-12-31", "2999-01-01", "../../etc"])
def test_a_key_outside_the_definition_is_refused_before_any_run(
    instance, spec, tidemill_resource, key
):
    with pytest.raises(UnknownWindow):
        backfill(instance, spec, DAYS[0], key, tidemill=tidemill_resource)
    assert instance.get_runs() == []


def test_a_second_run_of_the_model_stops_at_once(instance, spec, tidemill_resource):
    def refuse(*_: object, **__: object):
        raise AlreadyRunning("Model tides is in use.", "Wait until it ends.")

    tidemill_resource.open_model = refuse
    with pytest.raises(AlreadyRunning):
        backfill(instance, spec, DAYS[0], DAYS[0], tidemill=tidemill_resource)
    assert instance.get_runs() == []


def test_an_interrupt_leaves_the_run_finished(instance, spec, tidemill_resource, fake_steps):
    def interrupt(step: str, window: Window) -> None:
        if window.key == DAYS[1]:
            os.kill(os.getpid(), signal.SIGINT)

    fake_steps.before_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        backfill(instance, spec, DAYS[0], DAYS[4], tidemill=tidemill_resource)
    assert all(run.is_finished for run in instance.get_runs())
    assert {day for _, day in materialization_counts(instance)} == {DAYS[0]}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later
def test_kill_9_keeps_completed_windows_and_the_next_run_continues(
    instance, spec, tidemill_resource, fake_steps, tmp_path: Path
):
    def die(step: str, window: Window) -> None:
        if (step, window.key) == ("evaluate", DAYS[2]):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        fake_steps.before_step = die
        with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as child_instance:
            backfill(child_instance, spec, DAYS[0], DAYS[4], tidemill=tidemill_resource)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    done = materialization_counts(instance)
    assert all(done[asset, day] == 1 for asset in ASSETS for day in DAYS[:2])
    assert done["candidate_model", DAYS[2]] == 1

    missing = [day for day in DAYS if ("deployed_model", day) not in done]
    assert backfill(instance, spec, missing[0], missing[-1], tidemill=tidemill_resource).success
    assert set(materialization_counts(instance)) == {(a, d) for a in ASSETS for d in DAYS}
    statuses = Counter(run.status for run in instance.get_runs())
    assert statuses[dg.DagsterRunStatus.FAILURE] == 1  # the killed one is no longer STARTED
    assert fake_steps.ledger == [DAYS[4]]
