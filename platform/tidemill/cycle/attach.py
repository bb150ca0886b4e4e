"""Attach to a model's topic: is it the one the plans were made on, and does it still hold them."""

from collections.abc import Mapping
from dataclasses import dataclass

from tidemill.core.errors import LogTruncated, TopicCompacted, TopicRecreated
from tidemill.core.log import OffsetRange, Topic
from tidemill.core.plans import Plan
from tidemill.core.records import Adoption
from tidemill.core.windows import Window
from tidemill.cycle.lines import adopted, unplanned
from tidemill.cycle.mill import Mill


@dataclass(frozen=True)
class Attached:
    """The topic and its extents, both as they are now, and what plans from here on say of them.

    `anew`: no plan was made in this epoch, so the next one starts by the first window's rule.
    """

    topic: Topic
    extents: Mapping[int, OffsetRange]
    epoch: int = 0
    adoption: int = 0
    anew: bool = False


def topic_of(mill: Mill, before: Plan | Adoption | None) -> Topic:
    """The model's topic, which must be the one of the plan or adoption, if there is one.

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
            f"Bring the old topic back, or go on with the new one by {_adopt(mill)}.",
        )
    return topic


def attach(mill: Mill, before: Plan | None, window: Window | None = None) -> Attached:
    """Attach to plan `window`, which follows the plan `before`; both None: for the first plan.

    Raises what `topic_of` raises, and `LogTruncated`.
    """
    if before is None:
        topic = topic_of(mill, None)
        return Attached(topic, mill.log.extents(topic.name))
    number = adopted(mill.archive, window) if window else before.adoption
    adoption = mill.archive.adoption(number) if number > before.adoption else None
    source, epoch = adoption or before, adoption.epoch if adoption else before.epoch
    if source.topic != mill.spec.topic:
        raise TopicRecreated(
            f"The plans of model {mill.model} were made on topic {source.topic}; defs.yaml names "
            f"{mill.spec.topic}.",
            f"Undo the change in defs.yaml, or go on with the other topic by {_adopt(mill)}.",
        )
    topic = topic_of(mill, source)
    anew = epoch != before.epoch
    extents = mill.log.extents(topic.name)
    if not anew:
        _check_ends(mill, topic, extents, before)
    return Attached(topic, extents, epoch, number, anew)


def _check_ends(mill: Mill, topic: Topic, extents: Mapping[int, OffsetRange], before: Plan) -> None:
    for partition, end in before.end_offsets.items():
        stable = extents[partition].last_stable_offset if partition in extents else 0
        if stable < end:
            raise LogTruncated(
                f"Partition {partition} of topic {topic.name} ends at offset {stable}, before "
                f"{end}, the end of window {before.window} of {mill.model}.",
                "Committed windows stand. Restore the log, or go on with the topic as it is, or "
                f"with another one that defs.yaml names, by {_adopt(mill)}.",
            )


def _adopt(mill: Mill) -> str:
    return f"`tidemill adopt {mill.model} --from {unplanned(mill)} --why REASON`"
