"""Topic binding: check that a topic is the one of the model's plans and holds their offsets."""

from collections.abc import Mapping
from dataclasses import dataclass

from tidemill.core.errors import LogTruncated, TopicCompacted, TopicRecreated
from tidemill.core.event_log import OffsetRange, Topic
from tidemill.core.plans import Plan
from tidemill.core.records import Adoption
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext


@dataclass(frozen=True)
class TopicBinding:
    """The topic and its offset ranges as they are now, with epoch and adoption of the next plans.

    `new_epoch`: no plan was made in this epoch, so the next one starts like the first window.
    """

    topic: Topic
    offset_ranges: Mapping[int, OffsetRange]
    epoch: int = 0
    adoption: int = 0
    new_epoch: bool = False


def verified_topic(ctx: ModelContext, previous: Plan | Adoption | None) -> Topic:
    """The model's topic, which must be the one of the plan or adoption, if there is one.

    Raises `TopicMissing`, `TopicCompacted`, `TopicRecreated`.
    """
    topic = ctx.event_log.topic(previous.topic if previous else ctx.spec.topic)
    if topic.compacted:
        raise TopicCompacted(
            f"The topic {topic.name} of model {ctx.model} is compacted, so it loses records.",
            "Set its `cleanup.policy=delete`, or use a topic without compaction.",
        )
    if previous is not None and (topic.cluster_id, topic.topic_id) != (
        previous.cluster_id,
        previous.topic_id,
    ):
        raise TopicRecreated(
            f"The topic {topic.name} of model {ctx.model} was recreated: its id is "
            f"{topic.topic_id} in cluster {topic.cluster_id}, but the plans were made on "
            f"{previous.topic_id} in {previous.cluster_id}.",
            f"Restore the old topic, or continue with the new one: {ctx.records.adopt_command()}.",
        )
    return topic


def bind_topic(
    ctx: ModelContext, previous: Plan | None, window: Window | None = None
) -> TopicBinding:
    """The binding for the plan of `window`, which follows `previous`; both None: the first plan.

    Raises what `verified_topic` raises, and `LogTruncated`.
    """
    if previous is None:
        topic = verified_topic(ctx, None)
        return TopicBinding(topic, ctx.event_log.offset_ranges(topic.name))
    number = ctx.records.adoption_number(window) if window else previous.adoption
    adoption = ctx.repository.adoption(number) if number > previous.adoption else None
    source = adoption or previous
    epoch = adoption.epoch if adoption else previous.epoch
    if source.topic != ctx.spec.topic:
        raise TopicRecreated(
            f"The plans of model {ctx.model} were made on topic {source.topic}; defs.yaml names "
            f"{ctx.spec.topic}.",
            "Undo the change in defs.yaml, or continue on the other topic: "
            f"{ctx.records.adopt_command()}.",
        )
    topic = verified_topic(ctx, source)
    new_epoch = epoch != previous.epoch
    offset_ranges = ctx.event_log.offset_ranges(topic.name)
    if not new_epoch:
        _check_not_truncated(ctx, topic, offset_ranges, previous)
    return TopicBinding(topic, offset_ranges, epoch, number, new_epoch)


def _check_not_truncated(
    ctx: ModelContext, topic: Topic, offset_ranges: Mapping[int, OffsetRange], previous: Plan
) -> None:
    for partition, end in previous.end_offsets.items():
        last_stable_offset = (
            offset_ranges[partition].last_stable_offset if partition in offset_ranges else 0
        )
        if last_stable_offset < end:
            raise LogTruncated(
                f"Partition {partition} of topic {topic.name} ends at offset {last_stable_offset}, "
                f"before {end}, the end of window {previous.window} of {ctx.model}.",
                "Committed windows are kept. Restore the log; or continue with the topic as it is, "
                f"or with another topic of defs.yaml: {ctx.records.adopt_command()}.",
            )
