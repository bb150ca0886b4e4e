"""Attach to a model's topic: is it the one the plans were made on, and does it still hold them."""

from collections.abc import Mapping
from dataclasses import dataclass

from tidemill.core.errors import LogTruncated, TopicCompacted, TopicRecreated
from tidemill.core.log import Extent, Topic
from tidemill.core.plans import Plan
from tidemill.cycle.mill import Mill


@dataclass(frozen=True)
class Attached:
    """The topic and its extents, both as they are now."""

    topic: Topic
    extents: Mapping[int, Extent]


def topic_of(mill: Mill, before: Plan | None) -> Topic:
    """The model's topic, which must be the one of the plan, if there is one.

    Raises `TopicMissing`, `TopicCompacted`, `TopicRecreated`.
    """
    topic = mill.log.topic(before.topic if before else mill.spec.topic)
    if topic.compacted:
        raise TopicCompacted(
            f"The topic {topic.name} of model {mill.model} is compacted, so its records vanish.",
            "Set `cleanup.policy=delete` on it, or feed an uncompacted topic.",
        )
    if before is not None and (topic.cluster_id, topic.topic_id) != (
        before.cluster_id,
        before.topic_id,
    ):
        raise TopicRecreated(
            f"The topic {topic.name} of model {mill.model} is not the one it was: its id is "
            f"{topic.topic_id} in cluster {topic.cluster_id}, the plans were made on "
            f"{before.topic_id} in {before.cluster_id}.",
            f"Bring the old topic back, or go on with the new one by "
            f"`tidemill adopt {mill.model} --from WINDOW --why REASON`.",
        )
    return topic


def attach(mill: Mill, before: Plan | None) -> Attached:
    topic = topic_of(mill, before)
    extents = mill.log.extents(topic.name)
    for partition, end in (before.ends if before else {}).items():
        stable = extents[partition].stable if partition in extents else 0
        if stable < end:
            raise LogTruncated(
                f"Partition {partition} of topic {topic.name} ends at offset {stable}, before "
                f"{end}, the end of window {before.window if before else ''} of {mill.model}.",
                "Committed windows stand. Restore the log, or feed a new topic and "
                f"`tidemill adopt {mill.model}`.",
            )
    return Attached(topic, extents)
