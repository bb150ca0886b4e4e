"""The errors that Airflow waits for are tidemill's, and a retry can fix each of them."""

from support.error_classes import leaf_errors
from tidemill_airflow.factory import RETRYABLE_ERRORS


def test_each_error_that_airflow_retries_is_retryable_in_tidemill() -> None:
    kinds = leaf_errors()
    assert all(kinds[name].retryable for name in RETRYABLE_ERRORS)
    assert {name for name, kind in kinds.items() if kind.expected} <= set(RETRYABLE_ERRORS)
