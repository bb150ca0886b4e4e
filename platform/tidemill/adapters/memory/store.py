"""The store in memory, for scratch work and tests."""

from collections.abc import Iterator


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
