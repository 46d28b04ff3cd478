"""The HTTP contract of the code-based servers: requests, answers, settings. Needs no ML library."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

# A 24-megapixel photograph in base64 fits well; more is an accident or an attack.
MAX_BODY_BYTES = 16 * 1024 * 1024
# The largest image whose base64 fits into that, with some JSON around it.
MAX_IMAGE_BYTES = (MAX_BODY_BYTES - 1024) // 4 * 3
# Where a server batches: at most so many requests at once, waiting for one another at most so long.
MAX_BATCH, MAX_BATCH_WAIT_S = 8, 0.005


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

    `threads` is the number of intra-op threads of one inference, `workers` that of server processes;
    `batching` says whether a server that can infers several requests at once.
    """

    model_dir: Path
    threads: int
    workers: int
    batching: bool = False

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Read MODELSWARM_MODEL_DIR, _THREADS, _WORKERS and _BATCHING; ValueError names a bad one."""
        model_dir = Path(env.get("MODELSWARM_MODEL_DIR", "artifacts/model"))
        if not (model_dir / "model.torchscript.pt").is_file():
            raise ValueError(
                f"MODELSWARM_MODEL_DIR={model_dir} holds no export; `modelswarm setup` makes one"
            )
        return cls(
            model_dir=model_dir,
            threads=_count(env, "MODELSWARM_THREADS"),
            workers=_count(env, "MODELSWARM_WORKERS"),
            batching=_switch(env, "MODELSWARM_BATCHING"),
        )


def _count(env: Mapping[str, str], name: str) -> int:
    text = env.get(name, "1")
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"{name}={text!r} is not a count; write a whole number from 1")
    return int(text)


def _switch(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "false")
    if text not in ("true", "false"):
        raise ValueError(f"{name}={text!r} is neither true nor false")
    return text == "true"


def answer_or_error(result: list[Prediction] | BadInput) -> tuple[dict[str, Any], HTTPStatus]:
    """Return the body and status for one request of a batch."""
    if isinstance(result, BadInput):
        return {"error": str(result)}, result.status
    return answer(result), HTTPStatus.OK


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
    return decode_base64(text, "image_base64")


def decode_base64(text: str | bytes, field: str) -> bytes:
    """Return the image that a field of a request holds in base64; BadInput says what to send instead."""
    if len(text) > MAX_BODY_BYTES:
        raise BadInput(
            f"{field} is larger than {MAX_BODY_BYTES // 2**20} MiB; send a smaller image",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:  # binascii.Error is one
        raise BadInput(
            f"{field} is not base64; use the standard alphabet with padding, "
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
