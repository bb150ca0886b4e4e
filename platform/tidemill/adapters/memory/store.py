"""The store in memory, for scratch work and tests."""

from collections.abc import Iterator

from tidemill.ports import Store


class MemoryStore:
    """A `Store` that lives as long as its object."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        return self._objects.get(name)

    def put(self, name: str, data: bytes) -> bool:
        return self._objects.setdefault(name, data) is data

    def replace(self, name: str, data: bytes) -> None:
        self._objects[name] = data

    def names(self, prefix: str) -> Iterator[str]:
        return iter(sorted(name for name in self._objects if name.startswith(prefix)))

    def delete(self, name: str) -> None:
        self._objects.pop(name, None)

    def recover(self, model: str) -> None:
        """Do nothing: no write is ever left unfinished."""


class OverlayStore(MemoryStore):
    """A store in memory on top of `base`, whose names are visible unless they are hidden.

    Names of `base` that start with `hidden_prefix` are hidden. `base` is never written.
    """

    def __init__(self, base: Store, hidden_prefix: str) -> None:
        super().__init__()
        self._base, self._hidden_prefix = base, hidden_prefix

    def get(self, name: str) -> bytes | None:
        own = super().get(name)
        hidden = name.startswith(self._hidden_prefix)
        return own if own is not None or hidden else self._base.get(name)

    def put(self, name: str, data: bytes) -> bool:
        return self.get(name) is None and super().put(name, data)

    def names(self, prefix: str) -> Iterator[str]:
        base_names = (
            name for name in self._base.names(prefix) if not name.startswith(self._hidden_prefix)
        )
        return iter(sorted({*base_names, *super().names(prefix)}))
