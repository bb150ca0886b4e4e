"""Delivery of alerts to a real HTTP server and a real command, and its failures."""

import json
import logging
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from support.servers.http import running_http_server, send_response
from tidemill.adapters.alert import send
from tidemill.core.errors import AlertFailed

ALERT = {"alert": "rollback", "model": "tides", "what": "$(touch harm); `touch harm` \n"}


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[object]]]:
    """A server's URL and what it received.

    It rejects requests to the path `/503`, and redirects those to `/moved` to `/`.
    """
    received: list[object] = []

    def respond(request: BaseHTTPRequestHandler, body: bytes) -> None:
        assert request.headers["Content-Type"] == "application/json"
        if request.path == "/moved":
            send_response(request, 307, Location="/")
            return
        received.append(json.loads(body))
        send_response(request, 503 if request.path == "/503" else 204)

    with running_http_server(respond) as url:
        yield url, received


def test_a_webhook_receives_the_alert_as_json(webhook: tuple[str, list[object]]) -> None:
    url, received = webhook
    send(ALERT, webhook=url, command=None, timeout=10)
    assert received == [ALERT]


def test_webhook_is_found_behind_a_redirect_and_a_proxy(
    webhook: tuple[str, list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, received = webhook
    send(ALERT, webhook=f"{url}/moved", command=None, timeout=10)
    assert received == [ALERT]
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", url)
    monkeypatch.setenv("http_proxy", url)
    send(ALERT, webhook="http://hooks.invalid/", command=None, timeout=10)
    assert received == [ALERT, ALERT]


def test_webhooks_secret_path_is_not_logged(
    webhook: tuple[str, list[object]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    send(ALERT, webhook=f"{webhook[0]}/secret", command=None, timeout=10)
    assert "secret" not in caplog.text


def test_a_command_reads_the_alert_without_a_shell(tmp_path: Path) -> None:
    script = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())"
    command = [sys.executable, "-c", script, str(tmp_path / "$HOME alert.json")]
    send(ALERT, webhook=None, command=command, timeout=30)
    assert json.loads((tmp_path / "$HOME alert.json").read_text()) == ALERT
    assert [path.name for path in tmp_path.iterdir()] == ["$HOME alert.json"]


def test_a_webhook_that_fails_is_reported_without_its_secret_path(
    webhook: tuple[str, list[object]],
) -> None:
    with pytest.raises(AlertFailed, match=r"at 127\.0\.0\.1 answered 503") as error:
        send(ALERT, webhook=f"{webhook[0]}/503", command=None, timeout=10)
    assert "/503" not in str(error.value)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["/no/such/program"], "did not run (FileNotFoundError)"),
        ([sys.executable, "-c", "raise SystemExit(7)"], "exited with 7"),
    ],
)
def test_a_command_that_fails_is_reported(command: list[str], reason: str) -> None:
    with pytest.raises(AlertFailed) as error:
        send(ALERT, webhook=None, command=command, timeout=30)
    assert reason in error.value.message


def test_the_command_is_run_even_if_the_webhook_is_dead(tmp_path: Path) -> None:
    script = "import sys, pathlib; pathlib.Path(sys.argv[1]).touch()"
    command = [sys.executable, "-c", script, str(tmp_path / "executed")]
    with pytest.raises(AlertFailed, match="did not answer"):
        send(ALERT, webhook="http://127.0.0.1:1/", command=command, timeout=5)
    assert (tmp_path / "executed").exists()
