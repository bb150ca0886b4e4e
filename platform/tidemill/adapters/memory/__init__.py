"""Every port in memory, for scratch work and for tests: also those of users."""

from tidemill.adapters.memory.feed import MemoryFeed
from tidemill.adapters.memory.log import MemoryLedger, MemoryLog
from tidemill.adapters.memory.prover import LocalProver
from tidemill.adapters.memory.store import MemoryStore, Overlay

__all__ = ["LocalProver", "MemoryFeed", "MemoryLedger", "MemoryLog", "MemoryStore", "Overlay"]
