"""A model's windows as Dagster partitions, under the same keys."""

from zoneinfo import ZoneInfo

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from tidemill.core.errors import UnknownWindow
from tidemill.core.windows import Calendar, Window, from_ms


def partitions_of(
    calendar: Calendar, *, include_open: bool = False
) -> dg.TimeWindowPartitionsDefinition:
    """One partition a window, from the calendar's first on; listed once its end has passed.

    With `begun` it is listed once it has begun.
    """
    first = from_ms(calendar.first.start).astimezone(ZoneInfo(calendar.timezone))
    return dg.TimeWindowPartitionsDefinition(
        start=first,  # in its zone: Dagster reads the wall clock of an aware time, not the moment
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

    Asked for is what the tags say: of a key that is no window's, Dagster makes the next that is.
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

    Raises `UnknownWindow` for a key that is no window's, is not among Dagster's partitions (a run
    of such a key would end in SUCCESS having done nothing), or a range that runs backwards.
    """
    windows = [calendar.window(key) for key in (first, last)]
    for window in windows:
        if not partitions.has_partition_key(window.key):
            newest = partitions.get_last_partition_key()
            raise UnknownWindow(
                f"Window {window.key} has not ended yet by this machine's clock.",
                f"The newest window that has is {newest}." if newest else "None has ended yet.",
            )
    if windows[0].start > windows[1].start:
        raise UnknownWindow(
            f"The range of windows {first} to {last} runs backwards.", "Swap its two ends."
        )
    return list(calendar.between(*windows))
