"""HTTP on this machine: free ports, health checks, and servers in this process.

It needs the standard library only, for the tests that run without tidemill's environment.
"""

import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def free_port() -> int:
    """A port of the loopback interface that no socket uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def responds(url: str) -> bool:
    """Whether a server responds to a GET of this URL with success."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (OSError, HTTPException):
        return False


def send_response(
    request: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str
) -> None:
    """Respond to a request."""
    request.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)


@contextmanager
def running_http_server(
    respond: Callable[[BaseHTTPRequestHandler, bytes], None],
) -> Iterator[str]:
    """Serve POST and PUT on a free port until the end of the block; the server's URL.

    `respond` is called with each request and its body, in a thread of the connection.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            respond(self, self.rfile.read(int(self.headers["Content-Length"])))

        do_PUT = do_POST  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
