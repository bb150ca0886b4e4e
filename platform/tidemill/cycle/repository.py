"""The repository of one model: its records, one kind after another."""

from collections.abc import Iterator
from dataclasses import dataclass

from tidemill.core import canonical
from tidemill.core.ledger import ValidEntry
from tidemill.core.plans import Observation, Observations, Plan
from tidemill.core.records import (
    Adoption,
    Candidate,
    InitialModel,
    LedgerTopicRecord,
    Lineage,
    Manifest,
    PruneMarker,
)
from tidemill.core.report_records import Report
from tidemill.cycle.model_store import ModelStore, none_if_damaged
from tidemill.cycle.names import (
    FIRST_LINEAGE,
    INITIAL_MODEL,
    LEDGER,
    LEDGER_TOPIC,
    OBSERVATIONS,
    PRUNE_MARKER,
    adoption_name,
    candidate_name,
    entry_name,
    manifest_name,
    plan_name,
    report_name,
)


@dataclass(frozen=True)
class ModelRepository(ModelStore):
    """The records of one model. Each is written once.

    A record's getter returns None if nothing is committed, and raises `DigestMismatch` if the bytes
    are damaged. A commit returns the record in force after it: its own, or that of an earlier
    writer. It repairs a damaged record that was the same; otherwise raises `DigestMismatch`.
    """

    def plan(self, window: str) -> Plan | None:
        return self._get(plan_name(window), Plan)

    def commit_plan(self, plan: Plan) -> Plan:
        return self._commit("plan", plan_name(plan.window), plan)

    def manifest(self, window: str) -> Manifest | None:
        return self._get(manifest_name(window), Manifest)

    def commit_manifest(self, manifest: Manifest) -> Manifest:
        return self._commit("manifest", manifest_name(manifest.window), manifest)

    def is_damaged_copy_of(self, manifest: Manifest) -> bool:
        """Whether the stored manifest of this window, which is damaged, was this one."""
        return self._is_damaged_copy(manifest_name(manifest.window), manifest)

    def initial_model(self) -> InitialModel | None:
        return self._get(INITIAL_MODEL, InitialModel)

    def commit_initial_model(self, initial_model: InitialModel) -> InitialModel:
        return self._commit("initial", INITIAL_MODEL, initial_model)

    def lineage(self) -> Lineage | None:
        return self._get(FIRST_LINEAGE, Lineage)

    def commit_lineage(self, lineage: Lineage) -> Lineage:
        return self._commit("lineage", FIRST_LINEAGE, lineage)

    def adoption(self, number: int) -> Adoption | None:
        """The adoption of this number, from 1."""
        return self._get(adoption_name(number), Adoption)

    def commit_adoption(self, number: int, adoption: Adoption) -> Adoption:
        return self._commit("adoption", adoption_name(number), adoption)

    def adoptions(self) -> Iterator[tuple[int, Adoption]]:
        """Every adoption with its number, in order from 1."""
        number = 1
        while (adoption := self.adoption(number)) is not None:
            yield number, adoption
            number += 1

    def candidate(self, lineage_id: str, window: str) -> Candidate | None:
        return self._get(candidate_name(lineage_id, window), Candidate)

    def commit_candidate(self, candidate: Candidate) -> Candidate:
        name = candidate_name(candidate.lineage, candidate.window)
        return self._commit("candidate", name, candidate)

    def report(self, window: str) -> Report | None:
        return self._get(report_name(window), Report)

    def commit_report(self, report: Report) -> Report:
        return self._commit("report", report_name(report.window), report)

    def commit_entry(self, valid_entry: ValidEntry, cluster_id: str, topic_id: str) -> None:
        """Copy a valid ledger entry, byte for byte as it is in the topic."""
        topic = LedgerTopicRecord(cluster_id, topic_id)
        self._put("ledger", LEDGER_TOPIC, canonical.with_checksum(canonical.encode(topic)))
        self._put("entry", entry_name(valid_entry.entry.seq), valid_entry.value)

    def entry(self, seq: int) -> bytes | None:
        return self.store.get(f"{self.model}/{entry_name(seq)}")

    def ledger_topic(self) -> tuple[str, str] | None:
        """Cluster id and topic id of the ledger that the copied entries belong to."""
        topic = self._get(LEDGER_TOPIC, LedgerTopicRecord)
        return None if topic is None else (topic.cluster_id, topic.topic_id)

    def set_ledger_topic(self, cluster_id: str, topic_id: str) -> None:
        """Record that the copied entries are in this topic now; call it only once they are."""
        self._replace(LEDGER_TOPIC, LedgerTopicRecord(cluster_id, topic_id))

    def last_entry_seq(self) -> int:
        """The highest `seq` that was copied; -1 if there is none."""
        stems = (name.removeprefix(LEDGER).split(".")[0] for name in self.names(LEDGER))
        return max((int(stem) for stem in stems if stem.isdigit()), default=-1)

    def observations(self) -> dict[int, Observation]:
        stored = none_if_damaged(lambda: self._get(OBSERVATIONS, Observations))
        partitions = stored.partitions if stored else {}
        return {int(partition): observation for partition, observation in partitions.items()}

    def save_observations(self, observations: dict[int, Observation]) -> None:
        by_partition = {str(partition): value for partition, value in observations.items()}
        self._replace(OBSERVATIONS, Observations(by_partition))

    def clear_observations(self) -> None:
        """Delete the observations, for they belong to another topic."""
        self.delete(OBSERVATIONS)

    def prune_marker(self) -> PruneMarker | None:
        return self._get(PRUNE_MARKER, PruneMarker)

    def set_prune_marker(self, marker: PruneMarker) -> None:
        """Record how far the store is pruned; call it before deleting anything."""
        self._replace(PRUNE_MARKER, marker)

    def is_pruned(self, end: int) -> bool:
        """Whether the files of the window that ends at `end` (in ms) may have been pruned."""
        marker = self.prune_marker()
        return marker is not None and end <= marker.window_end_ms
