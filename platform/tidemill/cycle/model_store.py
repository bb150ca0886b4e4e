"""One model's part of the store: checked files and bundles, and records with a checksum."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tidemill.core import canonical
from tidemill.core.errors import CommittedDataError, DigestMismatch, ModelPruned
from tidemill.core.records import FileRef
from tidemill.cycle.names import bundle_name
from tidemill.failpoints import failpoint
from tidemill.ports import Store

T = TypeVar("T")
_RESTORE_REMEDY = (
    "Run the step that made it again, or restore the file from a backup; `tidemill verify` lists "
    "everything that is damaged."
)


def file_ref(stem: str, suffix: str, data: bytes) -> FileRef:
    """A reference to these bytes; the name contains a prefix of their digest."""
    sha256 = canonical.digest(data)
    return FileRef(f"{stem}-{sha256[:16]}.{suffix}", sha256, len(data))


def none_if_damaged(get: Callable[[], T | None]) -> T | None:
    """The result of `get`, None if the record is damaged; for a step that can rebuild it."""
    try:
        return get()
    except DigestMismatch:
        return None


@dataclass(frozen=True)
class ModelStore:
    """The names in the store that start with the name of the model.

    Whatever is committed is written once. Reading raises `DigestMismatch` if the bytes are damaged;
    committing the same bytes again repairs them.
    """

    store: Store
    model: str

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

    def is_intact(self, files: Iterable[FileRef], bundles: Iterable[str] = ()) -> bool:
        """Whether these files, and the bundles of these digests, are as they were committed."""
        try:
            for digest in bundles:
                self.bundle(digest)
            for ref in files:
                self.file(ref)
        except CommittedDataError:
            return False
        return True

    def copy_to(self, name: str, other: "ModelStore") -> None:
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

    def _commit(self, record_kind: str, name: str, record: T) -> T:
        """Commit a record; returns the record in force: this one, or that of an earlier writer.

        A damaged record that was this one is repaired. Raises `DigestMismatch` if it was another.
        """
        if self._put(record_kind, name, canonical.with_checksum(canonical.encode(record))):
            return record
        existing = none_if_damaged(lambda: self._get(name, type(record)))
        if existing is not None:
            return existing
        if not self._is_damaged_copy(name, record):
            raise DigestMismatch(
                f"{self.model}/{name} is damaged in the store, and making it again gives a record "
                "that differs from the committed one.",
                "Restore the file from a backup.",
            )
        self._replace(name, record)
        return record

    def _replace(self, name: str, record: object) -> None:
        """Write a record whether or not the name is taken."""
        data = canonical.with_checksum(canonical.encode(record))
        self.store.replace(f"{self.model}/{name}", data)

    def _is_damaged_copy(self, name: str, record: object) -> bool:
        """Whether the stored record of this name, which is damaged, was this one."""
        damaged = self.store.get(f"{self.model}/{name}")
        return damaged is not None and canonical.is_damaged_copy_of(
            damaged, canonical.encode(record)
        )

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
