"""Waits and retries until a timeout."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_result,
    stop_after_delay,
    wait_fixed,
)

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
    attempts = Retrying(
        stop=stop_after_delay(timeout_seconds),
        wait=wait_fixed(interval_seconds),
        retry=retry_if_result(lambda result: not result),
        retry_error_callback=lambda _: False,
    )
    return attempts(predicate)


def retry(
    function: Callable[[], T],
    can_retry: Callable[[Exception], bool],
    timeout_seconds: float,
    before_retry: Callable[[Exception], None] = lambda error: None,
) -> T:
    """The result of the function, which is called again if it raises, until the timeout.

    `before_retry` is called with the error before each further call. An error that cannot be
    retried, or that comes after the timeout, is raised at once.
    """

    def is_retryable(error: BaseException) -> bool:
        return isinstance(error, Exception) and can_retry(error)

    def prepare(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Exception):
            before_retry(error)

    attempts = Retrying(
        stop=stop_after_delay(timeout_seconds),
        wait=wait_fixed(_INTERVAL_SECONDS),
        retry=retry_if_exception(is_retryable),
        before_sleep=prepare,
        reraise=True,
    )
    return attempts(function)
