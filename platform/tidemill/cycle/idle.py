"""Idle: which Kafka partitions a window may be closed without, and what was seen of their ends."""

from collections.abc import Mapping

from tidemill.core.plans import EndReason, Observation
from tidemill.cycle.attach import Attached
from tidemill.cycle.mill import Mill


def observe(mill: Mill, attached: Attached) -> dict[int, Observation]:
    """Store what this attempt saw of the stable ends; the only use of a clock in planning."""
    known, now = mill.archive.observations(), mill.now()
    seen = {
        partition: known[partition].updated(extent.last_stable_offset, now)
        if partition in known
        else Observation(extent.last_stable_offset, now, now)
        for partition, extent in attached.extents.items()
    }
    mill.archive.observe(seen)
    return seen


def excuse(
    mill: Mill, open_: list[int], seen: Mapping[int, Observation], starts: Mapping[int, int]
) -> EndReason | None:
    """Why the partitions without a boundary may be left out: idleness, or a silent stream.

    Silence closes windows up to the last record, and none of the future.
    """
    windows, confirmed = mill.spec.windows, len(open_) < len(seen)
    if confirmed and all(seen[p].unchanged_for_ms >= windows.idle_timeout for p in open_):
        return "idle"
    silent, left = windows.close_after_silence, any(o.end_offset > starts[p] for p, o in seen.items())
    if silent is not None and left and all(o.unchanged_for_ms >= silent for o in seen.values()):
        return "silent"
    return None
