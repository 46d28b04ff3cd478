"""The Open Inference Protocol ("V2") of KServe, MLServer and Triton: JSON, binary tensors over HTTP, gRPC.

By default an image goes out as one BYTES element, and `class_id` and `confidence` come back, five of each; a
server that answers all probabilities names that one output instead.
Sources: the protocol's specification (github.com/kserve/open-inference-protocol), and Triton's extension for
binary tensor data.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from locustfiles.engine.payloads import Answer, Image
from locustfiles.engine.protobuf import field, messages, numbers, text, varint
from locustfiles.engine.protocols import GrpcProtocol, HttpProtocol

Array = npt.NDArray[Any]
TOP = 5
JSON_LENGTH = "Inference-Header-Content-Length"
"""Says where the JSON of a request with binary tensors ends; without it, all of the body is JSON."""
_DTYPES = {
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}
_CONTENTS = {  # InferTensorContents: the field that holds the values of a datatype
    **{"INT8": 2, "INT16": 2, "INT32": 2, "INT64": 3, "UINT8": 4, "UINT16": 4, "UINT32": 4, "UINT64": 5},
    **{"FP32": 6, "FP64": 7},
}


def as_bytes_element(data: bytes) -> bytes:
    """One element of a BYTES tensor in binary form: its length, then itself."""
    return struct.pack("<I", len(data)) + data


def top5(tensors: Mapping[str, Array], outputs: Sequence[str]) -> Answer:
    """The answer in output tensors: classes and confidences as they are, or the five best probabilities."""
    if len(outputs) == 1:
        probabilities = tensors[outputs[0]].ravel()
        best = np.argsort(-probabilities, kind="stable")[:TOP]
        return [(int(k), float(probabilities[k])) for k in best]
    ids, confidences = (tensors[name].ravel() for name in outputs)
    return [(int(k), float(p)) for k, p in zip(ids, confidences, strict=True)]


class V2Settings:
    """What the three forms share: names of the model and its tensors, and the input made of an image."""

    model_name: ClassVar[str] = "mobilenet"
    model_version: ClassVar[str] = ""
    input_name: ClassVar[str] = "image"
    outputs: ClassVar[Sequence[str]] = ("class_id", "confidence")
    shape: ClassVar[Sequence[int]] = (1,)
    parameters: ClassVar[Mapping[str, str]] = {}
    """Parameters of the input, such as `content_type`."""

    @classmethod
    def tensor(cls, image: Image) -> tuple[Sequence[int], str, bytes]:
        """Shape, datatype and bytes (little-endian) of the input for an image."""
        return cls.shape, "BYTES", as_bytes_element(image.jpeg)


class V2Json(V2Settings, HttpProtocol):
    """Everything in JSON; the image as base64 text."""

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """`{"inputs": [{"name", "shape", "datatype": "BYTES", "data": ["…"]}], "outputs": [{"name"}, …]}`."""
        tensor: dict[str, Any] = {"name": cls.input_name, "shape": list(cls.shape), "datatype": "BYTES"}
        if cls.parameters:
            tensor["parameters"] = dict(cls.parameters)
        tensor["data"] = [base64.b64encode(image.jpeg).decode()]
        return json.dumps({"inputs": [tensor], "outputs": [{"name": name} for name in cls.outputs]}).encode()

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """The output tensors' `data`."""
        found = {each["name"]: np.array(each["data"]) for each in json.loads(body)["outputs"]}
        return top5(found, cls.outputs)


class V2Binary(V2Settings, HttpProtocol):
    """Triton's extension: a JSON header, then the tensors' bytes."""

    content_type = "application/octet-stream"

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """The header and the input's bytes; binary outputs are asked for."""
        header, data = cls._request(image)
        return header + data

    @classmethod
    def headers(cls, image: Image, body: bytes) -> Mapping[str, str]:
        """Where the JSON ends."""
        return {JSON_LENGTH: str(len(cls._request(image)[0]))}

    @classmethod
    def _request(cls, image: Image) -> tuple[bytes, bytes]:
        shape, datatype, data = cls.tensor(image)
        parameters = {**cls.parameters, "binary_data_size": len(data)}
        tensor = {
            "name": cls.input_name,
            "shape": list(shape),
            "datatype": datatype,
            "parameters": parameters,
        }
        wanted = [{"name": name, "parameters": {"binary_data": True}} for name in cls.outputs]
        return json.dumps({"inputs": [tensor], "outputs": wanted}).encode(), data

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """The JSON ends where its outermost brace does; tensors follow in the order of `outputs`."""
        # Bytes are characters in Latin-1, so that positions agree; a header is short.
        header, at = json.JSONDecoder().raw_decode(body[: 64 * 1024].decode("latin-1"))
        found = {}
        for each in header["outputs"]:
            size = each.get("parameters", {}).get("binary_data_size")
            if size is None:
                found[each["name"]] = np.array(each["data"])
            else:
                found[each["name"]] = np.frombuffer(body[at : at + size], _DTYPES[each["datatype"]])
                at += size
        return top5(found, cls.outputs)


class V2Grpc(V2Settings, GrpcProtocol):
    """`ModelInfer` with raw tensors; a server may answer with raw or typed contents."""

    path = "/inference.GRPCInferenceService/ModelInfer"

    @classmethod
    def encode(cls, image: Image) -> bytes:
        """A ModelInferRequest."""
        shape, datatype, data = cls.tensor(image)
        tensor = field(1, cls.input_name) + field(2, datatype) + field(3, b"".join(map(varint, shape)))
        for name, value in cls.parameters.items():
            tensor += field(4, field(1, name) + field(2, field(3, value)))
        request = field(1, cls.model_name)
        if cls.model_version:
            request += field(2, cls.model_version)
        request += field(5, tensor)
        for name in cls.outputs:
            request += field(6, field(1, name))
        return request + field(7, data)

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """The tensors of a ModelInferResponse."""
        tensors, raw = messages(body, 5), messages(body, 6)
        found = {}
        for tensor, data in zip(tensors, raw or [b""] * len(tensors), strict=True):
            datatype = text(tensor, 2)
            if raw:
                found[text(tensor, 1)] = np.frombuffer(data, _DTYPES[datatype])
            else:
                contents = b"".join(messages(tensor, 5))
                found[text(tensor, 1)] = numbers(contents, _CONTENTS[datatype], _DTYPES[datatype])
        return top5(found, cls.outputs)
