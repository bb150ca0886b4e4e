"""The PostgreSQL of `tidemill up --postgres`: its access control and its prerequisites."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from support.servers.postgres import (
    PostgresServer,
    require_postgres,
    running_postgres,
    world_accessible_folder,
)
from tidemill import bootstrap
from tidemill.cli.postgres import postgres
from tidemill.core.errors import OperationNotAllowed, PrerequisiteMissing, SpecInvalid
from tidemill.local.postgres import DATABASES, Postgres, server
from tidemill.services.dagster_home import ensure_dagster_home
from tidemill.settings import Settings


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    with (
        world_accessible_folder() as folder,
        running_postgres(folder / "a home" / "postgres") as running,
    ):
        yield running


def test_each_database_admits_only_its_own_user_with_a_password(
    postgres_server: PostgresServer,
) -> None:
    for name in DATABASES:
        assert postgres_server.query(name, "select current_user") == [(name,)]
        for other in {*DATABASES, "postgres", "template1"} - {name}:
            with pytest.raises(OperationalError, match="permission denied for database"):
                postgres_server.query(name, "select 1", other)
    lines = postgres_server.postgres.password_file.read_text()
    assert postgres_server.postgres.password_file.stat().st_mode & 0o777 == 0o600
    try:
        postgres_server.postgres.password_file.write_text("")
        with pytest.raises(OperationalError, match="no password supplied"):
            postgres_server.query("dagster", "select 1")
    finally:
        postgres_server.postgres.password_file.write_text(lines)


def test_a_missing_installation_is_reported_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    monkeypatch.setattr(server, "_bin_folders", lambda: iter(()))
    with pytest.raises(PrerequisiteMissing, match=r"PostgreSQL is not installed.* `make tools`"):
        server.server_command(data, 5432)
    data.mkdir()
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(
        PrerequisiteMissing, match=r"PostgreSQL 9, which created .*/data, is not inst"
    ):
        server.server_command(data, 5432)


def test_root_needs_the_user_of_debians_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_user(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", no_user)
    with pytest.raises(PrerequisiteMissing, match="does not run as root"):
        server.run_as_user()


def test_a_folder_that_this_user_cannot_access_is_reported(tmp_path: Path) -> None:
    require_postgres()
    if os.geteuid() != 0:
        pytest.skip("not run: only root uses another user; run `make test` as root")
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    with pytest.raises(PrerequisiteMissing, match=f"postgres, which cannot access {closed}/home"):
        Postgres(closed / "home").initialize(1)
    assert not (closed / "home" / "data").exists()


def test_dagsters_configuration_names_its_storage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    own = bootstrap.local_postgres(settings)
    own.folder.mkdir()

    def config() -> str:
        return (ensure_dagster_home(settings) / "dagster.yaml").read_text()

    monkeypatch.delenv("DAGSTER_POSTGRES_URL", raising=False)
    plain = config()
    assert "storage:" not in plain
    for port in (5432, 5433):
        own.enable(port)
        assert config() == config()
        assert config().startswith(plain)
        assert f'postgres_url: "{own.url("dagster")}"' in config()
        assert f":{port}/dagster?passfile=" in config()
    own.disable()
    assert config() == plain
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql+psycopg2://elsewhere/dagster")
    assert config().endswith("postgres_url:\n      env: DAGSTER_POSTGRES_URL\n")
    monkeypatch.delenv("DAGSTER_POSTGRES_URL")
    assert config() == plain
    (tmp_path / "dagster" / "dagster.yaml").write_text(f"{plain}storage:\n  sqlite: {{}}\n")
    own.enable(5432)
    with pytest.raises(SpecInvalid, match="has a storage section"):
        config()


def test_its_programs_are_refused_if_it_is_not_enabled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    with pytest.raises(OperationNotAllowed, match="Run `tidemill up --postgres`"):
        postgres(["psql"])
