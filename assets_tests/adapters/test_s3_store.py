"""Failures of S3-compatible storage: each is reported with its remedy, in bounded time."""

import socket
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from support.servers.http import free_port, running_http_server, send_response
from support.servers.s3 import KEY, SECRET, S3Server, write_credentials
from support.servers.tcp_fault_proxy import TcpProxy, running_tcp_proxy
from tidemill.adapters.s3 import S3Store
from tidemill.core.errors import SpecInvalid, StoreUnavailable


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.create_bucket(uuid.uuid4().hex)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[TcpProxy]:
    """A proxy in front of the server."""
    with running_tcp_proxy(int(s3.endpoint.rsplit(":", 1)[1]), free_port()) as running:
        yield running


def failure_message(store: S3Store) -> str:
    """The message and remedy of every method's error, which must be the same."""
    calls = [
        lambda: store.get("m/a"),
        lambda: store.put("m/a", b"x"),
        lambda: store.replace("m/a", b"x"),
        lambda: store.names("m/"),
        lambda: store.delete("m/a"),
    ]
    messages = set()
    for call in calls:
        with pytest.raises(StoreUnavailable) as caught:
            call()
        messages.add(caught.value.message.partition(": ")[2] + " " + caught.value.remedy)
    (message,) = messages
    return message


def test_a_bucket_that_is_not_there_is_no_empty_store(s3: S3Server) -> None:
    message = failure_message(s3.open_store("no-such-bucket", "a"))
    assert "NoSuchBucket" in message
    assert "change TIDEMILL_STORE" in message


@pytest.mark.parametrize(
    ("key", "secret", "code"),
    [("unknown", "s3cr3t", "XAdminUserNotFound"), (KEY, "s3cr3t", "SignatureDoesNotMatch")],
)
def test_rejected_keys_are_reported(
    s3: S3Server, bucket: str, tmp_path: Path, key: str, secret: str, code: str
) -> None:
    message = failure_message(
        s3.open_store(bucket, credentials=write_credentials(tmp_path / "keys", key, secret))
    )
    assert code in message
    assert "TIDEMILL_S3__CREDENTIALS" in message
    assert secret not in message


def test_a_wrong_region_is_reported(s3: S3Server, bucket: str) -> None:
    message = failure_message(s3.open_store(bucket, region="eu-west-1"))
    assert 'expecting "us-east-1"' in message
    assert "TIDEMILL_S3__REGION" in message


def test_an_unreachable_endpoint_is_reported_within_the_timeout(s3: S3Server) -> None:
    store = s3.open_store("bucket", timeout=0.3, endpoint=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(
        StoreUnavailable, match=r"no valid answer within 0.3 s.*TIDEMILL_S3__ENDPOINT"
    ):
        store.get("m/a")


def test_a_server_that_hangs_is_reported_within_the_timeout(s3: S3Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = s3.open_store(
            "bucket", timeout=1, endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        started_at = time.monotonic()
        with pytest.raises(StoreUnavailable, match="no valid answer within 1 s"):
            store.put("m/a", b"x")
        assert time.monotonic() - started_at < 10  # two requests of a second, on a busy machine


def test_missing_keys_are_reported(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailable, match=r"no keys were found.*AWS_ACCESS_KEY_ID"):
        S3Store("bucket", "", 0.3, s3.endpoint).get("m/a")


def test_keys_and_region_are_read_from_awss_own_variables(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert S3Store(bucket, "", 10).put("m/a", b"x")


@pytest.mark.parametrize("text", [None, "no ini file", "[other]\na = 1", "[default]\nx = s3cr3t"])
def test_an_invalid_credentials_file_is_reported_without_its_content(
    tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SpecInvalid, match=r"TIDEMILL_S3__CREDENTIALS") as caught:
        S3Store("bucket", "", 1, credentials=file)
    assert "s3cr3t" not in str(caught.value)


def test_two_prefixes_of_a_bucket_are_two_stores(s3: S3Server, bucket: str) -> None:
    one, other = s3.open_store(bucket, "one"), s3.open_store(bucket, "one-more")
    assert one.put("m/a", b"1")
    assert other.put("m/a", b"2")
    assert one.get("m/a") == b"1"
    assert list(one.names("")) == ["m/a"]


def test_a_put_whose_response_is_lost_is_looked_up(
    s3: S3Server, bucket: str, proxy: TcpProxy
) -> None:
    """The request succeeds, then the connection breaks, so its outcome is unknown at first."""
    store = s3.open_store(bucket, endpoint=f"http://127.0.0.1:{proxy.port}", timeout=3)
    proxy.call_after(1, proxy.reset_all)
    assert store.put("m/a", b"mine")
    assert s3.open_store(bucket).get("m/a") == b"mine"
    proxy.call_after(1, proxy.reset_all)
    assert not store.put("m/a", b"other")
    assert s3.open_store(bucket).get("m/a") == b"mine"


def test_a_read_through_a_breaking_connection_is_complete(
    s3: S3Server, bucket: str, proxy: TcpProxy
) -> None:
    data = bytes(range(256)) * 20_000
    s3.open_store(bucket).put("m/a", data)
    store = s3.open_store(bucket, endpoint=f"http://127.0.0.1:{proxy.port}", timeout=5)
    for break_connections in (proxy.reset_all, proxy.close_all):
        proxy.call_after(500_000, break_connections)
        assert store.get("m/a") == data


def accept_put(request: BaseHTTPRequestHandler, _: bytes) -> None:
    """Respond as storage without conditional puts, which ignores the header."""
    send_response(request, 200, ETag='"1"')


def test_storage_without_conditional_puts_is_refused(tmp_path: Path) -> None:
    with running_http_server(accept_put) as endpoint:
        store = S3Store("bucket", "", 5, endpoint, credentials=write_credentials(tmp_path / "keys"))
        with pytest.raises(StoreUnavailable, match="ignores `If-None-Match"):
            store.recover("m")
