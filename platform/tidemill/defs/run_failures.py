"""Reads from Dagster's event log why a run has failed."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from tidemill.core.retry_policy import CANCELED, WindowFailure


def window_failure(instance: dg.DagsterInstance, run: dg.DagsterRun, window: str) -> WindowFailure:
    """The failure of a run; `window` is used if the run does not name its window."""
    if run.status == dg.DagsterRunStatus.CANCELED:
        return WindowFailure(window, CANCELED, f"Run {run.run_id} was canceled.")
    failures = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    for entry in failures:
        assert entry.dagster_event is not None
        step_failure = entry.dagster_event.step_failure_data
        user_failure = step_failure.user_failure_data
        metadata = {
            name: value.value
            for name, value in (user_failure.metadata if user_failure else {}).items()
        }
        message = (user_failure.description if user_failure else None) or str(
            step_failure.error_display_string
        )[:2000]
        return WindowFailure(
            _text(metadata, "window", window), _text(metadata, "error", "Unnamed"), message
        )
    return WindowFailure(window, "RunLost", f"Run {run.run_id} ended without an error message.")


def _text(metadata: Mapping[str, Any], name: str, default: str) -> str:
    value = metadata.get(name)
    return value if isinstance(value, str) else default
