"""Dagster's real webserver and daemon over real Kafka: what comes of a backfill from the UI."""

import json

import dagster as dg
import pytest

from bench import Bench
from commands import at_work_in as at_work
from commands import begun, command, interrupted, said, until
from dagster_ui import ROOT, answering, free_port, served
from event_log import ASSETS, CHECKS, checked, last_words, materialized, metadata, runs
from kept import kept
from oracle import check
from tidemill.core.report import render_markdown
from tidemill.cycle.initial import initial

pytestmark = pytest.mark.faults

START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def keys(bench: Bench, last: int) -> list[str]:
    """The keys of the windows 0 to `last`."""
    return [bench.window(number).key for number in range(last + 1)]


def taken(bench: Bench, windows: list[str]) -> Bench:
    """The bench, its windows taken by the command line alone."""
    words = ("backfill", bench.model, "--from", windows[0], "--to", windows[-1], "--json")
    done = command(bench.environment, "tidemill", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["windows"].keys() == set(windows)
    return bench


def assert_told_once(bench: Bench, windows: list[str]) -> None:
    """One materialization and one answer of each check by asset and window; the report is there."""
    assert materialized(bench) == {(asset, key): 1 for asset in ASSETS for key in windows}
    told = checked(bench)
    assert told == {(asset, check, key): 1 for check, asset in CHECKS.items() for key in windows}
    with bench.mill() as mill:
        for key in windows:
            batch, report = mill.repository.manifest(key), mill.repository.report(key)
            assert batch is not None
            assert report is not None
            shown = metadata(bench, "kafka_batch", key)
            assert shown["rows"].value == batch.rows
            assert shown["rejected"].value == batch.rejected
            shown = metadata(bench, "evaluation_report", key)
            assert isinstance(shown["report"], dg.MarkdownMetadataValue)
            assert shown["report"].value == render_markdown(report)
            assert shown["verdict"].value == report.verdict
            shown = metadata(bench, "deployed_model", key)
            assert shown["digest"].value in {s.entry.digest for s in mill.chain().entries}


def test_a_backfill_from_the_ui_ends_in_the_same_bytes_as_the_command_lines(bench: Bench) -> None:
    """The daemon sends it asset by asset, in several runs, half a minute apart."""
    bench.feed(-3, 4)
    windows = keys(bench, 3)
    with served(bench.environment) as ui:
        sent = ui.backfill(bench.model, ["initial_model", *ASSETS], windows)
        told = ui.backfilled(sent)
    assert told["status"] == "COMPLETED_SUCCESS", told
    assert len(told["runs"]) > 1  # it did arrive in columns
    assert {run["status"] for run in told["runs"]} == {"SUCCESS"}
    assert_told_once(bench, windows)
    twin = taken(bench.twin("twin"), windows)
    assert_told_once(twin, windows)
    assert kept(bench) == kept(twin)
    check(bench)
    assert at_work(bench.home) == []


def test_two_runs_of_one_model_from_the_ui_never_interleave(bench: Bench) -> None:
    """FAULTS 6: they queue in the model's pool, or the later fails early by the model's lock."""
    bench.feed(-3, 4)
    windows = keys(bench, 3)
    with bench.mill() as mill:
        initial(mill)
    slow = bench.environment | {"TIDEMILL_FAILPOINTS": "candidate.before:sleep=4:2"}
    with served(slow, daemon=False) as ui:
        span = {START: windows[0], END: windows[-1]}
        sent = [ui.launch(bench.model, ASSETS, span)["run"]["runId"] for _ in range(2)]
        ended = [ui.ended(run) for run in sent]
    assert "SUCCESS" in ended
    for run, status in zip(sent, ended, strict=True):
        assert status == "SUCCESS" or "AlreadyRunning" in last_words(bench, run)
    assert kept(bench) == kept(taken(bench.twin("twin"), windows))
    check(bench)


def test_a_run_worker_of_the_ui_that_is_killed_holds_up_nobody(bench: Bench) -> None:
    """FAULTS 34: its place in the model's pool is free for the next, without a daemon too."""
    bench.feed(-3, 4)
    windows = keys(bench, 3)
    with bench.mill() as mill:
        initial(mill)
    killed = bench.environment | {"TIDEMILL_FAILPOINTS": "report.before:kill:2"}
    with served(killed, daemon=False) as ui:
        run = ui.launch(bench.model, ASSETS, {START: windows[0], END: windows[-1]})["run"]["runId"]
        assert ui.ended(run) == "FAILURE"
    taken(bench, windows)
    assert set(materialized(bench)) == {(asset, key) for asset in ASSETS for key in windows}
    assert kept(bench) == kept(taken(bench.twin("twin"), windows))


def test_a_hostile_or_unknown_window_from_the_ui_is_refused_and_writes_nothing(
    bench: Bench,
) -> None:
    """FAULTS 35."""
    bench.feed(-3, 1)
    unknown = ["../../etc/passwd", "2999-01-01T0000Z", "2025-12-31T2355Z"]
    with served(bench.environment, daemon=False) as ui:
        for key in unknown:
            params = {"assetSelection": [{"path": [bench.model, "kafka_batch"]}]}
            told = ui.ask(
                "mutation($params: LaunchBackfillParams!) {"
                " launchPartitionBackfill(backfillParams: $params) { __typename } }",
                params=params | {"partitionNames": [key]},
            )
            assert told["launchPartitionBackfill"]["__typename"] != "LaunchBackfillSuccess"
        by_tags = [{START: key, END: key} for key in unknown[:2]]
        by_tags.append({"dagster/partition": unknown[1]})
        for tags in by_tags:
            told = ui.launch(bench.model, ["kafka_batch"], tags)
            if told["__typename"] == "LaunchRunSuccess":
                run = told["run"]["runId"]
                assert ui.ended(run) == "FAILURE", tags
    assert not bench.settings.store.exists()
    assert "SUCCESS" not in runs(bench)
    assert materialized(bench) == {}


@pytest.mark.parametrize("through", ["dagster dev", "tidemill ui"])
def test_the_ui_shows_every_asset_and_ctrl_c_leaves_nothing_behind(
    bench: Bench, through: str
) -> None:
    """`dagster dev` finds `workspace.yaml` in the folder it is called from.

    Its code server may live on until its heartbeat stays away, which takes 45 s; `tidemill ui`
    waits for nothing.
    """
    port = free_port()
    environment = bench.environment | {"DAGSTER_HOME": str(bench.home / "dagster")}
    (bench.home / "dagster").mkdir()
    words = [*through.split(), "--port", str(port)]
    with begun(environment, *words, cwd=ROOT) as process:
        ui = answering(environment, port, "said")
        names = {"initial_model", *ASSETS}
        ours = {f"{bench.model}/{name}" for name in names}
        assert ui.assets() == ours | {f"kafka/{bench.model}"}
        code = interrupted(process)
        assert code == (130 if through == "tidemill ui" else 0), said(environment)
    until(lambda: at_work(bench.home) == [], 90 if through == "dagster dev" else 1)
