"""The runbook says what each error means, and its commands do what it says of them."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from bench import Bench
from children import journey
from commands import environ
from kept import define_two_windows, kept
from postgres_hands import postgres_at, reachable
from s3_hands import S3
from tidemill.adapters.postgres import DATABASES
from tidemill.core import errors
from tools import needs

_RUNBOOK = (Path(__file__).parents[1] / "deploy" / "RUNBOOK.md").read_text()


def commands() -> list[str]:
    """The commands of the section on backups, in order."""
    section = _RUNBOOK.partition("## Backup and restore")[2].partition("## Errors by name")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def performed(script: str, bench: Bench, backup: Path) -> str:
    """Run commands of the runbook with the bench's settings, each to succeed; their output."""
    told = environ(bench.environment | {"BACKUP": str(backup), "MODEL": bench.model})
    told["PATH"] = f"{Path(sys.executable).parent}:{told['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=bench.home,
        env=told,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lose_the_ledger(bench: Bench) -> None:
    admin = AdminClient({"bootstrap.servers": bench.servers})
    admin.delete_topics([bench.ledger])[bench.ledger].result(30)


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
    bench: Bench, tmp_path: Path
) -> None:
    define_two_windows(bench)
    with bench.mill() as mill:
        journey(mill, 1)
    before, backup = kept(bench), tmp_path / "backup"
    save, restore, *_ = commands()
    performed(save, bench, backup)
    shutil.rmtree(bench.settings.store)
    lose_the_ledger(bench)
    said = performed(restore, bench, backup)
    assert f"{bench.model}: 3 entries brought back, 3 stand" in said
    assert "2 windows made again" in said
    assert kept(bench) == before


@pytest.mark.faults
def test_a_store_on_s3_and_the_ledger_come_back_by_the_commands_of_the_runbook(
    bench: Bench, s3: S3, tmp_path: Path
) -> None:
    needs("aws")
    define_two_windows(bench)
    s3.put_under(bench)
    with bench.mill() as mill:
        journey(mill, 1)
    before, backup = kept(bench), tmp_path / "backup"
    _, _, save, restore, *_ = commands()
    performed(save, bench, backup)
    assert bench.s3 is not None
    shutil.rmtree(s3.folder / bench.s3.bucket)
    lose_the_ledger(bench)
    s3.put_under(bench)
    said = performed(restore, bench, backup)
    assert f"{bench.model}: 3 entries brought back, 3 stand" in said
    assert "2 windows made again" in said
    assert kept(bench) == before


@pytest.mark.faults
def test_the_databases_come_back_by_the_commands_of_the_runbook(tmp_path: Path) -> None:
    """Over what was written since, and into a PostgreSQL that is new."""
    *_, save, restore = commands()
    with reachable() as home:
        bench = Bench("127.0.0.1:1", home, "unused")
        with postgres_at(home / "postgres") as server:
            for name in DATABASES:
                server.asked(name, f"create table kept as select '{name}' as told")
            performed(save, bench, tmp_path / "backup")
            for name in DATABASES:
                server.asked(name, "update kept set told = 'spoiled'")
            performed(restore, bench, tmp_path / "backup")
            assert [server.asked(name, "table kept") for name in DATABASES] == [[(n,)] for n in DATABASES]
        shutil.rmtree(server.own.data)
        performed(restore, bench, tmp_path / "backup")
        server.begin()
        assert [server.asked(name, "table kept") for name in DATABASES] == [[(n,)] for n in DATABASES]
        server.end()
