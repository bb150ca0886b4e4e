"""A TCP proxy that injects faults: it closes, resets, freezes or delays connections."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_NO_LINGER = struct.pack("ii", 1, 0)
_CHUNK_BYTES = 16_384


class TcpProxy:
    """Forwards connections to `port` of this machine to the port `target` of `host`.

    `delay_seconds` delays each chunk of a response, `refuse_connections` closes new connections at
    once, and while `frozen` no byte is forwarded in either direction and no connection is closed.
    Each can be changed at any time.
    """

    _reset_trigger: tuple[bytes, bool] | None = None

    def __init__(self, target: int, port: int, host: str = "127.0.0.1") -> None:
        self.target, self.port, self.host = target, port, host
        self.delay_seconds, self.frozen, self.refuse_connections = 0.0, False, False
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self._lock = threading.Lock()
        self._open: list[_Connection] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._bytes_remaining, self._callback = 0, _do_nothing
        self._threads[0].start()

    def call_after(self, byte_count: int, callback: Callable[[], None]) -> None:
        """Call `callback` once, after `byte_count` more bytes of responses."""
        with self._lock:
            self._bytes_remaining, self._callback = byte_count, callback

    def reset_on(self, request: bytes, *, forwarded: bool) -> None:
        """Reset the next connection that sends `request`, once.

        If `forwarded`, the request is forwarded and the connection is reset in place of the
        response; otherwise it is reset before the request is forwarded.
        """
        with self._lock:
            self._reset_trigger = request, forwarded

    @property
    def armed(self) -> bool:
        """Whether the reset of `reset_on` is still pending."""
        return self._reset_trigger is not None

    def close_all(self) -> None:
        """Close every connection in an orderly way."""
        for connection in self._take_connections():
            connection.close()

    def reset_all(self) -> None:
        """Reset every connection, as after a crash of the peer."""
        for connection in self._take_connections():
            connection.reset()

    def close(self) -> None:
        self.frozen = False
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        self.close_all()
        for thread in self._threads:
            thread.join()

    def _take_connections(self) -> "list[_Connection]":
        with self._lock:
            connections, self._open = self._open, []
        return connections

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self.refuse_connections:
                    raise ConnectionRefusedError
                upstream = socket.create_connection((self.host, self.target), 5)
            except OSError:
                client.close()
                continue
            upstream.settimeout(None)
            connection = _Connection(client, upstream)
            with self._lock:
                self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: "_Connection") -> None:
        client, upstream = connection.client, connection.upstream
        request_thread = threading.Thread(
            target=self._forward, args=(connection, client, upstream, False)
        )
        request_thread.start()
        self._forward(connection, upstream, client, True)
        request_thread.join()
        client.close()
        upstream.close()

    def _forward(
        self,
        connection: "_Connection",
        source: socket.socket,
        sink: socket.socket,
        is_response: bool,
    ) -> None:
        with suppress(OSError):
            while chunk := source.recv(_CHUNK_BYTES):
                if self._should_reset(connection, chunk, is_response):
                    break
                if is_response:
                    self._count_response_bytes(len(chunk))
                    time.sleep(self.delay_seconds)
                while self.frozen:
                    time.sleep(0.01)
                if connection.closed:
                    break
                sink.sendall(chunk)
        connection.shutdown_write(sink)

    def _should_reset(self, connection: "_Connection", chunk: bytes, is_response: bool) -> bool:
        """Whether the connection is reset at this chunk; notes if its response is to be dropped."""
        if is_response:
            due = connection.drop_response
        else:
            with self._lock:
                if self._reset_trigger is None or self._reset_trigger[0] not in chunk:
                    return False
                due, self._reset_trigger = not self._reset_trigger[1], None
            connection.drop_response = not due
        if due:
            connection.reset()
        return due

    def _count_response_bytes(self, byte_count: int) -> None:
        with self._lock:
            self._bytes_remaining -= byte_count
            due, callback = self._bytes_remaining <= 0, self._callback
            if due:
                self._callback = _do_nothing
        if due:
            callback()


@dataclass
class _Connection:
    """Both sides of a connection.

    `closed` means that nothing more is forwarded, `drop_response` that the next response resets it.
    """

    client: socket.socket
    upstream: socket.socket
    closed: bool = False
    drop_response: bool = False

    def close(self) -> None:
        self.closed = True
        for side in (self.client, self.upstream):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        self.closed = True
        for side in (self.client, self.upstream):
            with suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                side.shutdown(socket.SHUT_RD)  # wakes the reading thread without notifying the peer

    def shutdown_write(self, sink: socket.socket) -> None:
        """One side has closed its end; forward that to the other side."""
        if not self.closed:
            with suppress(OSError):
                sink.shutdown(socket.SHUT_WR)


@contextmanager
def running_tcp_proxy(target: int, port: int, host: str = "127.0.0.1") -> Iterator[TcpProxy]:
    """A proxy for a port of this machine or of `host`; at the end its connections are closed."""
    proxy = TcpProxy(target, port, host)
    try:
        yield proxy
    finally:
        proxy.close()


def _do_nothing() -> None:
    """The default callback."""
