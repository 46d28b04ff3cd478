"""The probe's first question, whether a server is ready."""

import socket
from concurrent.futures import ThreadPoolExecutor

from scripts.ready import unwell

LONGER_THAN_ONE_READ = 100_000


def answer_once(listener: socket.socket) -> bytes:
    """Answer one request; return what comes when the client is done."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(5)
        connection.recv(4096)
        head = f"HTTP/1.1 503 Not Ready\r\nContent-Length: {LONGER_THAN_ONE_READ}\r\n\r\n"
        connection.sendall(head.encode() + bytes(LONGER_THAN_ONE_READ))
        return connection.recv(4096)


def test_whoever_asks_whether_it_is_ready_closes_without_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        server = pool.submit(answer_once, listener)
        assert unwell(f"http://127.0.0.1:{listener.getsockname()[1]}/health") == "GET /health answers 503"
        assert server.result() == b""  # a reset would be a ConnectionResetError
