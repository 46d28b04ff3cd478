"""The shared contract, on every framework that has it: what `test_conformance` asks of all comes on top."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.services.environments import facts_of, names
from tests.services.servers import Server, alive, started, until, wrapped

pytestmark = pytest.mark.server

PREDICTING = [name for name in names() if facts_of(name)["protocol"] == "predict"]


@pytest.fixture(scope="module", params=PREDICTING)
def server(
    request: pytest.FixtureRequest, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with started(request.param, model_dir, tmp_path_factory.mktemp(request.param)) as server:
        ready = until(server.is_ready, server.facts["local"]["ready_timeout_s"])
        assert ready, f"{server.name} was not ready in time:\n{server.log.read_text()[-3000:]}"
        yield server


@pytest.fixture(scope="module")
def images(model_dir: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((model_dir / "images.json").read_text(encoding="utf-8"))
    return [entry | {"jpeg": (model_dir / entry["file"]).read_bytes()} for entry in entries]


@pytest.fixture(scope="module")
def photograph(images: list[dict[str, Any]]) -> Image.Image:
    return Image.open(io.BytesIO(next(image["jpeg"] for image in images if image["payload"] == "medium")))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class TestPredictions:
    def test_an_answer_has_the_contracts_fields_and_no_others(
        self, server: Server, images: list[dict[str, Any]]
    ) -> None:
        body = server.post(wrapped(images[0]["jpeg"])).body
        assert set(body) == {"predictions", "top_prediction", "confidence"}
        assert all(set(entry) == {"class_id", "class_name", "confidence"} for entry in body["predictions"])
        assert body["top_prediction"] == body["predictions"][0]["class_name"]
        assert body["confidence"] == body["predictions"][0]["confidence"]

    def test_the_content_type_does_not_matter(self, server: Server, images: list[dict[str, Any]]) -> None:
        for content_type in ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain"):
            assert server.post(wrapped(images[0]["jpeg"]), content_type).status == 200


class TestUnusualImages:
    """Each is answered as the plain RGB picture that it shows."""

    def same(self, server: Server, image: bytes, plain: Image.Image) -> None:
        answer, expected = server.post(wrapped(image)), server.post(wrapped(encoded(plain, "PNG")))
        assert answer.status == 200, answer.body
        assert answer.top5 == expected.top5
        assert answer.body["confidence"] == pytest.approx(expected.body["confidence"], abs=1e-5)

    def test_greyscale_jpeg(self, server: Server, photograph: Image.Image) -> None:
        jpeg = encoded(photograph.convert("L"), "JPEG")
        self.same(server, jpeg, Image.open(io.BytesIO(jpeg)).convert("RGB"))

    def test_cmyk_jpeg(self, server: Server, photograph: Image.Image) -> None:
        jpeg = encoded(photograph.convert("CMYK"), "JPEG")
        self.same(server, jpeg, Image.open(io.BytesIO(jpeg)).convert("RGB"))

    def test_png_with_alpha_is_laid_on_white(self, server: Server, photograph: Image.Image) -> None:
        see_through = photograph.convert("RGBA")
        see_through.putalpha(Image.linear_gradient("L").resize(photograph.size))
        white = Image.new("RGBA", photograph.size, "white")
        self.same(
            server, encoded(see_through, "PNG"), Image.alpha_composite(white, see_through).convert("RGB")
        )

    def test_palette_png(self, server: Server, photograph: Image.Image) -> None:
        palette = photograph.quantize(64)
        self.same(server, encoded(palette, "PNG"), palette.convert("RGB"))

    def test_progressive_jpeg_of_one_pixel(self, server: Server) -> None:
        one = Image.new("RGB", (1, 1), "teal")
        assert server.post(wrapped(encoded(one, "JPEG", progressive=True))).status == 200


TINY = encoded(Image.effect_noise((64, 64), 90), "JPEG")
BOMB = encoded(Image.new("1", (8000, 5000)), "PNG")
BAD_BODIES = {
    "empty": (b"", "JSON|image_base64"),  # BentoML makes {} of it
    "not JSON": (b"hello", "not JSON"),
    "not UTF-8": (b'{"image_base64": "\xff\xfe"}', "not JSON"),
    "a JSON array": (b"[]", "not a JSON object"),
    "a JSON number": (b"1", "not a JSON object"),
    "nested too deeply": (b'{"image_base64":' + b"[" * 100_000, "nested too deeply"),
    "a number with too many digits": (b'{"image_base64":' + b"9" * 10_000 + b"}", "not JSON"),
    "no field": (b'{"image": "AAAA"}', "image_base64 is missing"),
    "null": (b'{"image_base64": null}', "not a string"),
    "NaN": (b'{"image_base64": NaN}', "not a string"),
    "a list": (b'{"image_base64": ["AAAA"]}', "not a string"),
    "an empty string": (b'{"image_base64": ""}', "empty"),
    "not base64": (b'{"image_base64": "!?"}', "not base64"),
    "base64 without padding": (b'{"image_base64": "AAA"}', "not base64"),
    "not ASCII": ('{"image_base64": "äöü"}'.encode(), "not base64"),
    "a lone surrogate": (b'{"image_base64": "\\ud800"}', "not base64"),
    "a data URL": (b'{"image_base64": "data:image/jpeg;base64,AAAA"}', "data: prefix"),
    "not an image": (wrapped(b"hello"), "not a JPEG or PNG"),
    "a GIF": (wrapped(encoded(Image.new("L", (8, 8)), "GIF")), "not a JPEG or PNG"),
    "a truncated JPEG": (wrapped(TINY[: len(TINY) // 2]), "cannot be decoded"),
    "the head of a JPEG": (wrapped(TINY[:20]), "JPEG"),
    "a truncated PNG": (wrapped(encoded(Image.effect_noise((64, 64), 90), "PNG")[:500]), "cannot be decoded"),
    "40 megapixels": (wrapped(BOMB), "8000x5000 pixels"),
    "900 megapixels": (wrapped(encoded(Image.new("1", (30_000, 30_000)), "PNG")), "pixels"),
    "16 bits per channel": (wrapped(encoded(Image.new("I;16", (8, 8)), "PNG")), "16 or more bits"),
    "too much": (b'{"image_base64": "' + b"A" * 17 * 2**20 + b'"}', "larger than 16 MiB"),
}


class TestBadInput:
    @pytest.mark.parametrize("name", BAD_BODIES)
    def test_is_answered_with_4xx_and_a_sentence(self, server: Server, name: str) -> None:
        body, expected = BAD_BODIES[name]
        response = server.post(body)
        assert 400 <= response.status < 500, response.body
        assert set(response.body) == {"error"}
        assert any(words in response.body["error"] for words in expected.split("|")), response.body

    def test_a_client_that_goes_away_while_it_sends_does_no_harm(self, server: Server) -> None:
        logged = server.log.stat().st_size
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n{")
        assert server.post(b"{}").status == 400
        if server.name != "bentoml":  # which logs it as its own failure
            assert b"Traceback" not in server.log.read_bytes()[logged:]

    def test_unknown_paths_and_methods_are_4xx(self, server: Server) -> None:
        assert server.get("/nowhere").status == 404
        assert server.get("/predict").status == 405

    def test_the_server_is_as_well_as_before(self, server: Server, images: list[dict[str, Any]]) -> None:
        assert server.get("/health").status == 200
        assert server.post(wrapped(images[0]["jpeg"])).top5 == [
            entry["class_id"] for entry in images[0]["top5"]
        ]


class TestMetrics:
    def test_are_in_prometheus_text_where_service_toml_names_them(self, server: Server) -> None:
        if "metrics_path" not in server.facts:
            pytest.skip(f"{server.name} offers no metrics on its port")
        metrics = server.get(server.facts["metrics_path"])
        assert metrics.status == 200
        assert "# TYPE" in metrics.body


class TestEarlyEnd:
    @pytest.mark.parametrize("name", PREDICTING)
    @pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
    def test_a_signal_during_start_up_leaves_no_process(
        self, name: str, sign: signal.Signals, model_dir: Path, tmp_path: Path
    ) -> None:
        if (name, sign) == ("bentoml", signal.SIGKILL):
            pytest.skip(
                "BentoML gives each worker a session of its own: who kills the arbiter must kill them"
            )
        with started(name, model_dir, tmp_path) as server:
            assert until(lambda: server.log.stat().st_size > 0 or len(server.family.members()) > 3, 30)
            family = server.family.members()
            os.killpg(server.process.pid, sign)
            server.process.wait(server.facts["local"]["stop_timeout_s"])
            assert until(lambda: not alive(family), 10), alive(family)

    def test_sigkill_of_a_cluster_that_serves_leaves_no_process(
        self, model_dir: Path, tmp_path: Path
    ) -> None:
        # Ray's agents look for their raylet only now and then.
        with started("ray_serve", model_dir, tmp_path) as server:
            assert until(server.is_ready, 120), server.log.read_text()[-3000:]
            family = server.family.members()
            os.killpg(server.process.pid, signal.SIGKILL)
            assert until(lambda: not alive(family), 5), alive(family)

    @pytest.mark.parametrize("name", PREDICTING)
    def test_without_an_export_it_ends_by_itself_and_says_why(self, name: str, tmp_path: Path) -> None:
        with started(name, tmp_path / "nowhere", tmp_path) as server:
            assert server.process.wait(60) != 0
            assert "nowhere holds no export; `modelswarm setup` makes one" in server.log.read_text()
