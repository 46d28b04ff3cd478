"""KServe under load: `locust -f locustfiles/kserve_user.py --shape poisson --rate 50 [--protocol v2]`."""

import base64
import json
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote

from locustfiles.engine import ModelUser
from locustfiles.engine.payloads import Answer, Image
from locustfiles.engine.protocols import HttpProtocol, Protocol
from locustfiles.engine.v2 import V2Grpc, V2Json

# Requests are encoded once, so that all events of one image are one event, sent again.
EVENT = {
    "specversion": "1.0",
    "type": "modelswarm.image",
    "source": "modelswarm",
    "time": "2026-01-01T00:00:00Z",
}


class V1(HttpProtocol):
    """KServe's own protocol, as TensorFlow Serving has it: instances in, predictions out."""

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """`{"instances": [{"image_bytes": {"b64": "…"}}]}`."""
        text = base64.b64encode(image.jpeg).decode()
        return json.dumps({"instances": [{"image_bytes": {"b64": text}}]}).encode()

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """`{"predictions": [[{"class_id", "confidence"}, …]]}`."""
        [top] = json.loads(body)["predictions"]
        return [(p["class_id"], p["confidence"]) for p in top]


class BinaryCloudEvent(V1):
    """V1 as a CloudEvent in binary mode: attributes in headers, data in the body."""

    @classmethod
    def headers(cls, image: Image, body: bytes) -> Mapping[str, str]:
        """The event's attributes, percent-encoded as CloudEvents' HTTP binding asks for."""
        return {f"ce-{name}": quote(value, "/:") for name, value in (EVENT | {"id": image.name}).items()}


class StructuredCloudEvent(V1):
    """V1 as a CloudEvent in structured mode: attributes and data in one JSON object."""

    content_type = "application/cloudevents+json"

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """The event."""
        return json.dumps(EVENT | {"id": image.name, "data": json.loads(V1.encode(image))}).encode()

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """The answer is an event too."""
        return V1.decode(json.dumps(json.loads(body)["data"]).encode())


class KserveUser(V1, ModelUser):
    """A caller of services/kserve."""

    service = "kserve"
    protocols: ClassVar[Mapping[str, Protocol]] = {
        "v2": V2Json,
        "grpc": V2Grpc,
        "cloudevent": StructuredCloudEvent,
        "cloudevent_binary": BinaryCloudEvent,
    }
