"""The feed of the ledger in memory, as a server follows it."""

import time

from tidemill.adapters.memory.ledger import MemoryLedger
from tidemill.core.event_log import LedgerPoll


class MemoryFeed:
    """A `LedgerFeed` of a ledger in memory."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self._topic = ""
        self._position = 0

    def poll(self, timeout_seconds: float) -> LedgerPoll:
        deadline = time.monotonic() + timeout_seconds
        while True:
            (_, topic), records = self._ledger.snapshot()
            reset = self._topic not in ("", topic)
            start = 0 if reset else self._position
            if reset or len(records) > start or time.monotonic() >= deadline:
                self._topic, self._position = topic, len(records)
                return LedgerPoll(tuple(records[start:]), 0, reset)
            time.sleep(0.002)

    def close(self) -> None:
        """Do nothing: there are no connections."""
