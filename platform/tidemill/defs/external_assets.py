"""The external assets that models learn from: topics and files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.spec import ModelSpec
from tidemill.defs.dagster_compat import suppress_dagster_warnings
from tidemill.defs.metadata import table

if TYPE_CHECKING:
    from tidemill.core.event_log import OffsetRange
    from tidemill.core.plans import Plan

OWNERS = ["team:tidemill"]


def topic_key(spec: ModelSpec) -> dg.AssetKey:
    """The asset key of a Kafka topic; models that learn from the same topic share it."""
    return dg.AssetKey(["kafka", spec.topic])


def history_key(spec: ModelSpec) -> dg.AssetKey:
    """The asset key of what the initial model learns from: a file, or the topic's history."""
    return topic_key(spec) if spec.initial.file is None else dg.AssetKey([spec.name, "history"])


@suppress_dagster_warnings  # Dagster warns about parameters that it sets itself
def external_assets(specs: Sequence[ModelSpec]) -> list[dg.AssetsDefinition]:
    """The external assets of all models, without duplicates."""
    external_specs = [*_topic_specs(specs), *_file_specs(specs)]
    return [dg.AssetsDefinition(specs=[external_spec]) for external_spec in external_specs]


def _topic_specs(specs: Sequence[ModelSpec]) -> Iterable[dg.AssetSpec]:
    for topic in dict.fromkeys(spec.topic for spec in specs):
        yield _topic_spec(topic, [spec.name for spec in specs if spec.topic == topic])


def _topic_spec(topic: str, models: Iterable[str]) -> dg.AssetSpec:
    return dg.AssetSpec(
        ["kafka", topic],
        description=f"The Kafka topic `{topic}` of labelled events from external producers. "
        "Windows are cut from it by event time and read by offset.",
        group_name="streams",
        owners=OWNERS,
        kinds={"kafka"},
        metadata={"topic": topic, "read_by": ", ".join(models)},
    )


def _file_specs(specs: Sequence[ModelSpec]) -> Iterable[dg.AssetSpec]:
    for spec in specs:
        if spec.initial.file is not None:
            yield dg.AssetSpec(
                history_key(spec),
                description="The file of historical data that the initial model learns from.",
                group_name=spec.name,
                owners=OWNERS,
                kinds={spec.initial.file.rsplit(".", 1)[-1]},
                metadata={"file": spec.initial.file, "time": str(spec.initial.time_column)},
            )


def watermark_observation(
    spec: ModelSpec, offset_ranges: "Mapping[int, OffsetRange]", plan: "Plan | None"
) -> dg.AssetObservation:
    """The topic's watermarks, and the number of offsets beyond the newest plan."""
    ends = plan.end_offsets if plan else {}
    rows = [
        (
            partition,
            offset_range.low_watermark,
            offset_range.last_stable_offset,
            ends.get(partition),
            offset_range.last_stable_offset
            - max(offset_range.low_watermark, ends.get(partition, 0)),
        )
        for partition, offset_range in sorted(offset_ranges.items())
    ]
    return dg.AssetObservation(
        topic_key(spec),
        metadata={
            "watermarks": table(
                ("partition", "low_watermark", "last_stable_offset", "planned_to", "unplanned"),
                rows,
            ),
            "last_stable_offset": sum(row[2] for row in rows),
            "unplanned": sum(row[4] for row in rows),
            "planned_through": plan.window if plan else "nothing yet",
        },
    )
