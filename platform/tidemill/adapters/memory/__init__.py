"""Every port in memory, for scratch work and for tests: also those of users."""

from tidemill.adapters.memory.event_log import MemoryLedger, MemoryLog
from tidemill.adapters.memory.feed import MemoryFeed
from tidemill.adapters.memory.store import MemoryStore, OverlayStore
from tidemill.adapters.memory.validator import InProcessValidator

__all__ = [
    "InProcessValidator",
    "MemoryFeed",
    "MemoryLedger",
    "MemoryLog",
    "MemoryStore",
    "OverlayStore",
]
