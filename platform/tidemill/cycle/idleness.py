"""Idle: which Kafka partitions a window may be closed without, and what was seen of their ends."""

from collections.abc import Mapping

from tidemill.core.plans import EndReason, Observation
from tidemill.cycle.context import ModelContext
from tidemill.cycle.topic_binding import TopicBinding


def record_end_offsets(ctx: ModelContext, binding: TopicBinding) -> dict[int, Observation]:
    """Store what this attempt saw of the stable ends; the only use of a clock in planning."""
    previous, now = ctx.repository.observations(), ctx.clock()
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
    """Why the partitions without a boundary may be left out: idleness, or a silent stream.

    Silence closes windows up to the last record, and none of the future.
    """
    windows, confirmed = ctx.spec.windows, len(open_partitions) < len(observations)
    if confirmed and all(
        observations[p].unchanged_for_ms >= windows.idle_timeout for p in open_partitions
    ):
        return "idle"
    silence_timeout, has_records = (
        windows.close_after_silence,
        any(o.end_offset > starts[p] for p, o in observations.items()),
    )
    if (
        silence_timeout is not None
        and has_records
        and all(o.unchanged_for_ms >= silence_timeout for o in observations.values())
    ):
        return "silent"
    return None
