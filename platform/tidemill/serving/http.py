"""HTTP as Granian hands it over: bodies within bounds, errors as status codes, tokens."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from tidemill.core.errors import (
    NotServed,
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


class NoSuchPath(TidemillError):
    """The server has no such path."""


class MethodNotAllowed(TidemillError):
    """The path takes other methods, which `allowed` names."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{path[:200]} does not take {method[:20]}.", f"Use {allowed}.")
        self.allowed = allowed


_STATUS_CODES: dict[type[TidemillError], int] = {
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
    """The rest of a request, and the way back (RSGI)."""

    async def __call__(self) -> bytes: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None: ...


@dataclass(frozen=True)
class HTTPResponse:
    """An answer."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = tuple(JSON_HEADERS)


def error_status(error: TidemillError) -> int:
    """The status code of a fault: 500 for what is not the client's to mend."""
    return next((code for kind, code in _STATUS_CODES.items() if isinstance(error, kind)), 500)


def error_headers(error: TidemillError) -> Headers:
    """The headers that go with a fault."""
    if isinstance(error, MethodNotAllowed):
        return [*JSON_HEADERS, ("allow", error.allowed)]
    if isinstance(error, Unauthorized):
        return [*JSON_HEADERS, ("www-authenticate", "Bearer")]
    if isinstance(error, NotServed):
        return [*JSON_HEADERS, ("retry-after", "1")]
    return JSON_HEADERS


@dataclass
class RequestLimits:
    """What a body may cost. `watch` ends those that take too long; it is a task of its own,
    because a timer for each request costs more than the request."""

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
                "The connection ended before the body.", "Send all of it; then wait for the answer."
            ) from None
        except asyncio.CancelledError:
            if task in self._read_started_at:
                raise  # nobody here has cancelled it
            task.uncancel()
            raise RequestTooSlow(
                f"The body did not come within {self.body_timeout_seconds:g} s.",
                "Send it faster, or raise TIDEMILL_SERVE__BODY_TIMEOUT.",
            ) from None
        finally:
            self._read_started_at.pop(task, None)

    async def cancel_overdue(self) -> None:
        """Cancel what has been reading for too long, for ever."""
        while True:
            await asyncio.sleep(min(self.body_timeout_seconds / 4, 1))
            cutoff = time.monotonic() - self.body_timeout_seconds
            for task, started_at in list(self._read_started_at.items()):  # the oldest first
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
                    f"The body comes in more than {self.max_chunks} chunks.",
                    "Send larger chunks, or a content length.",
                )
        return b"".join(parts)

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise RequestTooLarge(
                f"The body has more than {self.max_bytes} bytes.",
                "Ask in parts, or raise TIDEMILL_SERVE__MAX_BYTES.",
            )


def _parse_content_length(length: str) -> int:
    if not length.isascii() or not length.isdigit():
        raise RequestInvalid("The content length is no number.", "Send the right one.")
    return int(length[:20])


@dataclass(frozen=True)
class TokenAuth:
    """Asks for the token, if there is one."""

    token: str | None

    def check(self, scope: Scope) -> None:
        """Raises `Unauthorized`."""
        if self.token is None:
            return
        authorization = scope.headers.get("authorization") or ""
        if not hmac.compare_digest(authorization.encode(), f"Bearer {self.token}".encode()):
            raise Unauthorized(
                "The request does not carry the server's token.",
                "Send `Authorization: Bearer TOKEN`.",
            )
