"""The server's own copy of what it serves: enough to start from while Kafka is away."""

from dataclasses import dataclass

from tidemill.core import canonical
from tidemill.core.errors import DigestMismatch
from tidemill.core.ledger import Entry
from tidemill.ports import Store

_REMEDY = "The server makes it again as soon as it has reached the ledger."


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
class LocalCopy:
    """Bundles, and the entries that named them, one of each a model, in a store of their own."""

    store: Store

    def entry(self, model: str) -> LocalEntry | None:
        """The entry that was last served; None where there is none or its copy is damaged."""
        data = self.store.get(f"{model}/entry.json")
        body = canonical.verify_checksum(data) if data is not None else None
        if body is None:
            return None
        value = canonical.decode(body, dict[str, bytes])["value"]
        return LocalEntry(canonical.decode(value, Entry), value)

    def bundle(self, model: str, digest: str) -> bytes:
        """The bytes of a bundle, which nobody has verified. Raises `DigestMismatch` without."""
        data = self.store.get(f"{model}/{digest}.bundle")
        if data is None:
            raise DigestMismatch(f"The local copy of bundle {digest} is missing.", _REMEDY)
        return data

    def save(self, model: str, value: bytes, digest: str, bundle: bytes) -> None:
        """Keep this entry and its bundle instead of those before."""
        name = f"{model}/{digest}.bundle"
        if self.store.get(name) != bundle:
            self.store.replace(name, bundle)
        entry = canonical.with_checksum(canonical.encode({"value": value}))
        self.store.replace(f"{model}/entry.json", entry)
        for other in list(self.store.names(f"{model}/")):
            if other.endswith(".bundle") and other != name:
                self.store.delete(other)
