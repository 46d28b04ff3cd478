"""TensorFlow Serving under load: `locust -f locustfiles/tensorflow_serving_user.py --protocol grpc`."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from locustfiles.engine import GrpcProtocol, HttpProtocol, ModelUser
from locustfiles.engine.payloads import Answer, Image
from locustfiles.engine.protobuf import field, messages, number_field, numbers, text

MODEL, LABEL, SIDE, TOP = "mobilenet", "stable", 224, 5
DT_STRING = 7


def best(probabilities: npt.ArrayLike) -> Answer:
    """The top 5 of one image's probabilities."""
    p = np.asarray(probabilities, np.float64).ravel()
    return [(int(k), float(p[k])) for k in np.argsort(-p, kind="stable")[:TOP]]


class Rest(HttpProtocol):
    """`:predict` with the JPEG in base64; the model decodes and resizes."""

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """Rows: one instance."""
        instance = {"b64": base64.b64encode(image.jpeg).decode()}
        return json.dumps({"signature_name": "serving_jpeg", "instances": [instance]}).encode()

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """A row of probabilities."""
        return best(json.loads(body)["predictions"][0])


class Tensors(Rest):
    """`:predict` with the network's input as numbers, made here, before the load begins."""

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """Six decimals, which is what the exports agree to."""
        rows = json.dumps(prepare(image.jpeg).round(6).tolist(), separators=(",", ":"))
        return b'{"signature_name":"serve","instances":[' + rows.encode() + b"]}"


class Grpc(GrpcProtocol):
    """`PredictionService/Predict` with the JPEG as a string tensor."""

    path = "/tensorflow.serving.PredictionService/Predict"

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """A PredictRequest; the fields' numbers are those of predict.proto, model.proto and tensor.proto."""
        spec = field(1, MODEL) + field(3, "serving_jpeg") + field(4, LABEL)
        shape = field(2, number_field(1, 1))
        tensor = number_field(1, DT_STRING) + field(2, shape) + field(8, image.jpeg)
        return field(1, spec) + field(2, field(1, "image_bytes") + field(2, tensor))

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """The `probabilities` of a PredictResponse, as bytes or as numbers."""
        outputs = {text(entry, 1): messages(entry, 2)[0] for entry in messages(body, 1)}
        tensor = outputs["probabilities"]
        content = b"".join(messages(tensor, 4))
        return best(np.frombuffer(content, "<f4") if content else numbers(tensor, 5, "<f4"))


def prepare(jpeg: bytes) -> npt.NDArray[Any]:
    """What services/model does with a JPEG, without torch: [224, 224, 3] floats in [-1, 1]."""
    from PIL import Image as Pillow

    with Pillow.open(io.BytesIO(jpeg)) as picture:
        channels = picture.convert("RGB").split()
    # As floats, since Pillow rounds bytes twice on the way.
    resized = [c.convert("F").resize((SIDE, SIDE), Pillow.Resampling.BILINEAR) for c in channels]
    return np.stack([np.asarray(channel) for channel in resized], axis=-1) / 127.5 - 1


class TensorflowServingUser(Rest, ModelUser):
    """A caller of services/tensorflow_serving: JPEG or tensors over REST, or gRPC."""

    service = "tensorflow_serving"
    protocols = {"tensors": Tensors, "grpc": Grpc}  # noqa: RUF012  # as Locust users have their settings
