"""A wish to end that comes while the server still loads what it is made of."""

import signal
import threading

shutdown_requested = threading.Event()
"""Whether it came. Who puts handlers of their own in place looks here afterwards."""


def install_handler() -> None:
    """From here on SIGTERM is remembered. (Raised as an exception, an import might swallow it.)"""
    signal.signal(signal.SIGTERM, lambda *_: shutdown_requested.set())
