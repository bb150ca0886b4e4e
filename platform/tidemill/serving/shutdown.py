"""SIGTERM that arrives while the server is still importing its modules."""

import signal
import threading

shutdown_requested = threading.Event()
"""Whether SIGTERM has arrived. Code that installs other handlers checks this afterwards."""


def install_handler() -> None:
    """Remember SIGTERM from now on. (An import might swallow an exception raised by a handler.)"""
    signal.signal(signal.SIGTERM, lambda *_: shutdown_requested.set())
