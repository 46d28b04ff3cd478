"""What the servers share and what needs no ML library: requests, answers, settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.model.contract import (
    MAX_BODY_BYTES,
    BadInput,
    Prediction,
    Settings,
    answer,
    decode_base64,
    decode_request,
)


class TestDecodeRequest:
    def test_returns_the_bytes_inside(self) -> None:
        assert decode_request(b'{"image_base64": "aGVsbG8=", "more": 1}') == b"hello"

    def test_says_which_status_fits(self) -> None:
        with pytest.raises(BadInput) as small:
            decode_request(b"{}")
        with pytest.raises(BadInput) as large:
            decode_request(b" " * (16 * 2**20 + 1))
        assert (small.value.status, large.value.status) == (400, 413)

    def test_keeps_the_parsers_own_message_short(self) -> None:
        with pytest.raises(BadInput) as caught:
            decode_request(b"\xff" * 100_000)
        assert len(str(caught.value)) < 250


class TestDecodeBase64:
    @pytest.mark.parametrize("text", ["aGVsbG8=", b"aGVsbG8="])
    def test_returns_the_bytes_that_text_or_bytes_stand_for(self, text: str | bytes) -> None:
        assert decode_base64(text, "image") == b"hello"

    @pytest.mark.parametrize("text", ["!?", "AAA", "äöü", "\ud800", "AA AA", b"\xff\xfe"])
    def test_names_the_field_that_holds_something_else(self, text: str | bytes) -> None:
        with pytest.raises(BadInput, match=r"^binData is not base64; use the standard alphabet") as caught:
            decode_base64(text, "binData")
        assert caught.value.status == 400

    def test_refuses_more_than_a_body_may_hold(self) -> None:
        with pytest.raises(BadInput, match=r"^b64 is larger than 16 MiB") as caught:
            decode_base64("A" * (MAX_BODY_BYTES + 4), "b64")
        assert caught.value.status == 413


class TestAnswer:
    def test_has_the_top_prediction_twice(self) -> None:
        assert answer([Prediction(281, "tabby", 0.85), Prediction(282, "tiger cat", 0.1)]) == {
            "predictions": [
                {"class_id": 281, "class_name": "tabby", "confidence": 0.85},
                {"class_id": 282, "class_name": "tiger cat", "confidence": 0.1},
            ],
            "top_prediction": "tabby",
            "confidence": 0.85,
        }


class TestSettings:
    @pytest.fixture
    def model_dir(self, tmp_path: Path) -> Path:
        (tmp_path / "model.torchscript.pt").write_bytes(b"")
        return tmp_path

    def test_come_from_the_environment(self, model_dir: Path) -> None:
        env = {"MODELSWARM_THREADS": "4", "MODELSWARM_WORKERS": "2", "MODELSWARM_MODEL_DIR": str(model_dir)}
        assert Settings.from_env(env) == Settings(model_dir, threads=4, workers=2)

    def test_default_to_one_core(self, model_dir: Path) -> None:
        env = {"MODELSWARM_MODEL_DIR": str(model_dir)}
        assert Settings.from_env(env) == Settings(model_dir, threads=1, workers=1)

    def test_a_folder_without_an_export_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="holds no export; `modelswarm setup` makes one"):
            Settings.from_env({"MODELSWARM_MODEL_DIR": str(tmp_path)})

    @pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "²"])
    def test_a_bad_count_is_named_with_what_to_write(self, model_dir: Path, text: str) -> None:
        with pytest.raises(ValueError, match=r"MODELSWARM_THREADS=.*whole number from 1"):
            Settings.from_env({"MODELSWARM_MODEL_DIR": str(model_dir), "MODELSWARM_THREADS": text})
