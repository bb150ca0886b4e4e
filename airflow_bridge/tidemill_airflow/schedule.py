"""Which partition a DAG run is for: told by its timetable, and by nothing that must be guessed."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, CronPartitionTimetable

from tidemill_airflow.errors import InvalidInput

if TYPE_CHECKING:
    from airflow.sdk import DAG

PARTITION_KEY = "{{ partition_key or (dag_run.conf or {}).get('partition_key') or '' }}"
"""The DAG run's partition key, by its timetable, the person who triggered it, or its conf."""

_KEY_PART = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,128}")
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,255}")


def partition_timetable(
    cron: str, *, timezone: str = "UTC", key_format: str | None = None, offset: int = -1
) -> CronPartitionTimetable:
    """The timetable whose runs have the keys of Dagster's time window partitions with this cron.

    A run begins when its window ends (`offset` -1), or when that begins (0). Without `key_format`
    windows of a day or longer have `%Y-%m-%d`, shorter ones `%Y-%m-%dT%H%MZ`, as tidemill has.
    """
    minute, hour = [*cron.split(), "", ""][:2]
    daily = minute.isdigit() and hour.isdigit()
    if not daily and timezone != "UTC" and key_format is None:
        raise InvalidInput(
            f"Windows of {cron!r} in the zone {timezone} have no key that is told only once.",
            "Leave out the timezone: windows shorter than a day are in UTC.",
        )
    resolved_format = key_format or ("%Y-%m-%d" if daily else "%Y-%m-%dT%H%MZ")
    return CronPartitionTimetable(
        cron, timezone=timezone, run_offset=offset, key_format=resolved_format
    )


def require_partition_timetable(dag: "DAG", task_id: str) -> None:
    """Raises `InputRefused` for a schedule by cron or interval that has no partition keys.

    Its runs have data intervals of zero width, and a manual run would hit the partition before the
    one that is meant.
    """
    timetable: Any = dag.timetable
    periodic = hasattr(timetable, "expression") or hasattr(timetable, "delta")
    if (periodic or hasattr(timetable, "timetables")) and not isinstance(
        timetable, CronPartitionTimetable
    ):
        raise InvalidInput(
            f"The schedule of DAG {dag.dag_id} does not say which partition a run is for; its task "
            f"{task_id} has to know.",
            "Schedule it by tidemill_airflow.schedule.windows(cron, timezone=…), or by "
            "CronPartitionTimetable(cron, timezone=…, run_offset=-1, key_format=…).",
        )


def validate_asset_key(value: object) -> str:
    """An asset's key, its parts between slashes. Raises `InputRefused` for what is none."""
    if isinstance(value, str) and all(_KEY_PART.fullmatch(part) for part in value.split("/")):
        return value
    raise InvalidInput(
        f"{str(value)[:80]!r} is no key of a Dagster asset.",
        "Write its parts with slashes between them, such as flights/deployed_model.",
    )


def validate_partition_key(value: object) -> str:
    """A partition's key, as far as that can be told from here. Raises `InputRefused`."""
    if isinstance(value, str) and _PRINTABLE.fullmatch(value) and value.strip() == value:
        return value
    raise InvalidInput(
        f"{str(value)[:80]!r} is no key of a partition."
        if value
        else "This DAG run has no partition key.",
        "Trigger it with one: by `partition_key` of the API or the form, or in the conf, such as "
        '{"partition_key": "2026-01-31"}.',
    )


def dagster_asset(key: str, dagster_conn_id: str = "dagster_default") -> Asset:
    """The asset of Airflow that stands for one of Dagster: a task's outlet, or a DAG's schedule."""
    name = validate_asset_key(key)
    return Asset(
        name=f"{name}@{validate_asset_key(dagster_conn_id)}",
        uri=f"dagster://{dagster_conn_id}/{name}",
    )


def parse_asset_keys(assets: Sequence[str] | str) -> list[str]:
    """The keys of a selection: a list, or, as a template makes it, one text with commas."""
    raw_keys = assets.split(",") if isinstance(assets, str) else list(assets)
    keys = [validate_asset_key(key.strip() if isinstance(key, str) else key) for key in raw_keys]
    return list(dict.fromkeys(keys))
