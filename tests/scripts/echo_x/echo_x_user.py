"""The test server under load."""

import json
from collections.abc import Mapping
from typing import ClassVar

from locustfiles.engine import PredictUser
from locustfiles.engine.payloads import Answer, Image
from locustfiles.engine.protocols import HttpProtocol, Protocol


class Other(HttpProtocol):
    """The bytes of the image, without JSON around them."""

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """The image."""
        return image.jpeg

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """As in the other protocol."""
        return [(p["class_id"], p["confidence"]) for p in json.loads(body)["predictions"]]


class EchoXUser(PredictUser):
    """A caller of services/echo_x."""

    service = "echo_x"
    protocols: ClassVar[Mapping[str, Protocol]] = {"other": Other}
