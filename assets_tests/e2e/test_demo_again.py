"""`tidemill demo` with the embedded broker and real flights: repeated, interrupted, damaged."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from e2e.browser import browser
from support.dagster.webserver import ROOT, running_dagster
from support.processes.commands import background, output, processes_under, run_command, wait_until
from tidemill.adapters.files import FileStore

pytestmark = pytest.mark.faults

Demo = dict[str, str]
PICTURE = ROOT / "platform" / "docs" / "lineage.png"


@pytest.fixture(scope="module")
def completed_demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The environment of a demo that has processed three days."""
    env = {"TIDEMILL_HOME": str(tmp_path_factory.mktemp("demo"))}
    result = run_command(env, "tidemill", "demo", "--until", "2013-02-03")
    assert result.returncode == 0, result.stdout + result.stderr
    return env


@pytest.fixture
def demo(completed_demo: Demo, tmp_path: Path) -> Demo:
    """A copy of that demo's folder, which one test may change."""
    home = tmp_path / "demo"
    shutil.copytree(completed_demo["TIDEMILL_HOME"], home)
    return {"TIDEMILL_HOME": str(home)}


def summary(demo: Demo) -> Any:
    return json.loads((Path(demo["TIDEMILL_HOME"]) / "demo" / "summary.json").read_bytes())


def store_files(demo: Demo) -> dict[str, bytes]:
    root = FileStore(Path(demo["TIDEMILL_HOME"]) / "store")
    return {name: root.get(name) or b"" for name in root.names("flights/")}


def test_the_summary_is_correct_and_no_process_is_left(completed_demo: Demo) -> None:
    result = summary(completed_demo)
    windows = result["summary"]
    days = windows["first"], windows["last"], windows["windows"]
    assert days == ("2013-02-01", "2013-02-03", 3)
    assert sum(windows["verdicts"].values()) == 3
    assert windows["rejected"] == 0
    assert windows["rows"] > 2000
    assert result["events_present"] == 0
    assert result["events_produced"] > windows["rows"]
    history = run_command(completed_demo, "tidemill", "history", "flights", "--json")
    entries = json.loads(history.stdout)
    assert len(entries) == windows["deployments"]
    assert entries[-1]["digest"] == windows["champion"]
    served = result["serving"]
    assert (served["failed"], served["errors"]) == (0, [])
    assert 1 <= served["swaps"] < len(entries)
    assert len(served["first_response_ms"]) == served["swaps"]
    spans = served["during_swaps"], served["between_swaps"]
    assert sum(span["requests"] for span in spans) == served["requests"] > 100
    assert all(0 < span["p50_ms"] <= span["p99_ms"] for span in spans)
    assert processes_under(Path(completed_demo["TIDEMILL_HOME"])) == []


def test_a_second_demo_produces_nothing_and_changes_nothing(demo: Demo) -> None:
    first, kept = summary(demo), store_files(demo)
    done = run_command(demo, "tidemill", "demo", "--until", "2013-02-03")
    assert done.returncode == 0, done.stderr
    second = summary(demo)
    assert second["events_produced"] == 0
    assert second["events_present"] == first["events_produced"]
    assert second["summary"] == first["summary"]
    assert (second["serving"]["failed"], second["serving"]["swaps"]) == (0, 0)
    assert second["serving"]["requests"] > 0
    assert "none: the model in service was already served" in done.stdout
    assert store_files(demo) == kept
    assert processes_under(Path(demo["TIDEMILL_HOME"])) == []


def test_ctrl_c_stops_the_broker_too_and_the_next_demo_continues(demo: Demo) -> None:
    home = Path(demo["TIDEMILL_HOME"])
    halted = demo | {"TIDEMILL_FAILPOINTS": "manifest.before:stop"}
    with background(halted, "tidemill", "demo", "--until", "2013-02-04") as process:
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        for part in ("kafka.Kafka", "serve --host", "tidemill.demo.load_client"):
            assert any(part in command for command in processes_under(home)), part
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGCONT)
        assert process.wait(60) == 130, output(demo)
    assert "Traceback" not in output(demo)
    assert processes_under(home) == []
    done = run_command(demo, "tidemill", "demo", "--until", "2013-02-04")
    assert done.returncode == 0, done.stderr
    assert summary(demo)["summary"]["windows"] == 4
    assert run_command(demo, "tidemill", "verify", "flights").returncode == 0


def test_a_server_that_dies_fails_the_demo_and_leaves_nothing_behind(demo: Demo) -> None:
    home = Path(demo["TIDEMILL_HOME"])
    halted = demo | {"TIDEMILL_FAILPOINTS": "manifest.before:stop"}
    with background(halted, "tidemill", "demo", "--until", "2013-02-04") as process:
        command = psutil.Process(process.pid)
        wait_until(lambda: command.status() == psutil.STATUS_STOPPED)
        [server] = [child for child in command.children() if "serve" in child.cmdline()]
        server.kill()
        os.killpg(process.pid, signal.SIGCONT)
        assert process.wait(120) == 1, output(demo)
    assert "RequestsFailed" in output(demo)
    assert summary(demo)["serving"]["failed"] > 0
    assert "Traceback" not in output(demo)
    assert processes_under(home) == []


def test_a_damaged_plan_is_named_and_the_demo_exits_with_1(demo: Demo) -> None:
    home = Path(demo["TIDEMILL_HOME"])
    plan = home / "store" / "flights" / "plans" / "2013-02-02.json"
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    kept = store_files(demo)
    done = run_command(demo, "tidemill", "demo", "--until", "2013-02-03")
    assert done.returncode == 1
    assert "plans/2013-02-02.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert store_files(demo) == kept
    assert processes_under(home) == []


def test_the_lineage_page_shows_all_assets_and_a_window_its_verdict(
    demo: Demo, tmp_path: Path
) -> None:
    """Dagster's real UI in a real browser. `KEEP_PICTURE=1` updates the picture of the README."""
    names = ("initial_model", "kafka_batch", "candidate_model", "evaluation_report")
    with running_dagster(demo, daemon=False) as ui, browser(2000, 760) as page:
        page.open(
            f"{ui.address}/locations/tidemill/asset-groups/flights/lineage",
            *names, "deployed_model", "flights", "Passed", "filled",
        )  # fmt: skip
        time.sleep(1)  # the graph is animated
        picture = tmp_path / "lineage.png"
        picture.write_bytes(page.screenshot())
        if os.environ.get("KEEP_PICTURE"):
            PICTURE.write_bytes(picture.read_bytes())
        assert picture.stat().st_size > 20_000
        window = f"{ui.address}/assets/flights/evaluation_report?partition=2013-02-02"
        page.open(window, "verdict", "champion", "losses", "mlflow")
        page.open(f"{ui.address}/assets/kafka/flights", "watermarks", "last_stable_offset")
    assert PICTURE.stat().st_size < 300_000
