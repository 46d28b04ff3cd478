"""Seldon Core under load: `locust -f locustfiles/seldon_user.py --shape poisson --rate 50`."""

import base64
import json

from locustfiles.engine import ModelUser
from locustfiles.engine.payloads import Answer, Image


class SeldonUser(ModelUser):
    """A caller of services/seldon."""

    service = "seldon"
    opens_ahead = False  # Gunicorn's worker reads the connection it accepted until a request has come

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """A SeldonMessage: `{"binData": "…"}`."""
        return json.dumps({"binData": base64.b64encode(image.jpeg).decode()}).encode()

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """`{"jsonData": {"predictions": [{"class_id", "confidence"}, …]}}`."""
        return [(p["class_id"], p["confidence"]) for p in json.loads(body)["jsonData"]["predictions"]]
