"""The ledger in memory as a server follows it."""

import time

from tidemill.adapters.memory.log import MemoryLedger
from tidemill.core.log import LedgerPoll


class MemoryFeed:
    """A `LedgerFeed` of a ledger in memory."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self._topic = ""
        self._position = 0

    def wait(self, seconds: float) -> LedgerPoll:
        until = time.monotonic() + seconds
        while True:
            (_, topic), records = self._ledger.seen()
            anew = self._topic not in ("", topic)
            start = 0 if anew else self._position
            if anew or len(records) > start or time.monotonic() >= until:
                self._topic, self._position = topic, len(records)
                return LedgerPoll(tuple(records[start:]), 0, anew)
            time.sleep(0.002)

    def close(self) -> None:
        """Nothing is held."""
