"""The store in memory, for scratch work and tests."""

from collections.abc import Iterator

from tidemill.ports import Store


class MemoryStore:
    """A `Store` that lives as long as its object."""

    def __init__(self) -> None:
        self._bytes: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        return self._bytes.get(name)

    def put(self, name: str, data: bytes) -> bool:
        return self._bytes.setdefault(name, data) is data

    def replace(self, name: str, data: bytes) -> None:
        self._bytes[name] = data

    def names(self, prefix: str) -> Iterator[str]:
        return iter(sorted(name for name in self._bytes if name.startswith(prefix)))

    def delete(self, name: str) -> None:
        self._bytes.pop(name, None)

    def sweep(self, model: str) -> None:
        """Nothing is ever left."""


class Overlay(MemoryStore):
    """A store in memory before another, which shows through where a name is not `hidden`.

    `hidden` is the beginning of names. The other is only read.
    """

    def __init__(self, under: Store, hidden: str) -> None:
        super().__init__()
        self._under, self._hidden = under, hidden

    def get(self, name: str) -> bytes | None:
        own = super().get(name)
        return own if own is not None or name.startswith(self._hidden) else self._under.get(name)

    def put(self, name: str, data: bytes) -> bool:
        return self.get(name) is None and super().put(name, data)

    def names(self, prefix: str) -> Iterator[str]:
        under = (name for name in self._under.names(prefix) if not name.startswith(self._hidden))
        return iter(sorted({*under, *super().names(prefix)}))
