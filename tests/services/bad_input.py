"""What callers may send by mistake, in the words of each protocol."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from typing import Any

from PIL import Image as Picture

from locustfiles.engine.grpc import Call
from locustfiles.engine.payloads import Image
from locustfiles.engine.protobuf import field, number_field, varint
from locustfiles.engine.protocols import GrpcProtocol
from locustfiles.engine.v2 import JSON_LENGTH, V2Grpc
from locustfiles.tensorflow_serving_user import Grpc as TensorflowGrpc
from scripts.probe import Probe
from tests.services.backends import Backend


def _encoded(size: tuple[int, int], kind: str) -> bytes:
    buffer = io.BytesIO()
    Picture.new("L", size).save(buffer, kind)
    return buffer.getvalue()


NO_IMAGES = {
    "a text instead of an image": b"hello",
    "nothing instead of an image": b"",
    "the head of a JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01",
    "the head of a PNG": b"\x89PNG\r\n\x1a\n",
    "a GIF": _encoded((8, 8), "GIF"),
    "a JPEG of 40 megapixels": _encoded((8000, 5000), "JPEG"),
    "a PNG of 40 megapixels": _encoded((8000, 5000), "PNG"),
}
NO_REQUESTS = {
    "no body": b"",
    "a body that is no request": b"hello",
    "a body that is not UTF-8": b'{"x": "\xff\xfe"}',
    "an empty object": b"{}",
    "an empty list": b"[]",
    "a number": b"1",
    "a truth": b"true",
    "a body nested too deeply": b"[" * 100_000,
}
MAY_BE_OVERLOOKED = {
    "a version that is not there",
    "one input and two contents",
    "a shape of nothing",
    "a shape below nothing",
    "a parameter of another kind",
}
"""What a server may answer as if it were right: it does not need that part of the message."""


def bad_messages(spoken: type[GrpcProtocol], image: Image) -> dict[str, bytes]:
    """Messages that are no requests of a gRPC protocol, though protobuf can read them.

    What it cannot read gRPC itself answers, in every server, and with INTERNAL (statuscodes.md of gRPC).
    """
    made = {"an empty message": b""}
    if issubclass(spoken, V2Grpc):
        made |= _bad_infer_requests(spoken, image)
    if issubclass(spoken, TensorflowGrpc):
        made |= _bad_predict_requests(image)
    return made


def _bad_infer_requests(spoken: type[V2Grpc], image: Image) -> dict[str, bytes]:
    shape, datatype, element = spoken.tensor(image)

    def tensor(name: str = spoken.input_name, datatype: str = datatype, shape: Any = shape) -> bytes:
        return field(1, name) + field(2, datatype) + field(3, b"".join(map(varint, shape)))

    def message(*tensors: bytes, raw: tuple[bytes, ...] = (element,)) -> bytes:
        parts = [*(field(5, each) for each in tensors), *(field(7, each) for each in raw)]
        return field(1, spoken.model_name) + b"".join(parts)

    one = [1] * len(shape)
    beyond = struct.pack("<I", 2**32 - 1) + b"x"
    number = field(4, field(1, "content_type") + field(2, number_field(2, 1)))
    return {
        "a model that is not there": message(tensor()) + field(1, "nobody"),
        "a version that is not there": message(tensor()) + field(2, "99"),
        "no input": message(),
        "no contents": message(tensor(), raw=()),
        "an input of another name": message(tensor(name="picture")),
        "two inputs for one content": message(tensor(), tensor(name="picture")),
        "one input and two contents": message(tensor(), raw=(element, element)),
        "an input twice": message(tensor(), tensor(), raw=(element, element)),
        "contents that are no element": message(tensor(), raw=(b"hello",)),
        "an element longer than its contents": message(tensor(), raw=(beyond,)),
        "two elements": message(tensor(), raw=(element + element,)),
        "no element": message(tensor(), raw=(b"",)),
        "a datatype that is not there": message(tensor(datatype="FOO")),
        "a datatype of another size": message(tensor(datatype="FP32", shape=one), raw=(b"abc",)),
        "numbers": message(tensor(datatype="FP32", shape=one), raw=(bytes(4),)),
        "numbers without raw contents": message(
            tensor(datatype="FP32", shape=one) + field(5, field(6, bytes(4))), raw=()
        ),
        "numbers that say they are bytes": message(tensor() + field(5, field(6, bytes(4))), raw=()),
        "a shape of nothing": message(tensor(shape=[0] * len(shape))),
        "a shape below nothing": message(tensor(shape=[2**64 - 1] * len(shape))),
        "a shape beyond all memory": message(tensor(datatype="FP64", shape=[2**62] * len(shape))),
        "a parameter of another kind": message(tensor() + number),
        "an output that is not there": message(tensor()) + field(6, field(1, "logits")),
    }


def _bad_predict_requests(image: Image) -> dict[str, bytes]:
    def message(tensor: bytes, name: str = "image_bytes", spec: bytes = b"") -> bytes:
        model = field(1, "mobilenet") + field(3, "serving_jpeg") + spec
        return field(1, model) + field(2, field(1, name) + field(2, tensor))

    def tensor(kind: int, *sizes: int, values: bytes = field(8, image.jpeg)) -> bytes:
        return (
            number_field(1, kind) + field(2, b"".join(field(2, number_field(1, n)) for n in sizes)) + values
        )

    string, float32 = 7, 1
    good = tensor(string, 1)
    return {
        "a model that is not there": field(1, field(1, "nobody")) + field(2, field(1, "image_bytes")),
        "a version that is not there": message(good, spec=field(2, number_field(1, 99))),
        "a label that is not there": message(good, spec=field(4, "nobody")),
        "a signature that is not there": message(good, spec=field(3, "nobody")),
        "no input": field(1, field(1, "mobilenet") + field(3, "serving_jpeg")),
        "an input of another name": message(good, name="picture"),
        "a tensor without a type": message(b""),
        "a type that is not there": message(tensor(99, 1)),
        "numbers": message(tensor(float32, 1, values=field(5, bytes(4)))),
        "a shape of two for one image": message(tensor(string, 2, 2)),
        "a shape below nothing": message(tensor(string, 2**64 - 1)),
        "a shape beyond all memory": message(tensor(string, 2**62, 2**62)),
        "numbers that end in the middle": message(tensor(float32, 1, values=field(4, b"abc"))),
        "an output that is not there": message(good) + field(3, "logits"),
    }


def bad_requests(backend: Backend, probe: Probe, protocol: str) -> dict[str, Any]:
    """Requests of a protocol that hold no image, and bodies that are no requests of it; all carry the key."""
    with backend.with_key():
        return _bad_requests(backend, probe, protocol)


def _bad_requests(backend: Backend, probe: Probe, protocol: str) -> dict[str, Any]:
    user = probe.user
    facts = type(user).facts()
    spoken, special = user.choose(protocol, facts)
    path = special.get("path", facts["predict_path"])
    made: dict[str, Any] = {}
    if special.get("kind", backend.service.facts.kind) == "image":
        for case, content in NO_IMAGES.items():
            with suppress(OSError):  # a caller that decodes images itself finds out before it sends
                made[case] = spoken.compose(user.target, path, Image("bad.jpg", "small", content, ()))
    if issubclass(spoken, GrpcProtocol):
        for case, message in bad_messages(spoken, probe.images[0]).items():
            made[case] = Call.encode(user.target, spoken.path, message)
    else:
        for case, body in NO_REQUESTS.items():
            headers = dict(spoken.headers(probe.images[0], body))
            headers.pop(JSON_LENGTH, None)  # an image's; without it the whole body is read as JSON
            made[case] = user.target.encode(spoken.method, path, body, spoken.content_type, headers)
    return made
