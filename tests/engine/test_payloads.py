"""What is sent, and which answers are right."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from locustfiles.engine.payloads import ROOT, Image, load_images, model_dir

TOP5 = tuple((class_id, 0.5 / (class_id + 1)) for class_id in range(5))


def row(name: str, payload: str) -> dict[str, Any]:
    top5 = [{"class_id": c, "class_name": "none", "confidence": p} for c, p in TOP5]
    return {"file": f"images/{name}.jpg", "payload": payload, "bytes": 4, "top5": top5}


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A folder as the shared export has it, with two small images and a large one."""
    (tmp_path / "images").mkdir()
    for name in "abc":
        (tmp_path / "images" / f"{name}.jpg").write_bytes(f"jpeg {name}".encode())
    rows = [row("a", "small"), row("b", "large"), row("c", "small")]
    (tmp_path / "images.json").write_text(json.dumps(rows))
    return tmp_path


class TestImages:
    @pytest.mark.parametrize(
        ("payload", "names"),
        [("small", ["a.jpg", "c.jpg"]), ("large", ["b.jpg"]), ("mix", ["a.jpg", "b.jpg", "c.jpg"])],
    )
    def test_are_those_of_the_payload_class_in_their_order(
        self, export: Path, payload: str, names: list[str]
    ) -> None:
        assert [image.name for image in load_images(payload, export)] == names

    def test_come_with_their_bytes_and_the_stored_answer(self, export: Path) -> None:
        (image,) = load_images("large", export)
        assert image == Image("b.jpg", "large", b"jpeg b", TOP5)

    def test_are_refused_when_there_is_none_of_the_class(self, export: Path) -> None:
        with pytest.raises(ValueError, match=r"there is no medium image .*: choose another --payload"):
            load_images("medium", export)

    def test_are_refused_when_the_export_was_not_made(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"images.json is missing: run `make setup`"):
            load_images("mix", tmp_path)

    def test_are_refused_when_an_image_is_missing(self, export: Path) -> None:
        (export / "images" / "c.jpg").unlink()
        with pytest.raises(ValueError, match=r"c.jpg is missing: run `make setup`"):
            load_images("mix", export)

    @pytest.mark.parametrize("content", ["", "no json", "{}", "5", "[1]", '[{"file": "x"}]', '["x"]', "\xff"])
    def test_are_refused_when_their_list_is_broken(self, export: Path, content: str) -> None:
        (export / "images.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(ValueError, match=r"images.json cannot be read|there is no mix image"):
            load_images("mix", export)

    def test_are_looked_for_where_the_environment_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MODELSWARM_MODEL_DIR", "/somewhere")
        assert model_dir() == Path("/somewhere")
        monkeypatch.setenv("MODELSWARM_MODEL_DIR", "")
        assert model_dir() == ROOT / "artifacts" / "model"


class TestAnAnswer:
    IMAGE = Image("x.jpg", "small", b"", TOP5)

    def test_is_right_when_it_is_the_stored_one(self) -> None:
        assert self.IMAGE.agrees(TOP5)
        assert self.IMAGE.agrees([list(pair) for pair in TOP5])  # type: ignore[misc]  # as JSON has it

    @pytest.mark.parametrize(
        ("off", "right"), [(0.0009, True), (-0.0009, True), (0.0011, False), (-0.0011, False)]
    )
    def test_may_differ_by_a_thousandth_in_confidence(self, off: float, right: bool) -> None:
        assert self.IMAGE.agrees([(c, p + off * (c == 3)) for c, p in TOP5]) is right

    @pytest.mark.parametrize(
        "answer",
        [
            (),
            TOP5[:4],
            (*TOP5, (5, 0.0)),
            (TOP5[1], TOP5[0], *TOP5[2:]),
            ((99, TOP5[0][1]), *TOP5[1:]),
            ((0, math.nan), *TOP5[1:]),
        ],
        ids=["none", "four", "six", "another order", "another class", "not a number"],
    )
    def test_is_wrong_when_it_is_another(self, answer: tuple[tuple[int, float], ...]) -> None:
        assert not self.IMAGE.agrees(answer)
