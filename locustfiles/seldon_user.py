"""Seldon Core under load: `locust -f locustfiles/seldon_user.py --rate 50 [--protocol feedback]`."""

import base64
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from locustfiles.engine import ModelUser
from locustfiles.engine.payloads import Answer, Image
from locustfiles.engine.protocols import HttpProtocol, Protocol


def asked(image: Image) -> dict[str, str]:
    """A SeldonMessage with an image: `{"binData": "…"}`."""
    return {"binData": base64.b64encode(image.jpeg).decode()}


class Feedback(HttpProtocol):
    """What a caller tells afterwards: which request, which answer, what was true, what that is worth.

    Nothing is inferred, and what comes back is no prediction.
    """

    wrong = "wrong answer: not what Seldon says to feedback"

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """`{"request": …, "response": …, "truth": …, "reward": 1.0}`: the best class was the right one."""
        predictions = [{"class_id": k, "confidence": p} for k, p in image.top5]
        feedback = {
            "request": asked(image),
            "response": {"jsonData": {"predictions": predictions}, "meta": {}},
            "truth": {"data": {"ndarray": [image.top5[0][0]]}},
            "reward": 1.0,
        }
        return json.dumps(feedback).encode()

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """No answer to feedback holds a top 5."""
        raise ValueError("Seldon's answer to feedback")

    @classmethod
    def is_right(cls, image: Image, body: bytes) -> bool:
        """A SeldonMessage with an empty tensor, since the model has nothing to say to feedback."""
        message: dict[str, Any] = json.loads(body)
        return message["data"] == {"tensor": {"shape": [0]}} and "status" not in message


class SeldonUser(ModelUser):
    """A caller of services/seldon."""

    service = "seldon"
    protocols: ClassVar[Mapping[str, Protocol]] = {"feedback": Feedback}
    opens_ahead = False  # Gunicorn's worker reads the connection it accepted until a request has come

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """A SeldonMessage."""
        return json.dumps(asked(image)).encode()

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """`{"jsonData": {"predictions": [{"class_id", "confidence"}, …]}}`."""
        return [(p["class_id"], p["confidence"]) for p in json.loads(body)["jsonData"]["predictions"]]
