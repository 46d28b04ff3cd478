"""What every code-based server does with a request: decode, resize, normalise, infer, top 5.

A server adds only its framework around this, so that frameworks are compared and not preprocessing.
Needs torch, Pillow and numpy, nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from services.model.contract import (
    MAX_BATCH,
    MAX_BATCH_WAIT_S,
    MAX_BODY_BYTES,
    BadInput,
    Prediction,
    Settings,
    answer,
    answer_or_error,
    decode_base64,
    decode_request,
)

__all__ = [
    "MAX_BATCH",
    "MAX_BATCH_WAIT_S",
    "MAX_BODY_BYTES",
    "BadInput",
    "Classifier",
    "Prediction",
    "Settings",
    "answer",
    "answer_or_error",
    "decode_base64",
    "decode_request",
]

SIDE = 224
TOP = 5
MAX_PIXELS = 25_000_000
# TorchScript profiles the first runs and compiles at the second; the third is at full speed.
WARM_UP_RUNS = 4


class Classifier:
    """The BN-folded TorchScript export, ready to predict at full speed once constructed.

    The thread count is the process's: torch has one intra-op pool.
    """

    def __init__(self, model_dir: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._labels = (model_dir / "labels.txt").read_text(encoding="utf-8").splitlines()
        path = model_dir / "model.torchscript.pt"
        module = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
        self._module = torch.jit.optimize_for_inference(module)
        blank = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE)).save(blank, "JPEG")
        for _ in range(WARM_UP_RUNS):
            self.predict(blank.getvalue())

    def predict(self, encoded: bytes) -> list[Prediction]:
        """Return the five likeliest classes of a JPEG or PNG, likeliest first; BadInput if it is neither."""
        return self.top5(self.probabilities(prepare(encoded)))

    def predict_batch(
        self, bodies: Sequence[bytes], read: Callable[[bytes], bytes] = decode_request
    ) -> list[list[Prediction] | BadInput]:
        """Return the top 5 of each request's image, inferred at once, or what is wrong with the request.

        `read` takes the JPEG or PNG out of a body.
        """
        prepared = [_prepared(body, read) for body in bodies]
        batch = [each for each in prepared if isinstance(each, Tensor)]
        with torch.inference_mode():
            rows = iter(self._module(torch.cat(batch)) if batch else ())
        return [self.top5(next(rows)) if isinstance(each, Tensor) else each for each in prepared]

    def top5(self, probabilities: Tensor) -> list[Prediction]:
        """Return the five likeliest classes of [classes] probabilities, likeliest first."""
        confidences, ids = probabilities.topk(TOP)
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


def _prepared(body: bytes, read: Callable[[bytes], bytes]) -> Tensor | BadInput:
    try:
        return prepare(read(body))
    except BadInput as error:
        return error


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
    except UnidentifiedImageError:
        raise BadInput("the bytes that were sent are not a JPEG or PNG image") from None
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
