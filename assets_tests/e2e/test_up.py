"""`tidemill up` and `down`: the whole platform with real services on the loopback interface."""

import os
import signal
import socket
from collections.abc import Iterator

import psutil
import pytest
from selenium.webdriver.common.by import By

from e2e.browser import Browser, browser
from support.processes.commands import processes_under, run_command, wait_until
from support.servers.platform import DAGS, MODEL, Platform
from support.servers.postgres import require_postgres, world_accessible_folder

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """The platform after its first start; it is stopped at the end in any case."""
    with world_accessible_folder() as home:
        new_platform = Platform(home)
        try:
            new_platform.up()
            yield new_platform
        finally:
            run_command(new_platform.env, "tidemill", "down")


def test_airflow_runs_bring_a_new_model_into_service(platform: Platform) -> None:
    # On a busy machine a health check may time out once.
    wait_until(lambda: {row["state"] for row in platform.services().values()} == {"ready"}, 120)
    wait_until(lambda: platform.call_airflow("dags")["total_entries"] == len(DAGS))
    for dag in DAGS:
        assert not platform.call_airflow(f"dags/{dag}", "PATCH", is_paused=False)["is_paused"]
    digest = platform.wait_for_version(1)
    entry = next(entry for entry in platform.history() if entry["digest"] == digest)
    assert entry["kind"] == "deploy"
    assert entry["seq"] >= 1
    _, events, update = (platform.call_airflow(f"dags/{dag}/dagRuns")["dag_runs"] for dag in DAGS)
    assert events[0]["partition_key"] == first_window(platform)
    assert {run["state"] for run in (*events, *update)} <= {"success", "running", "queued"}
    assert listens_only_on_loopback(platform)


def first_window(platform: Platform) -> str:
    """The key of the live model's first window."""
    output = platform.run_cli("validate", MODEL)
    return output.rstrip().removesuffix(".").split()[-1]


def listens_only_on_loopback(platform: Platform) -> bool:
    """Whether all listening sockets of the platform are on the loopback interface."""
    session = os.getsid(platform.services()["serving"]["pid"])
    for connection in psutil.net_connections("inet"):
        if (
            connection.status == psutil.CONN_LISTEN
            and connection.pid
            and os.getsid(connection.pid) == session
        ):
            assert connection.laddr.ip == "127.0.0.1", connection
    return True


def test_the_link_in_airflow_opens_the_run_in_dagster(platform: Platform) -> None:
    dag = DAGS[2]
    done = [
        run for run in platform.call_airflow(f"dags/{dag}/dagRuns")["dag_runs"]
        if run["state"] == "success"
    ]  # fmt: skip
    task_instance = f"dags/{dag}/dagRuns/{done[0]['dag_run_id']}/taskInstances/update"
    run = platform.call_airflow(f"{task_instance}/xcomEntries/return_value")["value"]
    airflow = platform.address("UP__AIRFLOW_PORT")
    with browser() as page:
        log_in(page, airflow, platform.password)
        task = f"{airflow}/dags/{dag}/runs/{done[0]['dag_run_id']}/tasks/update"
        page.open(f"{task}/details", "Dagster run")
        xpath = f"//a[contains(@href, '/runs/{run}') and contains(., 'Dagster run')]"
        wait_until(lambda: page.driver.find_elements(By.XPATH, xpath), 60, on_timeout=page.text)
        link = page.driver.find_element(By.XPATH, xpath).get_attribute("href")
        page.open(link, run[:8], "Success")


def log_in(page: Browser, airflow: str, password: str) -> None:
    page.open(f"{airflow}/auth/login", "Sign in")
    for name, text in (("username", "admin"), ("password", password)):
        page.driver.find_element(By.NAME, name).send_keys(text)
    page.driver.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    wait_until(lambda: "/auth/login" not in page.driver.current_url, 60)


def test_a_killed_service_is_restarted_and_the_table_shows_it(platform: Platform) -> None:
    before = platform.services()["serving"]
    os.kill(before["pid"], signal.SIGKILL)
    wait_until(lambda: platform.services()["serving"]["restarts"] == 1, 60)
    wait_until(lambda: platform.services()["serving"]["state"] == "ready", 60)
    after = platform.services()["serving"]
    assert after["pid"] != before["pid"]
    assert after["last_exit"] == "SIGKILL"
    assert platform.served_model() is not None


def test_down_leaves_nothing_after_supervisord_was_killed(platform: Platform) -> None:
    supervisord = psutil.Process(platform.services()["serving"]["pid"]).parent()
    assert supervisord is not None
    supervisord.kill()
    platform.run_cli("down")
    assert_nothing_is_left(platform)


def assert_nothing_is_left(platform: Platform) -> None:
    """No process, no UNIX socket, no listening port."""
    assert processes_under(platform.home) == []
    assert [file for file in platform.home.rglob("*") if file.is_socket()] == []
    for port in platform.ports.values():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


def test_without_airflow_and_on_postgresql_the_sensor_continues_the_model(
    platform: Platform,
) -> None:
    require_postgres()
    sqlite = {file: file.stat().st_mtime_ns for file in platform.home.rglob("*.db")}
    before = platform.history()[-1]["seq"]
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", platform.ports["UP__DAGSTER_PORT"]))
        other.listen()
        done = run_command(platform.env, "tidemill", "up", "--no-airflow", "--postgres")
    assert done.returncode == 1
    assert (
        f"Port {platform.ports['UP__DAGSTER_PORT']} of dagster-webserver is in use" in done.stderr
    )
    assert "TIDEMILL_UP__DAGSTER_PORT" in done.stderr
    platform.up("--no-airflow", "--postgres")
    assert "stored their metadata in SQLite and now store it in PostgreSQL" in platform.up_output
    assert "airflow-api-server" not in platform.services()
    refused = run_command(platform.env, "tidemill", "up", "--no-airflow")
    assert "one kind of database" in refused.stderr.replace("\n", " ")
    platform.wait_for_version(before + 1)
    assert row_count(platform, "dagster", "event_logs") > 0
    wait_until(lambda: row_count(platform, "mlflow", "runs"), 60)
    os.kill(platform.services()["postgres"]["pid"], signal.SIGKILL)
    assert platform.served_model() is not None  # fault 31
    wait_until(lambda: platform.services()["postgres"]["restarts"], 60)
    wait_until(lambda: platform.services()["postgres"]["state"] == "ready", 60)
    os.kill(int((platform.home / "up" / "supervisor.pid").read_text()), signal.SIGKILL)
    platform.run_cli("down")
    assert_nothing_is_left(platform)
    assert row_count(platform, "dagster", "runs where status = 'STARTED'") == 0
    assert {file: file.stat().st_mtime_ns for file in platform.home.rglob("*.db")} == sqlite
    assert_nothing_is_left(platform)


def row_count(platform: Platform, name: str, table: str) -> int:
    """The number of rows of a table in this database, whether the platform is up or not."""
    command = ("psql", "-U", name, "-tAc", f"select count(*) from {table}", name)
    return int(platform.run_cli("postgres", "--", *command))
