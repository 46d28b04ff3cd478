"""The probe's questions: whether a server is ready, and whether its answers are right."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from locustfiles.tensorflow_serving_user import TensorflowServingUser
from scripts.probe import Probe
from scripts.ready import unwell

LONGER_THAN_ONE_READ = 100_000


def answer_once(listener: socket.socket, status: str, body: bytes) -> bytes:
    """Answer one request; return what comes when the client is done."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(5)
        connection.recv(4096)
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        return connection.recv(4096)


def test_whoever_asks_whether_it_is_ready_closes_without_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        server = pool.submit(answer_once, listener, "503 Not Ready", bytes(LONGER_THAN_ONE_READ))
        assert unwell(f"http://127.0.0.1:{listener.getsockname()[1]}/health") == "GET /health answers 503"
        assert server.result() == b""  # a reset would be a ConnectionResetError


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        pytest.param(b'{"predictions": []}', "unreadable answer (IndexError: list", id="no row"),
        pytest.param(b'{"predictions": [[0.9, 0.1]]}', "answered [0, 1], stored are [281]", id="another"),
    ],
)
def test_a_wrong_answer_is_described(
    body: bytes, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"a picture")
    (tmp_path / "images.json").write_text(
        json.dumps([{"file": "cat.jpg", "payload": "small", "top5": [{"class_id": 281, "confidence": 0.9}]}])
    )
    monkeypatch.setenv("MODELSWARM_MODEL_DIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        server = pool.submit(answer_once, listener, "200 OK", body)
        probe = Probe(TensorflowServingUser, f"http://127.0.0.1:{listener.getsockname()[1]}", "")
        wrong = probe.wrong(0)
        probe.user.on_stop()
        server.result()
    assert wrong is not None
    assert wrong.startswith(f"cat.jpg: {sentence}")
