"""Fault 35 (platform/docs/design/fault-model.md), in Airflow: invalid input is rejected first."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, CronPartitionTimetable, CronTriggerTimetable

from tidemill_airflow.errors import InvalidInput
from tidemill_airflow.hooks.endpoint import build_endpoint
from tidemill_airflow.operators.dagster import MaterializeAssetsOperator
from tidemill_airflow.schedule import (
    PARTITION_KEY,
    dagster_asset,
    parse_asset_keys,
    partition_timetable,
    validate_asset_key,
    validate_partition_key,
)

HOSTILE = [
    "", " ", "../../etc/passwd", "a//b", "/a", "a/", "a b", "a\nb", "a;drop", "a%2f", "ü", "a\x00",
    "x" * 300, None, 7, ["a"], "{{ 1 }}", "a,b",
]  # fmt: skip


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_asset_key_is_rejected(key: Any) -> None:
    with pytest.raises(InvalidInput, match="not a valid Dagster asset key"):
        validate_asset_key(key)
    with pytest.raises(InvalidInput):
        dagster_asset(key)


@pytest.mark.parametrize("key", ["a\nb", "\x1b[31m", "a\x00", " a", "a ", "x" * 256, 7, "a\u2028b"])
def test_a_hostile_partition_key_is_rejected(key: Any) -> None:
    with pytest.raises(InvalidInput, match="not a valid partition key"):
        validate_partition_key(key)


@pytest.mark.parametrize("key", ["", None])
def test_a_run_without_a_partition_key_fails_with_the_remedy(key: Any) -> None:
    with pytest.raises(InvalidInput, match=r"has no partition key.*partition_key"):
        validate_partition_key(key)


FIELDS: dict[str, Any] = {
    "host": "dagster", "port": 3000, "scheme": "http", "token": None, "extra": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host", "evil/../x"), ("host", "a@b"), ("host", "http://a"), ("host", "a:1"),
        ("host", "a b"), ("host", "a\r\nX: y"), ("host", "-a"), ("host", "a..b"), ("host", "ü"),
        ("port", 0), ("port", 65536), ("port", -1), ("scheme", "file"), ("scheme", "HTTP\n"),
        ("scheme", "javascript"), ("token", "a\r\nX: y"), ("token", "sécret"),
        ("extra", {"path": "/../x"}), ("extra", {"path": "x"}), ("extra", {"path": "/a?b"}),
        ("extra", {"ui": "javascript:alert(1)"}), ("extra", {"ui": "http://a\"><script>"}),
    ],
)  # fmt: skip
def test_a_hostile_connection_is_rejected_without_showing_its_token(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        build_endpoint("dagster_default", **{**FIELDS, "token": "s3cr3t", field: value})
    assert "dagster_default" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert "sécret" not in str(caught.value)


def test_a_connection_has_an_endpoint() -> None:
    endpoint = build_endpoint(
        "c", "d.internal", None, "https", "t0k", {"path": "/prod/", "ui": "https://ui"}
    )
    assert endpoint.graphql_url == "https://d.internal:443/prod/graphql"
    assert endpoint.run_url("1") == "https://ui/runs/1"
    assert endpoint.headers["Authorization"] == "Bearer t0k"
    assert endpoint.headers["Dagster-Cloud-Api-Token"] == "t0k"
    plain = build_endpoint("c", None, None, None, None, {})
    assert (plain.graphql_url, plain.headers) == ("http://127.0.0.1:3000/graphql", {})


@pytest.mark.parametrize(
    "schedule",
    ["0 0 * * *", "@daily", timedelta(days=1), CronTriggerTimetable("0 0 * * *", timezone="UTC")],
)
def test_a_schedule_without_partition_keys_is_rejected_with_the_remedy(
    schedule: Any,
) -> None:
    with (
        pytest.raises(InvalidInput, match="CronPartitionTimetable"),
        DAG("d", schedule=schedule, start_date=datetime(2026, 1, 1, tzinfo=UTC)),
    ):
        MaterializeAssetsOperator(task_id="t", assets=["a"], partition=PARTITION_KEY)


@pytest.mark.parametrize("schedule", [None, "@once", partition_timetable("0 0 * * *")])
def test_other_schedules_are_accepted(schedule: Any) -> None:
    with DAG("d", schedule=schedule, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
        MaterializeAssetsOperator(task_id="t", assets=["a"], partition=PARTITION_KEY)
    with DAG("e", schedule="0 0 * * *", start_date=datetime(2026, 1, 1, tzinfo=UTC)):
        MaterializeAssetsOperator(task_id="t", assets=["a"])  # no partition, so no key is needed


def test_a_selection_is_a_list_or_a_rendered_template() -> None:
    assert parse_asset_keys("m/a, m/b,m/a") == ["m/a", "m/b"]
    assert parse_asset_keys(["m/a", "m/b"]) == ["m/a", "m/b"]
    with pytest.raises(InvalidInput):
        parse_asset_keys("")


def test_hourly_windows_in_a_time_zone_are_rejected() -> None:
    with pytest.raises(InvalidInput, match="in UTC"):
        partition_timetable("0 */6 * * *", timezone="America/New_York")
    assert isinstance(
        partition_timetable("0 0 * * *", timezone="America/New_York"), CronPartitionTimetable
    )
