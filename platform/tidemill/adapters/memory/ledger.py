"""The ledger's topic in memory, for scratch work and tests."""

import uuid

from tidemill.core.errors import LedgerLost, LogUnavailable
from tidemill.core.event_log import LedgerRecord


class MemoryLedger:
    """A `LedgerTopic` that lives as long as its object.

    If `lose_acknowledgement` is set, the next append succeeds and yet raises an error. While
    `unavailable` is set, every call fails.
    """

    def __init__(self) -> None:
        self.unavailable = False
        self.lose_acknowledgement = False
        self._identity = ("memory", uuid.uuid4().hex)
        self._attached_topic_id: str | None = None
        self._values: list[bytes] = []

    def identity(self) -> tuple[str, str]:
        self._check_attached()
        return self._identity

    def read(self) -> list[LedgerRecord]:
        self._check_attached()
        return [LedgerRecord(offset, value) for offset, value in enumerate(self._values)]

    def append(self, model: str, value: bytes) -> int:
        self._check_attached()
        self._values.append(value)
        if self.lose_acknowledgement:
            self.lose_acknowledgement = False
            raise LogUnavailable(
                f"The acknowledgement of an entry of model {model} was lost.", "Run it again."
            )
        return len(self._values) - 1

    def recreate(self) -> None:
        """Replace the topic with an empty one of the same name."""
        self._identity = (self._identity[0], uuid.uuid4().hex)
        self._values = []

    def reattach(self) -> None:
        """Accept the topic as it is now, like a new process."""
        self._attached_topic_id = None

    def snapshot(self) -> tuple[tuple[str, str], list[LedgerRecord]]:
        """The current topic's identity and records, whatever this object is attached to."""
        self._check_available()
        return self._identity, [
            LedgerRecord(offset, value) for offset, value in enumerate(self._values)
        ]

    def _check_available(self) -> None:
        if self.unavailable:
            raise LogUnavailable(
                "The ledger in memory is set to unavailable.", "Unset `unavailable`."
            )

    def _check_attached(self) -> None:
        self._check_available()
        self._attached_topic_id = self._attached_topic_id or self._identity[1]
        if self._attached_topic_id != self._identity[1]:
            raise LedgerLost(
                "The ledger in memory was recreated.",
                "Restore the entries with `tidemill ledger restore`.",
            )
