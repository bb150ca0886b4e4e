"""`tidemill up` and `down`: the whole platform, real and on the loopback."""

import os
import signal
import socket
from collections.abc import Iterator

import psutil
import pytest
from selenium.webdriver.common.by import By

from browser import Browser, browser
from commands import at_work_in, command, until
from postgres_hands import needs_postgres, reachable
from up_hands import DAGS, MODEL, Platform

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """The platform, up for the first time; down at the end, whatever became of it."""
    with reachable() as home:
        made = Platform(home)
        try:
            made.up()
            yield made
        finally:
            command(made.environment, "tidemill", "down")


def test_airflow_drives_a_new_model_into_service(platform: Platform) -> None:
    # A busy machine may let one be asked in vain once.
    until(lambda: {row["state"] for row in platform.services().values()} == {"ready"}, 120)
    until(lambda: platform.airflow("dags")["total_entries"] == len(DAGS))
    for dag in DAGS:
        assert not platform.airflow(f"dags/{dag}", "PATCH", is_paused=False)["is_paused"]
    digest = platform.serves(1)
    entry = next(each for each in platform.history() if each["digest"] == digest)
    assert entry["kind"] == "deploy"
    assert entry["seq"] >= 1
    _, stream, update = (platform.airflow(f"dags/{dag}/dagRuns")["dag_runs"] for dag in DAGS)
    assert stream[0]["partition_key"] == first_window(platform)
    assert {run["state"] for run in (*stream, *update)} <= {"success", "running", "queued"}
    assert nobody_listens_beyond_the_loopback(platform)


def first_window(platform: Platform) -> str:
    """The key of the live model's first window."""
    said = platform.call("check", MODEL)
    return said.rstrip().removesuffix(".").split()[-1]


def nobody_listens_beyond_the_loopback(platform: Platform) -> bool:
    """Whether each socket at which a process of the platform listens is of this machine alone."""
    session = os.getsid(platform.services()["serve"]["pid"])
    for held in psutil.net_connections("inet"):
        if held.status == psutil.CONN_LISTEN and held.pid and os.getsid(held.pid) == session:
            assert held.laddr.ip == "127.0.0.1", held
    return True


def test_the_link_in_airflow_opens_the_run_in_dagster(platform: Platform) -> None:
    dag = DAGS[2]
    done = [
        run for run in platform.airflow(f"dags/{dag}/dagRuns")["dag_runs"]
        if run["state"] == "success"
    ]  # fmt: skip
    where = f"dags/{dag}/dagRuns/{done[0]['dag_run_id']}/taskInstances/update"
    run = platform.airflow(f"{where}/xcomEntries/return_value")["value"]
    airflow = platform.address("UP__AIRFLOW_PORT")
    with browser() as page:
        log_in(page, airflow, platform.password)
        task = f"{airflow}/dags/{dag}/runs/{done[0]['dag_run_id']}/tasks/update"
        page.open(f"{task}/details", "Dagster run")
        found = f"//a[contains(@href, '/runs/{run}') and contains(., 'Dagster run')]"
        until(lambda: page.driver.find_elements(By.XPATH, found), 60, page.text)
        link = page.driver.find_element(By.XPATH, found).get_attribute("href")
        page.open(link, run[:8], "Success")


def log_in(page: Browser, airflow: str, password: str) -> None:
    page.open(f"{airflow}/auth/login", "Sign in")
    for name, text in (("username", "admin"), ("password", password)):
        page.driver.find_element(By.NAME, name).send_keys(text)
    page.driver.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    until(lambda: "/auth/login" not in page.driver.current_url, 60)


def test_a_service_that_is_killed_comes_back_and_the_table_says_so(platform: Platform) -> None:
    before = platform.services()["serve"]
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: platform.services()["serve"]["restarts"] == 1, 60)
    until(lambda: platform.services()["serve"]["state"] == "ready", 60)
    after = platform.services()["serve"]
    assert after["pid"] != before["pid"]
    assert after["last_end"] == "SIGKILL"
    assert platform.served() is not None


def test_after_a_kill_of_the_manager_down_leaves_nothing(platform: Platform) -> None:
    manager = psutil.Process(platform.services()["serve"]["pid"]).parent()
    assert manager is not None
    manager.kill()
    platform.call("down")
    assert_nothing_is_left(platform)


def assert_nothing_is_left(platform: Platform) -> None:
    """No process, no socket file, no port."""
    assert at_work_in(platform.home) == []
    assert [file for file in platform.home.rglob("*") if file.is_socket()] == []
    for port in platform.ports.values():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


def test_on_postgresql_without_airflow_the_sensor_and_a_producer_go_on_where_it_was(
    platform: Platform,
) -> None:
    needs_postgres()
    sqlite = {file: file.stat().st_mtime_ns for file in platform.home.rglob("*.db")}
    before = platform.history()[-1]["seq"]
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", platform.ports["UP__DAGSTER_PORT"]))
        other.listen()
        done = command(platform.environment, "tidemill", "up", "--no-airflow", "--postgres")
    assert done.returncode == 1
    assert f"Port {platform.ports['UP__DAGSTER_PORT']}, where dagster would" in done.stderr
    assert "TIDEMILL_UP__DAGSTER_PORT" in done.stderr
    platform.up("--no-airflow", "--postgres")
    assert "kept theirs in SQLite, and now do in PostgreSQL" in platform.said
    assert "airflow" not in platform.services()
    refused = command(platform.environment, "tidemill", "up", "--no-airflow")
    assert "one kind of database" in refused.stderr
    platform.serves(before + 1)
    assert rows(platform, "dagster", "event_logs") > 0
    until(lambda: rows(platform, "mlflow", "runs"), 60)
    os.kill(platform.services()["postgres"]["pid"], signal.SIGKILL)
    assert platform.served() is not None  # row 31
    until(lambda: platform.services()["postgres"]["restarts"], 60)
    until(lambda: platform.services()["postgres"]["state"] == "ready", 60)
    os.kill(int((platform.home / "up" / "manager.pid").read_text()), signal.SIGKILL)
    platform.call("down")
    assert_nothing_is_left(platform)
    assert rows(platform, "dagster", "runs where status = 'STARTED'") == 0
    assert {file: file.stat().st_mtime_ns for file in platform.home.rglob("*.db")} == sqlite
    assert_nothing_is_left(platform)


def rows(platform: Platform, name: str, table: str) -> int:
    """How many rows a table of this database has, whether the platform is up or not."""
    ask = ("psql", "-U", name, "-tAc", f"select count(*) from {table}", name)
    return int(platform.call("postgres", "--", *ask))
