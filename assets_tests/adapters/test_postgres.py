"""The PostgreSQL of `tidemill up --postgres`: whom it lets in, and what it needs of a machine."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from postgres_server import (
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


def test_each_database_lets_in_its_own_user_by_its_password_alone(
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


def test_what_is_not_installed_is_named_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    monkeypatch.setattr(server, "_folders", lambda: iter(()))
    with pytest.raises(PrerequisiteMissing, match=r"PostgreSQL is not on this .* `make tools`"):
        server.server_command(data, 5432)
    data.mkdir()
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(PrerequisiteMissing, match=r"PostgreSQL 9, which made .*/data, is not on"):
        server.server_command(data, 5432)


def test_root_needs_the_user_of_debians_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", nobody)
    with pytest.raises(PrerequisiteMissing, match="does not run as root"):
        server.run_as_user()


def test_a_folder_where_that_user_may_not_go_is_named(tmp_path: Path) -> None:
    require_postgres()
    if os.geteuid() != 0:
        pytest.skip("not run: only for root is it another user; run `make test` as root")
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    with pytest.raises(PrerequisiteMissing, match=f"postgres, who may not go to {closed}/home"):
        Postgres(closed / "home").initialize(1)
    assert not (closed / "home" / "data").exists()


def test_dagsters_configuration_follows_where_its_storage_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    own = bootstrap.local_postgres(settings)
    own.folder.mkdir()

    def told() -> str:
        return (ensure_dagster_home(settings) / "dagster.yaml").read_text()

    monkeypatch.delenv("DAGSTER_POSTGRES_URL", raising=False)
    plain = told()
    assert "storage:" not in plain
    for port in (5432, 5433):
        own.enable(port)
        assert told() == told()
        assert told().startswith(plain)
        assert f'postgres_url: "{own.url("dagster")}"' in told()
        assert f":{port}/dagster?passfile=" in told()
    own.disable()
    assert told() == plain
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql+psycopg2://elsewhere/dagster")
    assert told().endswith("postgres_url:\n      env: DAGSTER_POSTGRES_URL\n")
    monkeypatch.delenv("DAGSTER_POSTGRES_URL")
    assert told() == plain
    (tmp_path / "dagster" / "dagster.yaml").write_text(f"{plain}storage:\n  sqlite: {{}}\n")
    own.enable(5432)
    with pytest.raises(SpecInvalid, match="names a storage of its own"):
        told()


def test_its_programs_are_refused_where_it_is_not_in_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    with pytest.raises(OperationNotAllowed, match="`tidemill up --postgres` does that"):
        postgres(["psql"])
