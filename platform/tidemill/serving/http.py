"""HTTP over Granian's RSGI: limits on bodies, status codes of errors, and the token."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from tidemill.core.errors import (
    NotServed,
    RequestError,
    RequestInvalid,
    RequestTooLarge,
    RequestTooSlow,
    RowInvalid,
    TidemillError,
    Unauthorized,
    UnknownModel,
)

Headers = list[tuple[str, str]]
JSON_HEADERS: Headers = [("content-type", "application/json")]


class NoSuchPath(RequestError):
    """The path does not exist."""


class MethodNotAllowed(RequestError):
    """The path does not support the method; `allowed` lists the methods that it supports."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{path[:200]} does not support {method[:20]}.", f"Use {allowed}.")
        self.allowed = allowed


_STATUS_CODES: dict[type[RequestError], int] = {
    RequestInvalid: 400,
    RowInvalid: 400,
    Unauthorized: 401,
    UnknownModel: 404,
    NoSuchPath: 404,
    MethodNotAllowed: 405,
    RequestTooSlow: 408,
    RequestTooLarge: 413,
    NotServed: 503,
}


class Scope(Protocol):
    """The head of a request (RSGI)."""

    proto: str
    method: str
    path: str
    query_string: str
    headers: Any


class Channel(Protocol):
    """The body of a request, and the means to respond (RSGI)."""

    async def __call__(self) -> bytes: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None: ...


@dataclass(frozen=True)
class HTTPResponse:
    """A response."""

    body: bytes
    status: int = 200


def error_status(error: TidemillError) -> int:
    """The status code of an error; 500 if the client cannot correct it."""
    return next((code for kind, code in _STATUS_CODES.items() if isinstance(error, kind)), 500)


def error_headers(error: TidemillError) -> Headers:
    """The headers of an error response."""
    if isinstance(error, MethodNotAllowed):
        return [*JSON_HEADERS, ("allow", error.allowed)]
    if isinstance(error, Unauthorized):
        return [*JSON_HEADERS, ("www-authenticate", "Bearer")]
    if isinstance(error, NotServed):
        return [*JSON_HEADERS, ("retry-after", "1")]
    return JSON_HEADERS


@dataclass
class RequestLimits:
    """Limits on request bodies.

    `cancel_overdue` cancels reads that take too long. It runs as a single task, because a timer per
    request would cost more than the request.
    """

    max_bytes: int
    max_chunks: int
    body_timeout_seconds: float
    _read_started_at: dict["asyncio.Task[Any]", float] = field(default_factory=dict, init=False)

    async def read_body(self, scope: Scope, channel: Channel) -> bytes:
        """The body. Raises `RequestTooLarge`, `RequestTooSlow`, `RequestInvalid`."""
        length = scope.headers.get("content-length")
        if length is not None:
            self._check_size(_parse_content_length(length))
        task = asyncio.current_task()
        assert task is not None
        self._read_started_at[task] = time.monotonic()
        try:
            return await (self._read_chunks(channel) if length is None else channel())
        except ProtocolClosed:
            raise RequestInvalid(
                "The connection was closed before the end of the body.",
                "Send the whole body, then wait for the response.",
            ) from None
        except asyncio.CancelledError:
            if task in self._read_started_at:
                raise  # it was not cancelled by `cancel_overdue`
            task.uncancel()
            raise RequestTooSlow(
                f"The body did not arrive within {self.body_timeout_seconds:g} s.",
                "Send it faster, or raise TIDEMILL_SERVE__BODY_TIMEOUT.",
            ) from None
        finally:
            self._read_started_at.pop(task, None)

    async def cancel_overdue(self) -> None:
        """Cancel reads that take too long, until this task is cancelled."""
        while True:
            await asyncio.sleep(min(self.body_timeout_seconds / 4, 1))
            cutoff = time.monotonic() - self.body_timeout_seconds
            for task, started_at in list(self._read_started_at.items()):  # oldest first
                if started_at > cutoff:
                    break
                del self._read_started_at[task]
                task.cancel()

    async def _read_chunks(self, channel: Channel) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in channel:
            parts.append(part)
            size += len(part)
            self._check_size(size)
            if len(parts) > self.max_chunks:
                raise RequestTooLarge(
                    f"The body has more than {self.max_chunks} chunks.",
                    "Send larger chunks, or a Content-Length header.",
                )
        return b"".join(parts)

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise RequestTooLarge(
                f"The body has more than {self.max_bytes} bytes.",
                "Split the request, or raise TIDEMILL_SERVE__MAX_BYTES.",
            )


def _parse_content_length(length: str) -> int:
    if not length.isascii() or not length.isdigit():
        raise RequestInvalid(
            "The Content-Length is not a number.", "Send the length of the body in bytes."
        )
    return int(length[:20])


@dataclass(frozen=True)
class TokenAuth:
    """Requires the token, if one is configured."""

    token: str | None

    def check(self, scope: Scope) -> None:
        """Raise `Unauthorized` unless the request carries the token."""
        if self.token is None:
            return
        authorization = scope.headers.get("authorization") or ""
        if not hmac.compare_digest(authorization.encode(), f"Bearer {self.token}".encode()):
            raise Unauthorized(
                "The request does not carry the server's token.",
                "Send `Authorization: Bearer TOKEN`.",
            )
