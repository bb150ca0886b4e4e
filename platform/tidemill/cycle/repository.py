"""The repository of one model: where its records are stored, and how they are read and checked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tidemill.core import canonical
from tidemill.core.errors import DigestMismatch, ModelPruned
from tidemill.core.ledger import ValidEntry
from tidemill.core.plans import Observation, Observations, Plan
from tidemill.core.records import (
    Adoption,
    Candidate,
    FileRef,
    InitialModel,
    LedgerTopicRecord,
    Lineage,
    Manifest,
    PruneMarker,
)
from tidemill.core.report_records import Report
from tidemill.failpoints import failpoint
from tidemill.ports import Store

T = TypeVar("T")
_LEDGER_TOPIC, _OBSERVATIONS, _PRUNE_MARKER = (
    "ledger/topic.json",
    "observations.json",
    "pruned.json",
)
FIRST_LINEAGE = "lineages/0.json"
_RESTORE_REMEDY = (
    "Run the step that made it again, or restore the file from a backup; `tidemill verify` lists "
    "everything that is damaged."
)


def file_ref(stem: str, suffix: str, data: bytes) -> FileRef:
    """A reference to these bytes; the name contains a prefix of their digest."""
    sha256 = canonical.digest(data)
    return FileRef(f"{stem}-{sha256[:16]}.{suffix}", sha256, len(data))


def bundle_name(digest: str) -> str:
    """The name under which the bundle of this digest is stored."""
    return f"models/{digest}.bundle"


def adoption_name(number: int) -> str:
    return f"adoptions/{number}.json"


def _manifest_name(window: str) -> str:
    return f"batches/{window}/manifest.json"


def none_if_damaged(get: Callable[[], T | None]) -> T | None:
    """The result of `get`, None if the record is damaged; for a step that can rebuild it."""
    try:
        return get()
    except DigestMismatch:
        return None


@dataclass(frozen=True)
class ModelRepository:
    """The part of the store that belongs to one model. Every record is written once.

    A record's getter returns None if nothing is committed, and raises `DigestMismatch` if the bytes
    are damaged. A commit returns the record in force after it: its own, or that of an earlier
    writer. It repairs a damaged record that was the same; otherwise raises `DigestMismatch`.
    """

    store: Store
    model: str

    def plan(self, window: str) -> Plan | None:
        return self._get(f"plans/{window}.json", Plan)

    def commit_plan(self, plan: Plan) -> Plan:
        return self._commit("plan", f"plans/{plan.window}.json", plan)

    def manifest(self, window: str) -> Manifest | None:
        return self._get(_manifest_name(window), Manifest)

    def commit_manifest(self, manifest: Manifest) -> Manifest:
        return self._commit("manifest", _manifest_name(manifest.window), manifest)

    def initial_model(self) -> InitialModel | None:
        return self._get("initial.json", InitialModel)

    def commit_initial_model(self, initial_model: InitialModel) -> InitialModel:
        return self._commit("initial", "initial.json", initial_model)

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

    def candidates_folder(self, lineage_id: str) -> str:
        """The folder of a lineage's candidates."""
        return f"candidates/{lineage_id[:16]}/"

    def candidate_name(self, lineage_id: str, window: str) -> str:
        return f"{self.candidates_folder(lineage_id)}{window}.json"

    def candidate(self, lineage_id: str, window: str) -> Candidate | None:
        return self._get(self.candidate_name(lineage_id, window), Candidate)

    def commit_candidate(self, candidate: Candidate) -> Candidate:
        name = self.candidate_name(candidate.lineage, candidate.window)
        return self._commit("candidate", name, candidate)

    def report(self, window: str) -> Report | None:
        return self._get(f"reports/{window}.json", Report)

    def commit_report(self, report: Report) -> Report:
        return self._commit("report", f"reports/{report.window}.json", report)

    def commit_entry(self, valid_entry: ValidEntry, cluster_id: str, topic_id: str) -> None:
        """Copy a valid ledger entry, byte for byte as it is in the topic."""
        topic = LedgerTopicRecord(cluster_id, topic_id)
        self._put("ledger", _LEDGER_TOPIC, canonical.with_checksum(canonical.encode(topic)))
        self._put("entry", f"ledger/{valid_entry.entry.seq:08d}.json", valid_entry.value)

    def entry(self, seq: int) -> bytes | None:
        return self.store.get(f"{self.model}/ledger/{seq:08d}.json")

    def ledger_topic(self) -> tuple[str, str] | None:
        """Cluster id and topic id of the ledger that the copied entries belong to."""
        topic = self._get(_LEDGER_TOPIC, LedgerTopicRecord)
        return None if topic is None else (topic.cluster_id, topic.topic_id)

    def set_ledger_topic(self, cluster_id: str, topic_id: str) -> None:
        """Record that the copied entries are in this topic now; call it only once they are."""
        topic = canonical.encode(LedgerTopicRecord(cluster_id, topic_id))
        self.store.replace(f"{self.model}/{_LEDGER_TOPIC}", canonical.with_checksum(topic))

    def last_entry_seq(self) -> int:
        """The highest `seq` that was copied; -1 if there is none."""
        stems = (name.removeprefix("ledger/").split(".")[0] for name in self.names("ledger/"))
        return max((int(stem) for stem in stems if stem.isdigit()), default=-1)

    def observations(self) -> dict[int, Observation]:
        stored = none_if_damaged(lambda: self._get(_OBSERVATIONS, Observations))
        partitions = stored.partitions if stored else {}
        return {int(partition): observation for partition, observation in partitions.items()}

    def save_observations(self, observations: dict[int, Observation]) -> None:
        by_partition = {str(partition): value for partition, value in observations.items()}
        record = canonical.encode(Observations(by_partition))
        self.store.replace(f"{self.model}/{_OBSERVATIONS}", canonical.with_checksum(record))

    def clear_observations(self) -> None:
        """Delete the observations, for they belong to another topic."""
        self.delete(_OBSERVATIONS)

    def prune_marker(self) -> PruneMarker | None:
        return self._get(_PRUNE_MARKER, PruneMarker)

    def set_prune_marker(self, marker: PruneMarker) -> None:
        """Record how far the store is pruned; call it before deleting anything."""
        self.store.replace(
            f"{self.model}/{_PRUNE_MARKER}", canonical.with_checksum(canonical.encode(marker))
        )

    def is_pruned(self, end: int) -> bool:
        """Whether the files of the window that ends at `end` (in ms) may have been pruned."""
        marker = self.prune_marker()
        return marker is not None and end <= marker.window_end_ms

    def put_file(self, ref: FileRef, data: bytes) -> None:
        """Commit bytes under the name of their `file_ref`; repairs a damaged file."""
        self._put_by_digest("file", ref.name, data)

    def file(self, ref: FileRef) -> bytes:
        """The bytes of a committed file. Raises `DigestMismatch` if they are missing or damaged."""
        data = self.store.get(f"{self.model}/{ref.name}")
        if data is None:
            raise self.missing_error(ref.name)
        if canonical.digest(data) != ref.sha256:
            raise DigestMismatch(
                f"{self.model}/{ref.name} does not have the sha256 {ref.sha256}.", _RESTORE_REMEDY
            )
        return data

    def put_bundle(self, bundle: bytes) -> str:
        """Commit a bundle under its digest and return that; repairs a damaged bundle."""
        digest = canonical.digest(bundle)
        self._put_by_digest("bundle", bundle_name(digest), bundle)
        return digest

    def bundle(self, digest: str) -> bytes:
        """The bundle of this digest, verified. Raises `ModelPruned`, `DigestMismatch`."""
        data = self.store.get(f"{self.model}/{bundle_name(digest)}")
        if data is None:
            raise ModelPruned(
                f"The bundle {digest} of model {self.model} is not in the store.",
                "Name another digest; `tidemill history` lists those that were deployed.",
            )
        if canonical.digest(data) != digest:
            raise DigestMismatch(
                f"The bundle {digest} of model {self.model} is damaged in the store.",
                _RESTORE_REMEDY,
            )
        return data

    def copy_to(self, name: str, other: "ModelRepository") -> None:
        """Copy the bytes of a name, if it exists, to another repository of this model."""
        data = self.store.get(f"{self.model}/{name}")
        if data is not None:
            other.store.put(f"{other.model}/{name}", data)

    def delete(self, name: str) -> None:
        """Delete a file of this model."""
        self.store.delete(f"{self.model}/{name}")

    def names(self, folder: str) -> Iterator[str]:
        """The names in this model's part of the store that start with `folder`, in order."""
        prefix_length = len(self.model) + 1
        return (name[prefix_length:] for name in self.store.names(f"{self.model}/{folder}"))

    def hash(self, name: str) -> str | None:
        """The sha256 of a record's bytes; None if nothing is committed."""
        data = self.store.get(f"{self.model}/{name}")
        return None if data is None else canonical.digest(data)

    def require_hash(self, name: str) -> str:
        """The sha256 of the bytes of a record. Raises `DigestMismatch` if it is missing."""
        sha256 = self.hash(name)
        if sha256 is None:
            raise self.missing_error(name)
        return sha256

    def missing_error(self, name: str) -> DigestMismatch:
        """The error to raise if this file must exist, but does not."""
        return DigestMismatch(f"{self.model}/{name} is missing in the store.", _RESTORE_REMEDY)

    def _get(self, name: str, kind: type[T]) -> T | None:
        data = self.store.get(f"{self.model}/{name}")
        if data is None:
            return None
        body = canonical.verify_checksum(data)
        if body is None:
            raise DigestMismatch(
                f"{self.model}/{name} is damaged in the store: it does not have the sha256 with "
                "which it was committed.",
                _RESTORE_REMEDY,
            )
        stored_format = canonical.format_of(body)
        if stored_format != canonical.FORMAT:
            raise canonical.format_error(
                f"{self.model}/{name}",
                stored_format,
                "Use the version of tidemill that wrote the store, or an empty TIDEMILL_STORE.",
            )
        try:
            return canonical.decode(body, kind)
        except ValueError as error:  # msgspec's errors are ValueErrors
            raise DigestMismatch(
                f"{self.model}/{name} is not a valid record: {error}.", _RESTORE_REMEDY
            ) from error

    def is_same_as_damaged(self, manifest: Manifest) -> bool:
        """Whether the stored manifest, which is damaged, was this one."""
        damaged = self.store.get(f"{self.model}/{_manifest_name(manifest.window)}")
        return damaged is not None and canonical.is_damaged_copy_of(
            damaged, canonical.encode(manifest)
        )

    def _commit(self, record_kind: str, name: str, record: T) -> T:
        data = canonical.encode(record)
        if self._put(record_kind, name, canonical.with_checksum(data)):
            return record
        existing = none_if_damaged(lambda: self._get(name, type(record)))
        if existing is not None:
            return existing
        if not canonical.is_damaged_copy_of(self.store.get(f"{self.model}/{name}") or b"", data):
            raise DigestMismatch(
                f"{self.model}/{name} is damaged in the store, and making it again gives a record "
                "that differs from the committed one.",
                "Restore the file from a backup.",
            )
        self.store.replace(f"{self.model}/{name}", canonical.with_checksum(data))
        return record

    def _put_by_digest(self, record_kind: str, name: str, data: bytes) -> None:
        """Commit bytes under a name that contains their digest: different bytes are damage."""
        if (
            not self._put(record_kind, name, data)
            and self.store.get(f"{self.model}/{name}") != data
        ):
            self.store.replace(f"{self.model}/{name}", data)

    def _put(self, record_kind: str, name: str, data: bytes) -> bool:
        failpoint(f"{record_kind}.before")
        written = self.store.put(f"{self.model}/{name}", data)
        failpoint(f"{record_kind}.after")
        return written
