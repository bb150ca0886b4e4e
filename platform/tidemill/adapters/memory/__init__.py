"""Every port in memory, for scratch work and for tests, including users' own tests."""

from tidemill.adapters.memory.event_log import MemoryLog
from tidemill.adapters.memory.feed import MemoryFeed
from tidemill.adapters.memory.ledger import MemoryLedger
from tidemill.adapters.memory.store import MemoryStore, OverlayStore
from tidemill.adapters.memory.tracker import MemoryTracker
from tidemill.adapters.memory.validator import InProcessValidator

__all__ = [
    "InProcessValidator",
    "MemoryFeed",
    "MemoryLedger",
    "MemoryLog",
    "MemoryStore",
    "MemoryTracker",
    "OverlayStore",
]
