"""The clock of the machine."""

import time


def now_ms() -> int:
    """Milliseconds since 1970-01-01 UTC: the port `Clock`."""
    return time.time_ns() // 1_000_000
