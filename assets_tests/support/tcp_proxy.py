"""A TCP proxy that harms what passes through it: closes, resets, holds, slows down."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_NO_LINGER = struct.pack("ii", 1, 0)
_PIECE = 16_384


class Proxy:
    """Passes on what comes to `port`, of this machine, to the port `target`, of `host`, and back.

    `pause` is how many seconds each piece of an answer waits, `refuses` ends new connections at
    once, and while `held` no byte moves in either direction and no connection ends. Each may be
    changed at any time.
    """

    _asked: tuple[bytes, bool] | None = None

    def __init__(self, target: int, port: int, host: str = "127.0.0.1") -> None:
        self.target, self.port, self.host = target, port, host
        self.pause, self.held, self.refuses = 0.0, False, False
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self._lock = threading.Lock()
        self._open: list[_Connection] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._left, self._then = 0, _nothing
        self._threads[0].start()

    def after(self, answered: int, then: Callable[[], None]) -> None:
        """Do this once, as soon as so many more bytes of answers have come."""
        with self._lock:
            self._left, self._then = answered, then

    def reset_at(self, asked: bytes, *, passed: bool) -> None:
        """Reset the next connection that asks this, once: before it is passed on, or when the
        answer comes, which nobody hears."""
        with self._lock:
            self._asked = asked, passed

    @property
    def armed(self) -> bool:
        """Whether that is still to come."""
        return self._asked is not None

    def close_all(self) -> None:
        """End every connection as a peer does that goes away in order."""
        for one in self._taken():
            one.close()

    def reset_all(self) -> None:
        """End every connection as a peer does that crashed: by RST."""
        for one in self._taken():
            one.reset()

    def end(self) -> None:
        self.held = False
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        self.close_all()
        for thread in self._threads:
            thread.join()

    def _taken(self) -> "list[_Connection]":
        with self._lock:
            taken, self._open = self._open, []
        return taken

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self.refuses:
                    raise ConnectionRefusedError
                far = socket.create_connection((self.host, self.target), 5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            connection = _Connection(near, far)
            with self._lock:
                self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: "_Connection") -> None:
        near, far = connection.near, connection.far
        asks = threading.Thread(target=self._pass_on, args=(connection, near, far, False))
        asks.start()
        self._pass_on(connection, far, near, True)
        asks.join()
        near.close()
        far.close()

    def _pass_on(
        self, connection: "_Connection", source: socket.socket, sink: socket.socket, answers: bool
    ) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                if self._resets(connection, piece, answers):
                    break
                if answers:
                    self._count(len(piece))
                    time.sleep(self.pause)
                while self.held:
                    time.sleep(0.01)
                if connection.cut:
                    break
                sink.sendall(piece)
        connection.half_over(sink)

    def _resets(self, connection: "_Connection", piece: bytes, answers: bool) -> bool:
        """Whether this very piece, or the answer to it, is where the connection is reset."""
        if answers:
            due = connection.unheard
        else:
            with self._lock:
                if self._asked is None or self._asked[0] not in piece:
                    return False
                due, self._asked = not self._asked[1], None
            connection.unheard = not due
        if due:
            connection.reset()
        return due

    def _count(self, answered: int) -> None:
        with self._lock:
            self._left -= answered
            due, then = self._left <= 0, self._then
            if due:
                self._then = _nothing
        if due:
            then()


@dataclass
class _Connection:
    """The two sides; `cut`: nothing more is passed on; `unheard`: with the next answer."""

    near: socket.socket
    far: socket.socket
    cut: bool = False
    unheard: bool = False

    def close(self) -> None:
        self.cut = True
        for one in (self.near, self.far):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        self.cut = True
        for one in (self.near, self.far):
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                one.shutdown(socket.SHUT_RD)  # wakes who waits for bytes, and tells nobody

    def half_over(self, sink: socket.socket) -> None:
        """One side has ended; so the other is told."""
        if not self.cut:
            with suppress(OSError):
                sink.shutdown(socket.SHUT_WR)


@contextmanager
def proxied(target: int, port: int, host: str = "127.0.0.1") -> Iterator[Proxy]:
    """A proxy before a port of this machine, or of `host`; its connections end with it."""
    proxy = Proxy(target, port, host)
    try:
        yield proxy
    finally:
        proxy.end()


def _nothing() -> None:
    """Nothing is to happen."""
