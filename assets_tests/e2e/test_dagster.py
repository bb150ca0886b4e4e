"""Dagster's real webserver and daemon over real Kafka: what comes of a backfill from the UI."""

import json

import dagster as dg
import pytest

from dagster_event_log import (
    ASSETS,
    CHECKS,
    check_counts,
    materialization_counts,
    metadata,
    run_status_counts,
    step_failure_message,
)
from dagster_webserver import ROOT, free_port, running_dagster, wait_for_webserver
from model_harness import ModelHarness
from oracle import assert_consistent
from processes import background, interrupt, output, run_command, wait_until
from processes import processes_under as at_work
from store_snapshot import take_snapshot
from tidemill.core.report import render_markdown
from tidemill.cycle.initial import initial

pytestmark = pytest.mark.faults

START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def window_keys(harness: ModelHarness, last: int) -> list[str]:
    """The keys of the windows 0 to `last`."""
    return [harness.window(number).key for number in range(last + 1)]


def backfill_by_cli(harness: ModelHarness, windows: list[str]) -> ModelHarness:
    """The bench, its windows taken by the command line alone."""
    args = ("backfill", harness.model, "--from", windows[0], "--to", windows[-1], "--json")
    result = run_command(harness.env, "tidemill", *args)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["windows"].keys() == set(windows)
    return harness


def assert_recorded_once(harness: ModelHarness, windows: list[str]) -> None:
    """One materialization and one answer of each check by asset and window; the report is there."""
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


def test_a_backfill_from_the_ui_ends_in_the_same_bytes_as_the_command_lines(
    harness: ModelHarness,
) -> None:
    """The daemon sends it asset by asset, in several runs, half a minute apart."""
    harness.produce_windows(-3, 4)
    windows = window_keys(harness, 3)
    with running_dagster(harness.env) as ui:
        sent = ui.backfill(harness.model, ["initial_model", *ASSETS], windows)
        told = ui.wait_for_backfill(sent)
    assert told["status"] == "COMPLETED_SUCCESS", told
    assert len(told["runs"]) > 1  # it did arrive in columns
    assert {run["status"] for run in told["runs"]} == {"SUCCESS"}
    assert_recorded_once(harness, windows)
    twin = backfill_by_cli(harness.twin("twin"), windows)
    assert_recorded_once(twin, windows)
    assert take_snapshot(harness) == take_snapshot(twin)
    assert_consistent(harness)
    assert at_work(harness.home) == []


def test_two_runs_of_one_model_from_the_ui_never_interleave(harness: ModelHarness) -> None:
    """FAULTS 6: they queue in the model's pool, or the later fails early by the model's lock."""
    harness.produce_windows(-3, 4)
    windows = window_keys(harness, 3)
    with harness.open_model() as mill:
        initial(mill)
    slow = harness.env | {"TIDEMILL_FAILPOINTS": "candidate.before:sleep=4:2"}
    with running_dagster(slow, daemon=False) as ui:
        span = {START: windows[0], END: windows[-1]}
        sent = [ui.launch(harness.model, ASSETS, span)["run"]["runId"] for _ in range(2)]
        ended = [ui.wait_for_run(run) for run in sent]
    assert "SUCCESS" in ended
    for run, status in zip(sent, ended, strict=True):
        assert status == "SUCCESS" or "AlreadyRunning" in step_failure_message(harness, run)
    assert take_snapshot(harness) == take_snapshot(backfill_by_cli(harness.twin("twin"), windows))
    assert_consistent(harness)


def test_a_run_worker_of_the_ui_that_is_killed_holds_up_nobody(harness: ModelHarness) -> None:
    """FAULTS 34: its place in the model's pool is free for the next, without a daemon too."""
    harness.produce_windows(-3, 4)
    windows = window_keys(harness, 3)
    with harness.open_model() as mill:
        initial(mill)
    killed = harness.env | {"TIDEMILL_FAILPOINTS": "report.before:kill:2"}
    with running_dagster(killed, daemon=False) as ui:
        run = ui.launch(harness.model, ASSETS, {START: windows[0], END: windows[-1]})["run"][
            "runId"
        ]
        assert ui.wait_for_run(run) == "FAILURE"
    backfill_by_cli(harness, windows)
    assert set(materialization_counts(harness)) == {
        (asset, key) for asset in ASSETS for key in windows
    }
    assert take_snapshot(harness) == take_snapshot(backfill_by_cli(harness.twin("twin"), windows))


def test_a_hostile_or_unknown_window_from_the_ui_is_refused_and_writes_nothing(
    harness: ModelHarness,
) -> None:
    """FAULTS 35."""
    harness.produce_windows(-3, 1)
    unknown = ["../../etc/passwd", "2999-01-01T0000Z", "2025-12-31T2355Z"]
    with running_dagster(harness.env, daemon=False) as ui:
        for key in unknown:
            params = {"assetSelection": [{"path": [harness.model, "kafka_batch"]}]}
            told = ui.execute(
                "mutation($params: LaunchBackfillParams!) {"
                " launchPartitionBackfill(backfillParams: $params) { __typename } }",
                params=params | {"partitionNames": [key]},
            )
            assert told["launchPartitionBackfill"]["__typename"] != "LaunchBackfillSuccess"
        by_tags = [{START: key, END: key} for key in unknown[:2]]
        by_tags.append({"dagster/partition": unknown[1]})
        for tags in by_tags:
            told = ui.launch(harness.model, ["kafka_batch"], tags)
            if told["__typename"] == "LaunchRunSuccess":
                run = told["run"]["runId"]
                assert ui.wait_for_run(run) == "FAILURE", tags
    assert not harness.settings.store.exists()
    assert "SUCCESS" not in run_status_counts(harness)
    assert materialization_counts(harness) == {}


@pytest.mark.parametrize("through", ["dagster dev", "tidemill ui"])
def test_the_ui_shows_every_asset_and_ctrl_c_leaves_nothing_behind(
    harness: ModelHarness, through: str
) -> None:
    """`dagster dev` finds `workspace.yaml` in the folder it is called from.

    Its code server may live on until its heartbeat stays away, which takes 45 s; `tidemill ui`
    waits for nothing.
    """
    port = free_port()
    environment = harness.env | {"DAGSTER_HOME": str(harness.home / "dagster")}
    (harness.home / "dagster").mkdir()
    words = [*through.split(), "--port", str(port)]
    with background(environment, *words, cwd=ROOT) as process:
        ui = wait_for_webserver(environment, port, "said")
        names = {"initial_model", *ASSETS}
        ours = {f"{harness.model}/{name}" for name in names}
        assert ui.assets() == ours | {f"kafka/{harness.model}"}
        code = interrupt(process)
        assert code == (130 if through == "tidemill ui" else 0), output(environment)
    wait_until(lambda: at_work(harness.home) == [], 90 if through == "dagster dev" else 1)
