"""What is sent and what must come back: the shared images with their stored top-5."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONFIDENCE_TOLERANCE = 1e-3
ROOT = Path(__file__).resolve().parents[2]

Answer = Sequence[tuple[int, float]]
"""The top-5 as (class id, confidence), best first."""


@dataclass(frozen=True)
class Image:
    """A test image: its name, payload class, JPEG bytes, and the top-5 that every export gives for it."""

    name: str
    payload: str
    jpeg: bytes
    top5: tuple[tuple[int, float], ...]

    def agrees(self, answer: Answer) -> bool:
        """Whether an answer is the stored one: the same classes in order, confidences within 1e-3."""
        return len(answer) == len(self.top5) and all(
            given == stored and abs(p - q) <= CONFIDENCE_TOLERANCE
            for (given, p), (stored, q) in zip(answer, self.top5, strict=True)
        )


def model_dir() -> Path:
    """The folder of the shared export: `MODELSWARM_MODEL_DIR`, else artifacts/model of this project."""
    return Path(os.environ.get("MODELSWARM_MODEL_DIR") or ROOT / "artifacts" / "model")


def load_images(payload: str, folder: Path) -> list[Image]:
    """The images of one payload class, or all of them for `mix`.

    Raises ValueError with a sentence when the export is not there, is broken, or has no such image.
    """
    try:
        rows = json.loads((folder / "images.json").read_text())
        images = [
            Image(
                name=Path(row["file"]).name,
                payload=row["payload"],
                jpeg=(folder / row["file"]).read_bytes(),
                top5=tuple((p["class_id"], p["confidence"]) for p in row["top5"]),
            )
            for row in rows
            if payload in ("mix", row["payload"])
        ]
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is missing: run `make setup` to make the test images") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / 'images.json'} cannot be read ({error!r}): run `make setup` again"
        ) from error
    if not images:
        raise ValueError(f"there is no {payload} image in {folder}: choose another --payload")
    return images
