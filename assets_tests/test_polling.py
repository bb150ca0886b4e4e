"""Waits and retries end at their timeout, and what must not be retried is raised at once."""

from collections.abc import Callable

import pytest

from tidemill.polling import retry, wait_until


def failing(times: int, error: BaseException) -> tuple[Callable[[], str], list[int]]:
    """A function that raises the error this many times, and the list of its calls."""
    calls: list[int] = []

    def function() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error
        return "result"

    return function, calls


def test_wait_ends_as_soon_as_the_predicate_is_true() -> None:
    results = [False, False, True]
    assert wait_until(lambda: results.pop(0), 60, 0.001)
    assert results == []


def test_wait_without_time_calls_the_predicate_once() -> None:
    calls: list[None] = []
    assert not wait_until(lambda: bool(calls.append(None)), 0)
    assert len(calls) == 1


def test_error_of_the_predicate_is_raised() -> None:
    predicate, calls = failing(1, ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        wait_until(lambda: bool(predicate()), 60)
    assert len(calls) == 1


def test_retry_returns_the_first_result() -> None:
    function, calls = failing(2, ConnectionError())
    assert retry(function, lambda error: isinstance(error, ConnectionError), 60) == "result"
    assert len(calls) == 3


def test_each_retry_is_prepared_with_the_error_and_the_last_error_is_not() -> None:
    errors: list[Exception] = []
    function, _ = failing(2, error := ConnectionError())
    assert retry(function, lambda _: True, 60, errors.append) == "result"
    assert errors == [error, error]
    function, _ = failing(1, error)
    with pytest.raises(ConnectionError):
        retry(function, lambda _: True, 0, errors.append)
    assert errors == [error, error]


def test_retry_raises_the_last_error_at_the_timeout() -> None:
    function, calls = failing(10, ConnectionError("no broker"))
    with pytest.raises(ConnectionError, match="no broker"):
        retry(function, lambda _: True, 0)
    assert len(calls) == 1


@pytest.mark.parametrize("error", [ValueError("invalid"), KeyboardInterrupt()])
def test_error_that_cannot_be_retried_is_raised_at_once(error: BaseException) -> None:
    function, calls = failing(1, error)
    with pytest.raises(type(error)):
        retry(function, lambda error: not isinstance(error, ValueError), 60)
    assert len(calls) == 1
