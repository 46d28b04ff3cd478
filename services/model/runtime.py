"""What every code-based server does with a request: decode, resize, normalise, infer, top 5.

A server adds only its framework around this, so that frameworks are compared and not preprocessing.
Needs torch, Pillow and numpy, nothing else.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

SIDE = 224
TOP = 5
# A 24-megapixel photograph in base64 fits well; more is an accident or an attack.
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_PIXELS = 25_000_000
# TorchScript profiles the first runs and compiles at the second; the third is at full speed.
WARM_UP_RUNS = 4


class BadInput(ValueError):
    """The client's mistake, as a sentence for the client; `status` is the HTTP status that says so."""

    def __init__(self, message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.status = status


class Prediction(NamedTuple):
    """One class of a top 5; `confidence` is its softmax probability."""

    class_id: int
    class_name: str
    confidence: float


@dataclass(frozen=True)
class Settings:
    """What a server takes from its environment, and nowhere else.

    `threads` is the number of intra-op threads of one inference, `workers` that of server processes.
    """

    model_dir: Path
    threads: int
    workers: int

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Read MODELSWARM_MODEL_DIR, MODELSWARM_THREADS and MODELSWARM_WORKERS; ValueError names a bad one."""
        return cls(
            model_dir=Path(env.get("MODELSWARM_MODEL_DIR", "artifacts/model")),
            threads=_count(env, "MODELSWARM_THREADS"),
            workers=_count(env, "MODELSWARM_WORKERS"),
        )


def _count(env: Mapping[str, str], name: str) -> int:
    text = env.get(name, "1")
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"{name}={text!r} is not a count; write a whole number from 1")
    return int(text)


class Classifier:
    """The BN-folded TorchScript export, ready to predict at full speed once constructed.

    The thread count is the process's: torch has one intra-op pool.
    """

    def __init__(self, model_dir: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._labels = (model_dir / "labels.txt").read_text(encoding="utf-8").splitlines()
        module = torch.jit.load(model_dir / "model.torchscript.pt", map_location="cpu").eval()
        self._module = torch.jit.optimize_for_inference(module)
        blank = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE)).save(blank, "JPEG")
        for _ in range(WARM_UP_RUNS):
            self.predict(blank.getvalue())

    def predict(self, encoded: bytes) -> list[Prediction]:
        """Return the five likeliest classes of a JPEG or PNG, likeliest first; BadInput if it is neither."""
        confidences, ids = self.probabilities(prepare(encoded)).topk(TOP)
        return [
            Prediction(class_id, self._labels[class_id], confidence)
            for class_id, confidence in zip(ids.tolist(), confidences.tolist(), strict=True)
        ]

    def probabilities(self, batch: Tensor) -> Tensor:
        """Return the [classes] probabilities of the one image in a prepared [1, 3, 224, 224] batch."""
        with torch.inference_mode():
            result: Tensor = self._module(batch)[0]
        return result


def prepare(encoded: bytes) -> Tensor:
    """Make the network's input, [1, 3, 224, 224], of a JPEG or PNG: whole image, bilinear with antialiasing.

    Resized as floats: Pillow rounds to bytes twice on the way, which no other library repeats, and which
    moves probabilities by 1e-3.
    """
    image = torch.from_numpy(decode(encoded)).permute(2, 0, 1).unsqueeze(0).float()
    return normalised(F.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True))


def normalised(image: Tensor) -> Tensor:
    """Map 0 … 255 to [-1, 1], as MobileNetV2 wants it."""
    return image / 127.5 - 1


def decode(encoded: bytes) -> np.ndarray[Any, Any]:
    """Decode a JPEG or PNG to [height, width, 3] bytes, RGB; BadInput if it is neither, damaged or too large.

    Alpha is laid on white; the orientation tag is ignored, as TensorFlow's decoder ignores it.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadInput(
                    f"the image has {image.width}x{image.height} pixels; "
                    f"at most {MAX_PIXELS // 10**6} megapixels are accepted"
                )
            return np.array(_rgb(image))
    except BadInput:
        raise
    except Image.UnidentifiedImageError:
        raise BadInput("the bytes in image_base64 are not a JPEG or PNG image") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise half a dozen types on damaged bytes
        raise BadInput(f"the image cannot be decoded: {error}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise BadInput("the image has 16 or more bits per channel; send 8")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def decode_request(body: bytes) -> bytes:
    """Return the encoded image inside a request's body; BadInput says what to send instead."""
    if len(body) > MAX_BODY_BYTES:
        raise BadInput(
            f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB; send a smaller image",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadInput(f'the body is not JSON ({_brief(error)}); send {{"image_base64": "…"}}') from None
    if not isinstance(request, dict):
        raise BadInput('the body is not a JSON object; send {"image_base64": "…"}')
    if "image_base64" not in request:
        raise BadInput("the field image_base64 is missing; it holds a JPEG or PNG in base64")
    text = request["image_base64"]
    if not isinstance(text, str):
        raise BadInput("image_base64 is not a string; it holds a JPEG or PNG in base64")
    if not text:
        raise BadInput("image_base64 is empty; it holds a JPEG or PNG in base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadInput(
            "image_base64 is not base64; use the standard alphabet with padding, "
            "without line breaks and without a data: prefix"
        ) from None


def _brief(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]


def answer(predictions: list[Prediction]) -> dict[str, Any]:
    """Return the response body of the contract for a top 5."""
    return {
        "predictions": [prediction._asdict() for prediction in predictions],
        "top_prediction": predictions[0].class_name,
        "confidence": predictions[0].confidence,
    }
