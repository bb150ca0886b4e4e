"""Requests as Granian passes them to the application (RSGI), without a server."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from tidemill.serving.app import App
from tidemill.serving.http import Headers


@dataclass
class Request:
    """The head of a request, its body, and the response."""

    path: str
    body: bytes
    query_string: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    proto: str = "http"
    status: int = 0
    response_body: bytes = b""

    def __post_init__(self) -> None:
        self.headers.setdefault("content-length", str(len(self.body)))

    async def __call__(self) -> bytes:
        return self.body

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        self.status, self.response_body = status, body

    async def send(self, app: App) -> Any:
        """The decoded body of the application's response; `status` has its status."""
        await app.__rsgi__(self, self)  # type: ignore[arg-type]
        return json.loads(self.response_body)


def send_request(app: App, request: Request) -> Any:
    """The decoded body of the response."""
    return asyncio.run(request.send(app))
