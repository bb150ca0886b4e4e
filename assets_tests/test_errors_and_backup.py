"""The documentation lists every error, and its commands back up and restore everything."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from support.error_classes import leaf_errors
from support.kafka.ledgers import delete_ledger_topic
from support.models.harness import ModelHarness
from support.models.store_snapshot import define_two_windows, take_snapshot
from support.processes.commands import clean_env
from support.processes.required_tools import require_tools
from support.processes.workers import run_all
from support.servers.postgres import running_postgres, world_accessible_folder
from support.servers.s3 import S3Server
from tidemill.local.postgres import DATABASES

_DOCS = Path(__file__).parents[1] / "platform" / "docs"
_ERRORS = (_DOCS / "reference" / "errors.md").read_text()
_BACKUP = (_DOCS / "how-to" / "backup.md").read_text()


def backup_scripts() -> list[str]:
    """The commands of the page on backups, in order: backup and restore of each kind."""
    scripts = re.findall(r"```sh\n(.*?)```", _BACKUP, re.DOTALL)
    assert len(scripts) == 6
    return scripts


def run_script(script: str, harness: ModelHarness, backup: Path) -> str:
    """Run documented commands with the harness's settings, which must succeed; their output."""
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


def test_every_error_is_documented_once_and_no_other() -> None:
    table = Counter(re.findall(r"^\| `(\w+)` \| \S.* \| \S.* \|$", _ERRORS, re.MULTILINE))
    assert table == Counter(leaf_errors().keys())


@pytest.mark.faults
def test_the_documented_commands_restore_a_store_in_a_folder_and_the_ledger(
    harness: ModelHarness, tmp_path: Path
) -> None:
    define_two_windows(harness)
    with harness.open_model() as ctx:
        run_all(ctx, 1)
    before, backup = take_snapshot(harness), tmp_path / "backup"
    save, restore, *_ = backup_scripts()
    run_script(save, harness, backup)
    shutil.rmtree(harness.settings.store)
    delete_ledger_topic(harness)
    text = run_script(restore, harness, backup)
    assert f"{harness.model}: 3 entries restored, 3 valid" in text
    assert "2 windows rebuilt" in text
    assert take_snapshot(harness) == before


@pytest.mark.faults
def test_the_documented_commands_restore_a_store_on_s3_and_the_ledger(
    harness: ModelHarness, s3: S3Server, tmp_path: Path
) -> None:
    require_tools("aws")
    define_two_windows(harness)
    s3.move_store(harness)
    with harness.open_model() as ctx:
        run_all(ctx, 1)
    before, backup = take_snapshot(harness), tmp_path / "backup"
    _, _, save, restore, *_ = backup_scripts()
    run_script(save, harness, backup)
    assert harness.s3 is not None
    shutil.rmtree(s3.folder / harness.s3.bucket)
    delete_ledger_topic(harness)
    s3.move_store(harness)
    text = run_script(restore, harness, backup)
    assert f"{harness.model}: 3 entries restored, 3 valid" in text
    assert "2 windows rebuilt" in text
    assert take_snapshot(harness) == before


@pytest.mark.faults
def test_the_documented_commands_restore_the_databases(tmp_path: Path) -> None:
    """The dumps are restored over later changes, and into a new PostgreSQL."""
    *_, save, restore = backup_scripts()
    with world_accessible_folder() as home:
        unused = ModelHarness("127.0.0.1:1", home, "unused")
        with running_postgres(home / "postgres") as server:
            for name in DATABASES:
                server.query(name, f"create table kept as select '{name}' as value")
            run_script(save, unused, tmp_path / "backup")
            for name in DATABASES:
                server.query(name, "update kept set value = 'changed'")
            run_script(restore, unused, tmp_path / "backup")
            assert [server.query(name, "table kept") for name in DATABASES] == [
                [(n,)] for n in DATABASES
            ]
        shutil.rmtree(server.postgres.data)
        run_script(restore, unused, tmp_path / "backup")
        server.start()
        assert [server.query(name, "table kept") for name in DATABASES] == [
            [(n,)] for n in DATABASES
        ]
        server.stop()
