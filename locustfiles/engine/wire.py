"""The socket under a client: sends whole requests, waits for bytes, and knows when some came unasked."""

from __future__ import annotations

import select
import socket as stdlib_socket
from typing import Protocol

import greenlet
from gevent import get_hub, monkey, socket

# The originals: gevent's own try to read before they wait, and set up a watcher for every wait.
_Socket = monkey.get_original("socket", "socket")
_poll = monkey.get_original("select", "poll")


class Wire(Protocol):
    """A connected socket; each call may block the calling greenlet only, and raises OSError."""

    @property
    def unread(self) -> bool:
        """Whether the server hung up or sent something between two requests."""
        ...

    def send(self, data: bytes) -> None:
        """Send all of it."""
        ...

    def receive(self, buffer: bytearray) -> int:
        """Read what is there, at least a byte; 0 when the server has closed."""
        ...

    def shutdown(self) -> None:
        """End the connection under whoever waits for it."""
        ...

    def close(self) -> None:
        """Give the file descriptor back."""
        ...


class TcpWire:
    """TCP with one watcher for the life of the connection.

    gevent sets up a watcher, a waiter and an epoll change for each read, and reads in vain first; that
    together is half of what a small request costs.  Here the loop watches the socket all the time: who
    waits is switched to, and readiness while nobody waits is the answer to `unread`.
    """

    def __init__(self, connected: stdlib_socket.socket) -> None:
        self._sock: stdlib_socket.socket = _Socket(fileno=connected.detach())
        self._sock.setblocking(False)
        self._hub = get_hub()
        self._reader: greenlet.greenlet | None = None
        self.unread = False
        self._watcher = self._hub.loop.io(self._sock.fileno(), 1)
        self._watcher.start(self._on_readable)

    def _on_readable(self) -> None:
        if self._reader is not None:
            self._reader.switch()
        else:
            self.unread = True
            self._watcher.stop()  # or the loop would call again and again

    def send(self, data: bytes) -> None:
        """As `Wire.send`; nearly always one call, since a request fits the kernel's buffer."""
        left = data
        while True:
            try:
                sent = self._sock.send(left)
            except BlockingIOError:
                sent = 0
            if sent == len(left):
                return
            left = left[sent:]
            socket.wait_write(self._sock.fileno())

    def receive(self, buffer: bytearray) -> int:
        """As `Wire.receive`."""
        if self.unread:  # the answer began before the request was sent: the watcher has stopped
            self.unread = False
            self._watcher.start(self._on_readable)
        while True:
            self._reader = greenlet.getcurrent()
            try:
                self._hub.switch()
            finally:
                self._reader = None
            try:
                return self._sock.recv_into(buffer)
            except BlockingIOError:
                continue

    def shutdown(self) -> None:
        """As `Wire.shutdown`: the reader sees the end of the stream."""
        self._sock.shutdown(stdlib_socket.SHUT_RDWR)

    def close(self) -> None:
        """As `Wire.close`."""
        self._watcher.stop()
        self._watcher.close()
        self._sock.close()


class TlsWire:
    """TLS over gevent's own socket, which knows when a record wants more bytes, or to write."""

    def __init__(self, connected: stdlib_socket.socket) -> None:
        self._sock = connected
        self._poll = _poll()
        self._poll.register(connected.fileno(), select.POLLIN)

    @property
    def unread(self) -> bool:
        """As `Wire.unread`."""
        return bool(self._poll.poll(0))

    def send(self, data: bytes) -> None:
        """As `Wire.send`."""
        self._sock.sendall(data)

    def receive(self, buffer: bytearray) -> int:
        """As `Wire.receive`."""
        return self._sock.recv_into(buffer)

    def shutdown(self) -> None:
        """As `Wire.shutdown`."""
        self._sock.shutdown(stdlib_socket.SHUT_RDWR)

    def close(self) -> None:
        """As `Wire.close`."""
        self._sock.close()
