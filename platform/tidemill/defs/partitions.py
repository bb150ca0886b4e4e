"""A model's windows as Dagster partitions with the same keys."""

from zoneinfo import ZoneInfo

import dagster as dg

from tidemill.core.errors import UnknownWindow
from tidemill.core.windows import Calendar, Window, from_ms
from tidemill.defs.dagster_compat import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)


def partitions_of(
    calendar: Calendar, *, include_open: bool = False
) -> dg.TimeWindowPartitionsDefinition:
    """One partition per window, from the calendar's first on; listed once the window has ended.

    With `include_open` it is listed once the window has started.
    """
    first = from_ms(calendar.first.start).astimezone(ZoneInfo(calendar.timezone))
    return dg.TimeWindowPartitionsDefinition(
        start=first,  # in the calendar's zone: Dagster uses its wall-clock time and not the instant
        fmt=calendar.key_format,
        cron_schedule=calendar.cron,
        timezone=calendar.timezone,
        end_offset=int(include_open),
    )


def requested_windows(
    calendar: Calendar,
    partitions: dg.TimeWindowPartitionsDefinition,
    context: dg.AssetExecutionContext,
) -> list[Window]:
    """The windows of a run, in order. Raises as `windows_between`.

    The run's tags take precedence: Dagster itself replaces an invalid key by the next valid one.
    """
    tags = context.run.tags
    single_key = tags.get(PARTITION_NAME_TAG)
    first = tags.get(ASSET_PARTITION_RANGE_START_TAG, single_key)
    last = tags.get(ASSET_PARTITION_RANGE_END_TAG, single_key)
    if first is None or last is None:
        first, last = context.partition_keys[0], context.partition_keys[-1]
    return windows_between(calendar, partitions, first, last)


def windows_between(
    calendar: Calendar, partitions: dg.TimeWindowPartitionsDefinition, first: str, last: str
) -> list[Window]:
    """The windows from key `first` to key `last`, both inclusive.

    Raises `UnknownWindow` if a key is not a valid window or not among Dagster's partitions (a run
    of such a key would do nothing and end in SUCCESS), or if the range is reversed.
    """
    windows = [calendar.window(key) for key in (first, last)]
    for window in windows:
        if not partitions.has_partition_key(window.key):
            newest = partitions.get_last_partition_key()
            raise UnknownWindow(
                f"Window {window.key} has not ended yet by this machine's clock.",
                f"The newest window that has ended is {newest}."
                if newest
                else "No window has ended yet.",
            )
    if windows[0].start > windows[1].start:
        raise UnknownWindow(
            f"The range of windows {first} to {last} is reversed.", "Swap the two keys."
        )
    return list(calendar.between(*windows))
