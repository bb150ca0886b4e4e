"""Delivers alerts to people: by an HTTP POST, by a command, or both."""

import json
import logging
import subprocess
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import httpx

from tidemill.core.errors import AlertFailed

# At lower levels they log each URL, which may contain a secret.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def send(
    alert: Mapping[str, object],
    *,
    webhook: str | None,
    command: Sequence[str] | None,
    timeout: float,
) -> None:
    """Post the alert as JSON to the webhook, and pass it to the command on its standard input.

    Both are attempted, each for at most `timeout` seconds. Raises `AlertFailed` if either fails.
    The webhook's URL may contain a secret, so the error names only its host.
    """
    body = json.dumps(alert)
    failures = [
        failure
        for failure in (
            _post(webhook, body, timeout) if webhook else None,
            _run(command, body, timeout) if command else None,
        )
        if failure
    ]
    if failures:
        raise AlertFailed(
            f"The alert could not be delivered: {'; '.join(failures)}.",
            "Delivery is retried; check TIDEMILL_ALERTS__WEBHOOK and TIDEMILL_ALERTS__COMMAND.",
        )


def _post(webhook: str, body: str, timeout: float) -> str | None:
    host = urlsplit(webhook).hostname
    try:
        response = httpx.post(
            webhook,
            content=body,
            headers={"Content-Type": "application/json"},
            timeout=timeout,
            follow_redirects=True,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"the webhook at {host} did not answer ({type(error).__name__})"
    if response.is_error:
        return f"the webhook at {host} answered {response.status_code}"
    return None


def _run(command: Sequence[str], body: str, timeout: float) -> str | None:
    try:
        result = subprocess.run(
            list(command), input=body.encode(), capture_output=True, timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the command {command[0]} did not run ({type(error).__name__})"
    return (
        None
        if result.returncode == 0
        else f"the command {command[0]} exited with {result.returncode}"
    )
