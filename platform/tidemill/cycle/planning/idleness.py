"""Idleness: which Kafka partitions may be ignored when a window is closed, and since when."""

from collections.abc import Mapping

from tidemill.core.plans import EndReason, Observation
from tidemill.cycle.context import ModelContext
from tidemill.cycle.planning.topic_binding import TopicBinding


def record_end_offsets(ctx: ModelContext, binding: TopicBinding) -> dict[int, Observation]:
    """Store the partitions' current end offsets; planning uses the clock only here."""
    previous = ctx.repository.observations()
    now = ctx.clock()
    observations = {
        partition: previous[partition].updated(offset_range.last_stable_offset, now)
        if partition in previous
        else Observation(offset_range.last_stable_offset, now, now)
        for partition, offset_range in binding.offset_ranges.items()
    }
    ctx.repository.save_observations(observations)
    return observations


def idle_reason(
    ctx: ModelContext,
    open_partitions: list[int],
    observations: Mapping[int, Observation],
    starts: Mapping[int, int],
) -> EndReason | None:
    """Why the partitions without a boundary may be ignored; None if they may not.

    `idle`: they are idle while another partition has a boundary. `silent`: all partitions are
    silent. Silence closes windows up to the last record, and no later ones.
    """
    windows = ctx.spec.windows
    confirmed = len(open_partitions) < len(observations)
    if confirmed and all(
        observations[p].unchanged_for_ms >= windows.idle_timeout for p in open_partitions
    ):
        return "idle"
    silence_timeout = windows.close_after_silence
    has_records = any(o.end_offset > starts[p] for p, o in observations.items())
    if (
        silence_timeout is not None
        and has_records
        and all(o.unchanged_for_ms >= silence_timeout for o in observations.values())
    ):
        return "silent"
    return None
