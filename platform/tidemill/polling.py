"""Waits and retries until a timeout."""

import time
from collections.abc import Callable
from typing import TypeVar

_INTERVAL_SECONDS = 0.05
T = TypeVar("T")


def wait_until(
    predicate: Callable[[], bool],
    timeout_seconds: float,
    interval_seconds: float = _INTERVAL_SECONDS,
) -> bool:
    """Call the predicate until it is true; False if it is not at the timeout.

    It is called at least once, and for the last time after the timeout. Its exceptions are raised.
    """
    deadline = time.monotonic() + timeout_seconds
    while not predicate():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval_seconds)
    return True


def retry(
    function: Callable[[], T], can_retry: Callable[[Exception], bool], timeout_seconds: float
) -> T:
    """The result of the function, which is called again if it raises, until the timeout.

    `can_retry` is called with the error, and may prepare the next call. An error that cannot be
    retried, or that comes after the timeout, is raised.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return function()
        except Exception as error:
            if time.monotonic() > deadline or not can_retry(error):
                raise
        time.sleep(_INTERVAL_SECONDS)
