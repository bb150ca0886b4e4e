"""Settings are read from the environment; an invalid one is named, but its value is not shown."""

from pathlib import Path

import pytest

from tidemill.core.errors import SpecInvalid
from tidemill.settings import Settings
from tidemill.settings_groups import Bucket


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "HOME",
        "STORE",
        "MODELS",
        "NUM_THREADS",
        "FAILPOINTS",
        "KAFKA__BOOTSTRAP_SERVERS",
    ):
        monkeypatch.delenv(f"TIDEMILL_{name}", raising=False)


def test_default_paths_are_in_the_working_directory(tmp_path: Path) -> None:
    settings = Settings()
    assert settings.store == tmp_path / ".tidemill" / "store"
    assert settings.kafka_data == tmp_path / ".tidemill" / "kafka"
    assert settings.dagster_home == tmp_path / ".tidemill" / "dagster"
    assert (settings.models / "flights").is_dir()
    assert settings.kafka.bootstrap_servers is None


def test_nested_settings_are_set_by_two_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_KAFKA__BOOTSTRAP_SERVERS", "a:9092,b:9092")
    monkeypatch.setenv("TIDEMILL_KAFKA__TIMEOUT", "5")
    kafka = Settings().kafka
    assert (kafka.bootstrap_servers, kafka.timeout) == ("a:9092,b:9092", 5)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TIDEMILL_NUM_THREADS", "many"),
        ("TIDEMILL_KAFKA__TIMEOUT", "0"),
        ("TIDEMILL_KAFKA__SECURITY_PROTOCOL", "TLS"),
        ("TIDEMILL_KAFKA__LEDGER_TOPIC", "no such/name"),
        ("TIDEMILL_KAFKA__BOOTSTRAP_SERVER", "a:9092"),
        ("TIDEMILL_UP__WINDOW_MINUTES", "7"),
        ("TIDEMILL_UP__DAGSTER_PORT", "0"),
        ("TIDEMILL_UP__POSTGRES_PORT", "65536"),
        ("TIDEMILL_STORE", "s3://No_Bucket"),
        ("TIDEMILL_STORE", "s3://bucket/a//b"),
        ("TIDEMILL_STORE", "gs://bucket/a"),
        ("TIDEMILL_S3__ENDPOINT", "127.0.0.1:9000"),
        ("TIDEMILL_S3__TIMEOUT", "0"),
    ],
)
def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SpecInvalid, match=rf"{variable}\b"):
        Settings()


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("s3://bucket", Bucket("bucket")),
        ("s3://bucket/", Bucket("bucket")),
        ("s3://my.bucket-1/a/b_c.d/", Bucket("my.bucket-1", "a/b_c.d")),
        ("/var/tides", Path("/var/tides")),
        ("~/tides", Path.home() / "tides"),
    ],
)
def test_the_store_is_a_folder_or_a_location_in_a_bucket(
    monkeypatch: pytest.MonkeyPatch, text: str, location: Path | Bucket
) -> None:
    monkeypatch.setenv("TIDEMILL_STORE", text)
    assert Settings().store == location


def test_a_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_KAFKA__SASL_PASSWORD", "hunter2")
    settings = Settings()
    assert "hunter2" not in repr(settings)
    assert settings.kafka.sasl_password is not None
    assert settings.kafka.sasl_password.get_secret_value() == "hunter2"
