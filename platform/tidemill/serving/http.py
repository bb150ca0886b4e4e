"""HTTP as Granian hands it over: bodies within bounds, errors as status codes, tokens."""

import asyncio
import hmac
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

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
JSON: Headers = [("content-type", "application/json")]


class NoSuchPath(TidemillError):
    """The server has no such path."""


class MethodNotAllowed(TidemillError):
    """The path takes other methods, which `allowed` names."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{path[:200]} does not take {method[:20]}.", f"Use {allowed}.")
        self.allowed = allowed


_STATUS: dict[type[TidemillError], int] = {
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
class Reply:
    """An answer."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = tuple(JSON)


def status_of(error: TidemillError) -> int:
    """The status code of a fault: 500 for what is not the client's to mend."""
    return next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)


def headers_of(error: TidemillError) -> Headers:
    """The headers that go with a fault."""
    if isinstance(error, MethodNotAllowed):
        return [*JSON, ("allow", error.allowed)]
    if isinstance(error, Unauthorized):
        return [*JSON, ("www-authenticate", "Bearer")]
    if isinstance(error, NotServed):
        return [*JSON, ("retry-after", "1")]
    return JSON


@dataclass(frozen=True)
class Bounds:
    """What a body may cost."""

    max_bytes: int
    max_chunks: int
    seconds: float

    async def body(self, scope: Scope, channel: Channel) -> bytes:
        """The body. Raises `RequestTooLarge`, `RequestTooSlow`, `RequestInvalid`."""
        try:
            async with asyncio.timeout(self.seconds):
                length = scope.headers.get("content-length")
                if length is None:
                    return await self._chunks(channel)
                if not length.isascii() or not length.isdigit():
                    raise RequestInvalid("The content length is no number.", "Send the right one.")
                self._check(int(length[:20]))
                return await channel()
        except TimeoutError as error:
            raise RequestTooSlow(
                f"The body did not come within {self.seconds:g} s.",
                "Send it faster, or raise TIDEMILL_SERVE__SECONDS.",
            ) from error

    async def _chunks(self, channel: Channel) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in channel:
            parts.append(part)
            size += len(part)
            self._check(size)
            if len(parts) > self.max_chunks:
                raise RequestTooLarge(
                    f"The body comes in more than {self.max_chunks} chunks.",
                    "Send larger chunks, or a content length.",
                )
        return b"".join(parts)

    def _check(self, size: int) -> None:
        if size > self.max_bytes:
            raise RequestTooLarge(
                f"The body has more than {self.max_bytes} bytes.",
                "Ask in parts, or raise TIDEMILL_SERVE__MAX_BYTES.",
            )


@dataclass(frozen=True)
class Guard:
    """Asks for the token, if there is one."""

    token: str | None

    def check(self, scope: Scope) -> None:
        """Raises `Unauthorized`."""
        if self.token is None:
            return
        told = scope.headers.get("authorization") or ""
        if not hmac.compare_digest(told.encode(), f"Bearer {self.token}".encode()):
            raise Unauthorized(
                "The request does not carry the server's token.",
                "Send `Authorization: Bearer TOKEN`.",
            )
