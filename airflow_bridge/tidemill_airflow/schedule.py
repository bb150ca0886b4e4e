"""The partition of a DAG run: set by its timetable, never inferred."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, CronPartitionTimetable

from tidemill_airflow.errors import InvalidInput

if TYPE_CHECKING:
    from airflow.sdk import DAG

PARTITION_KEY = "{{ partition_key or (dag_run.conf or {}).get('partition_key') or '' }}"
"""The partition key of the DAG run: from its timetable, the manual trigger, or its conf."""

_KEY_PART = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,128}")
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,255}")


def partition_timetable(
    cron: str, *, timezone: str = "UTC", key_format: str | None = None, offset: int = -1
) -> CronPartitionTimetable:
    """The timetable whose runs have the keys of Dagster's time window partitions with this cron.

    A run starts when its window ends (`offset` -1) or starts (0). The default of `key_format` is
    tidemill's: `%Y-%m-%d` for windows of a day or longer, `%Y-%m-%dT%H%MZ` for shorter ones. Raises
    `InvalidInput` for shorter windows in a time zone other than UTC without a `key_format`.
    """
    minute, hour = [*cron.split(), "", ""][:2]
    daily = minute.isdigit() and hour.isdigit()
    if not daily and timezone != "UTC" and key_format is None:
        raise InvalidInput(
            f"Windows of {cron!r} in the time zone {timezone} have no unique keys.",
            "Omit the timezone: windows shorter than a day are in UTC.",
        )
    resolved_format = key_format or ("%Y-%m-%d" if daily else "%Y-%m-%dT%H%MZ")
    return CronPartitionTimetable(
        cron, timezone=timezone, run_offset=offset, key_format=resolved_format
    )


def require_partition_timetable(dag: "DAG", task_id: str) -> None:
    """Raises `InvalidInput` for a schedule by cron or interval, which has no partition keys.

    Its runs have data intervals of zero width, and a manual run would get the partition before the
    intended one.
    """
    timetable: Any = dag.timetable
    periodic = hasattr(timetable, "expression") or hasattr(timetable, "delta")
    if (periodic or hasattr(timetable, "timetables")) and not isinstance(
        timetable, CronPartitionTimetable
    ):
        raise InvalidInput(
            f"The schedule of DAG {dag.dag_id} does not define the partition of a run, which its "
            f"task {task_id} requires.",
            "Use tidemill_airflow.schedule.partition_timetable(cron, timezone=…) or "
            "CronPartitionTimetable(cron, timezone=…, run_offset=-1, key_format=…).",
        )


def validate_asset_key(value: object) -> str:
    """The value, if it is an asset key, its parts separated by slashes. Raises `InvalidInput`."""
    if isinstance(value, str) and all(_KEY_PART.fullmatch(part) for part in value.split("/")):
        return value
    raise InvalidInput(
        f"{str(value)[:80]!r} is not a valid Dagster asset key.",
        "Separate its parts by slashes, such as flights/deployed_model.",
    )


def validate_partition_key(value: object) -> str:
    """The value, if it can be a partition key of any asset. Raises `InvalidInput`."""
    if isinstance(value, str) and _PRINTABLE.fullmatch(value) and value.strip() == value:
        return value
    raise InvalidInput(
        f"{str(value)[:80]!r} is not a valid partition key."
        if value
        else "This DAG run has no partition key.",
        "Trigger it with one: as `partition_key` in the API or the form, or in the conf, such as "
        '{"partition_key": "2026-01-31"}.',
    )


def dagster_asset(key: str, dagster_conn_id: str = "dagster_default") -> Asset:
    """The Airflow asset of a Dagster asset: for a task's outlets or a DAG's schedule."""
    name = validate_asset_key(key)
    return Asset(
        name=f"{name}@{validate_asset_key(dagster_conn_id)}",
        uri=f"dagster://{dagster_conn_id}/{name}",
    )


def parse_asset_keys(assets: Sequence[str] | str) -> list[str]:
    """The unique keys of a selection: a list, or a comma-separated string (from a template)."""
    raw_keys = assets.split(",") if isinstance(assets, str) else list(assets)
    keys = [validate_asset_key(key.strip() if isinstance(key, str) else key) for key in raw_keys]
    return list(dict.fromkeys(keys))
