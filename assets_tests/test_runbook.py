"""The runbook says what each error means, and its commands do what it says of them."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from model_harness import ModelHarness
from postgres_server import running_postgres, world_accessible_folder
from processes import clean_env
from required_tools import require_tools
from s3_server import S3Server
from store_snapshot import define_two_windows, take_snapshot
from tidemill.core import errors
from tidemill.local.postgres import DATABASES
from worker_processes import run_all

_RUNBOOK = (Path(__file__).parents[1] / "deploy" / "RUNBOOK.md").read_text()


def runbook_commands() -> list[str]:
    """The commands of the section on backups, in order."""
    section = _RUNBOOK.partition("## Backup and restore")[2].partition("## Errors by name")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def run_script(script: str, harness: ModelHarness, backup: Path) -> str:
    """Run commands of the runbook with the bench's settings, each to succeed; their output."""
    env = clean_env(harness.env | {"BACKUP": str(backup), "MODEL": harness.model})
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=harness.home,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def delete_ledger_topic(harness: ModelHarness) -> None:
    admin = AdminClient({"bootstrap.servers": harness.bootstrap_servers})
    admin.delete_topics([harness.ledger])[harness.ledger].result(30)


def test_every_error_is_told_once_and_no_other() -> None:
    table = Counter(re.findall(r"^\| `(\w+)` \| \S.* \| \S.* \|$", _RUNBOOK, re.MULTILINE))
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.TidemillError)
    }
    assert table == Counter(kinds - {"TidemillError"})


@pytest.mark.faults
def test_a_store_in_a_folder_and_the_ledger_come_back_by_the_commands_of_the_runbook(
    harness: ModelHarness, tmp_path: Path
) -> None:
    define_two_windows(harness)
    with harness.open_model() as mill:
        run_all(mill, 1)
    before, backup = take_snapshot(harness), tmp_path / "backup"
    save, restore, *_ = runbook_commands()
    run_script(save, harness, backup)
    shutil.rmtree(harness.settings.store)
    delete_ledger_topic(harness)
    said = run_script(restore, harness, backup)
    assert f"{harness.model}: 3 entries brought back, 3 stand" in said
    assert "2 windows made again" in said
    assert take_snapshot(harness) == before


@pytest.mark.faults
def test_a_store_on_s3_and_the_ledger_come_back_by_the_commands_of_the_runbook(
    harness: ModelHarness, s3: S3Server, tmp_path: Path
) -> None:
    require_tools("aws")
    define_two_windows(harness)
    s3.move_store(harness)
    with harness.open_model() as mill:
        run_all(mill, 1)
    before, backup = take_snapshot(harness), tmp_path / "backup"
    _, _, save, restore, *_ = runbook_commands()
    run_script(save, harness, backup)
    assert harness.s3 is not None
    shutil.rmtree(s3.folder / harness.s3.bucket)
    delete_ledger_topic(harness)
    s3.move_store(harness)
    said = run_script(restore, harness, backup)
    assert f"{harness.model}: 3 entries brought back, 3 stand" in said
    assert "2 windows made again" in said
    assert take_snapshot(harness) == before


@pytest.mark.faults
def test_the_databases_come_back_by_the_commands_of_the_runbook(tmp_path: Path) -> None:
    """Over what was written since, and into a PostgreSQL that is new."""
    *_, save, restore = runbook_commands()
    with world_accessible_folder() as home:
        bench = ModelHarness("127.0.0.1:1", home, "unused")
        with running_postgres(home / "postgres") as server:
            for name in DATABASES:
                server.query(name, f"create table kept as select '{name}' as told")
            run_script(save, bench, tmp_path / "backup")
            for name in DATABASES:
                server.query(name, "update kept set told = 'spoiled'")
            run_script(restore, bench, tmp_path / "backup")
            assert [server.query(name, "table kept") for name in DATABASES] == [
                [(n,)] for n in DATABASES
            ]
        shutil.rmtree(server.postgres.data)
        run_script(restore, bench, tmp_path / "backup")
        server.start()
        assert [server.query(name, "table kept") for name in DATABASES] == [
            [(n,)] for n in DATABASES
        ]
        server.stop()
