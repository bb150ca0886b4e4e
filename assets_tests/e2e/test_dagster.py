"""Backfills and runs from the UI of Dagster's real webserver and daemon, over real Kafka."""

import json

import dagster as dg
import pytest

from support.dagster.event_log import (
    ASSETS,
    CHECKS,
    check_counts,
    materialization_counts,
    metadata,
    run_status_counts,
    step_failure_message,
)
from support.dagster.webserver import ROOT, running_dagster, wait_for_webserver
from support.models.harness import ModelHarness
from support.models.oracle import assert_consistent
from support.models.store_snapshot import take_snapshot
from support.processes.commands import (
    background,
    interrupt,
    output,
    processes_under,
    run_command,
    wait_until,
)
from support.servers.http import free_port
from tidemill.core.report_markdown import render_markdown
from tidemill.cycle.steps.initial import initial

pytestmark = pytest.mark.faults

START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def window_keys(harness: ModelHarness, last: int) -> list[str]:
    """The keys of the windows 0 to `last`."""
    return [harness.window(number).key for number in range(last + 1)]


def backfill_by_cli(harness: ModelHarness, windows: list[str]) -> ModelHarness:
    """The harness, after its windows were processed by the command line."""
    args = ("backfill", harness.model, "--from", windows[0], "--to", windows[-1], "--json")
    result = run_command(harness.env, "tidemill", *args)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["windows"].keys() == set(windows)
    return harness


def assert_recorded_once(harness: ModelHarness, windows: list[str]) -> None:
    """One materialization and one result of each check per asset and window, with the report."""
    assert materialization_counts(harness) == {
        (asset, key): 1 for asset in ASSETS for key in windows
    }
    counts = check_counts(harness)
    assert counts == {(asset, check, key): 1 for check, asset in CHECKS.items() for key in windows}
    with harness.open_model() as ctx:
        for key in windows:
            batch, report = ctx.repository.manifest(key), ctx.repository.report(key)
            assert batch is not None
            assert report is not None
            shown_metadata = metadata(harness, "kafka_batch", key)
            assert shown_metadata["rows"].value == batch.rows
            assert shown_metadata["rejected"].value == batch.rejected
            shown_metadata = metadata(harness, "evaluation_report", key)
            assert isinstance(shown_metadata["report"], dg.MarkdownMetadataValue)
            assert shown_metadata["report"].value == render_markdown(report)
            assert shown_metadata["verdict"].value == report.verdict
            shown_metadata = metadata(harness, "deployed_model", key)
            assert shown_metadata["digest"].value in {s.entry.digest for s in ctx.chain().entries}


def test_a_backfill_from_the_ui_writes_the_same_bytes_as_the_command_line(
    harness: ModelHarness,
) -> None:
    """The daemon launches it asset by asset, in several runs, half a minute apart."""
    harness.produce_windows(-3, 4)
    windows = window_keys(harness, 3)
    with running_dagster(harness.env) as ui:
        backfill_id = ui.backfill(harness.model, ["initial_model", *ASSETS], windows)
        backfill = ui.wait_for_backfill(backfill_id)
    assert backfill["status"] == "COMPLETED_SUCCESS", backfill
    assert len(backfill["runs"]) > 1  # it was split by asset
    assert {run["status"] for run in backfill["runs"]} == {"SUCCESS"}
    assert_recorded_once(harness, windows)
    twin = backfill_by_cli(harness.twin("twin"), windows)
    assert_recorded_once(twin, windows)
    assert take_snapshot(harness) == take_snapshot(twin)
    assert_consistent(harness)
    assert processes_under(harness.home) == []


def test_two_runs_of_one_model_from_the_ui_never_interleave(harness: ModelHarness) -> None:
    """Fault 6: they queue in the model's pool, or the later one fails at the model's lock."""
    harness.produce_windows(-3, 4)
    windows = window_keys(harness, 3)
    with harness.open_model() as ctx:
        initial(ctx)
    slow = harness.env | {"TIDEMILL_FAILPOINTS": "candidate.before:sleep=4:2"}
    with running_dagster(slow, daemon=False) as ui:
        span = {START: windows[0], END: windows[-1]}
        runs = [ui.launch(harness.model, ASSETS, span)["run"]["runId"] for _ in range(2)]
        statuses = [ui.wait_for_run(run) for run in runs]
    assert "SUCCESS" in statuses
    for run, status in zip(runs, statuses, strict=True):
        assert status == "SUCCESS" or "AlreadyRunning" in step_failure_message(harness, run)
    assert take_snapshot(harness) == take_snapshot(backfill_by_cli(harness.twin("twin"), windows))
    assert_consistent(harness)


def test_a_killed_run_worker_of_the_ui_blocks_no_later_run(harness: ModelHarness) -> None:
    """Fault 34: its slot in the model's pool is free for the next run, also without a daemon."""
    harness.produce_windows(-3, 4)
    windows = window_keys(harness, 3)
    with harness.open_model() as ctx:
        initial(ctx)
    killed = harness.env | {"TIDEMILL_FAILPOINTS": "report.before:kill:2"}
    with running_dagster(killed, daemon=False) as ui:
        launched = ui.launch(harness.model, ASSETS, {START: windows[0], END: windows[-1]})
        assert ui.wait_for_run(launched["run"]["runId"]) == "FAILURE"
    backfill_by_cli(harness, windows)
    assert set(materialization_counts(harness)) == {
        (asset, key) for asset in ASSETS for key in windows
    }
    assert take_snapshot(harness) == take_snapshot(backfill_by_cli(harness.twin("twin"), windows))


def test_a_hostile_or_unknown_window_from_the_ui_is_refused_and_writes_nothing(
    harness: ModelHarness,
) -> None:
    """Fault 35."""
    harness.produce_windows(-3, 1)
    unknown = ["../../etc/passwd", "2999-01-01T0000Z", "2025-12-31T2355Z"]
    with running_dagster(harness.env, daemon=False) as ui:
        for key in unknown:
            params = {"assetSelection": [{"path": [harness.model, "kafka_batch"]}]}
            response = ui.execute(
                "mutation($params: LaunchBackfillParams!) {"
                " launchPartitionBackfill(backfillParams: $params) { __typename } }",
                params=params | {"partitionNames": [key]},
            )
            assert response["launchPartitionBackfill"]["__typename"] != "LaunchBackfillSuccess"
        by_tags = [{START: key, END: key} for key in unknown[:2]]
        by_tags.append({"dagster/partition": unknown[1]})
        for tags in by_tags:
            launched = ui.launch(harness.model, ["kafka_batch"], tags)
            if launched["__typename"] == "LaunchRunSuccess":
                run = launched["run"]["runId"]
                assert ui.wait_for_run(run) == "FAILURE", tags
    assert not harness.settings.store.exists()
    assert "SUCCESS" not in run_status_counts(harness)
    assert materialization_counts(harness) == {}


@pytest.mark.parametrize("command", ["dagster dev", "tidemill ui"])
def test_the_ui_shows_every_asset_and_ctrl_c_leaves_nothing_behind(
    harness: ModelHarness, command: str
) -> None:
    """`dagster dev` finds `workspace.yaml` in its working directory.

    Its code server may stay alive until its heartbeat times out after 45 s; `tidemill ui` stops it.
    """
    port = free_port()
    env = harness.env | {"DAGSTER_HOME": str(harness.home / "dagster")}
    (harness.home / "dagster").mkdir()
    arguments = [*command.split(), "--port", str(port)]
    with background(env, *arguments, cwd=ROOT) as process:
        ui = wait_for_webserver(env, port, "output")
        names = {"initial_model", *ASSETS}
        own_assets = {f"{harness.model}/{name}" for name in names}
        assert ui.assets() == own_assets | {f"kafka/{harness.model}"}
        code = interrupt(process)
        assert code == (130 if command == "tidemill ui" else 0), output(env)
    wait_until(lambda: processes_under(harness.home) == [], 90 if command == "dagster dev" else 1)
