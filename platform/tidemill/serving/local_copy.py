"""The server's local copy of what it serves, with which it can start without Kafka."""

from dataclasses import dataclass

from tidemill.core import canonical
from tidemill.core.errors import DigestMismatch
from tidemill.core.ledger import Entry
from tidemill.ports import Store

_REMEDY = "The server writes it again as soon as it reaches the ledger."


@dataclass(frozen=True)
class LocalEntry:
    """The entry that was last served, and its bytes."""

    entry: Entry
    value: bytes

    @property
    def hash(self) -> str:
        """The sha256 of the entry's bytes."""
        return canonical.digest(self.value)


@dataclass(frozen=True)
class _StoredEntry:
    """`entry.json`: the bytes of the ledger entry."""

    value: bytes
    format: int = canonical.FORMAT


@dataclass(frozen=True)
class LocalCopy:
    """One entry and its bundle per model, in a separate store."""

    store: Store

    def entry(self, model: str) -> LocalEntry | None:
        """The entry that was last served; None if there is none or its copy is damaged."""
        data = self.store.get(f"{model}/entry.json")
        body = canonical.verify_checksum(data) if data is not None else None
        if body is None or canonical.format_of(body) != canonical.FORMAT:
            return None
        value = canonical.decode(body, _StoredEntry).value
        return LocalEntry(canonical.decode(value, Entry), value)

    def bundle(self, model: str, digest: str) -> bytes:
        """The bundle of this digest, verified. Raises `DigestMismatch`."""
        data = self.store.get(f"{model}/{digest}.bundle")
        if data is None or canonical.digest(data) != digest:
            state = "missing" if data is None else "damaged"
            raise DigestMismatch(f"The local copy of bundle {digest} is {state}.", _REMEDY)
        return data

    def save(self, model: str, value: bytes, digest: str, bundle: bytes) -> None:
        """Replace the model's entry and bundle by these."""
        name = f"{model}/{digest}.bundle"
        if self.store.get(name) != bundle:
            self.store.replace(name, bundle)
        entry = canonical.with_checksum(canonical.encode(_StoredEntry(value)))
        self.store.replace(f"{model}/entry.json", entry)
        for other in list(self.store.names(f"{model}/")):
            if other.endswith(".bundle") and other != name:
                self.store.delete(other)
