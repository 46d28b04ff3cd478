"""The Open Inference Protocol's three forms, and the protobuf underneath. Real servers: tests/services."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locustfiles.engine.payloads import Image
from locustfiles.engine.protobuf import field, fields, messages, number_field, numbers, text, varint
from locustfiles.engine.v2 import V2Binary, V2Grpc, V2Json

IDS, CONFIDENCES = [281, 1, 2, 3, 4], [0.5, 0.25, 0.125, 0.0625, 0.03125]
TOP5 = tuple(zip(IDS, CONFIDENCES, strict=True))
IMAGE = Image("x.jpg", "small", b"\xff\xd8jpeg", TOP5)


class TestProtobuf:
    @pytest.mark.parametrize(
        ("number", "encoded"),
        [(0, b"\0"), (1, b"\1"), (127, b"\x7f"), (150, b"\x96\x01"), (2**64 - 1, b"\xff" * 9 + b"\1")],
    )
    def test_numbers_are_written_as_the_documentation_shows(self, number: int, encoded: bytes) -> None:
        assert varint(number) == encoded

    @given(st.integers(1, 2**29 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=300))
    def test_what_is_written_is_read(self, number: int, value: int, data: bytes) -> None:
        message = number_field(number, value) + field(number, data)
        assert list(fields(message)) == [(number, value), (number, data)]

    def test_fixed_width_fields_are_skipped_as_bytes(self) -> None:
        message = varint(1 << 3 | 5) + b"abcd" + varint(2 << 3 | 1) + b"12345678" + field(3, "x")
        assert list(fields(message)) == [(1, b"abcd"), (2, b"12345678"), (3, b"x")]
        assert text(message, 3) == "x"
        assert text(message, 4) == ""

    @given(st.binary(max_size=60))
    def test_any_bytes_are_read_or_refused(self, data: bytes) -> None:
        with contextlib.suppress(ValueError):
            assert sum(len(value) for _, value in fields(data) if isinstance(value, bytes)) <= len(data)

    def test_negative_numbers_are_64_bits_wide(self) -> None:
        message = field(1, varint(2**64 - 5) + varint(7))
        assert numbers(message, 1, "<i4").tolist() == [-5, 7]

    def test_numbers_may_be_packed_or_not(self) -> None:
        assert numbers(number_field(1, 3) + field(1, varint(4)), 1, "<i8").tolist() == [3, 4]
        assert numbers(
            field(1, struct.pack("<2f", 1, 2)) + varint(1 << 3 | 5) + struct.pack("<f", 3), 1, "<f4"
        ).tolist() == [1, 2, 3]


class TestJson:
    def test_sends_base64_and_asks_for_both_outputs(self) -> None:
        request = json.loads(V2Json.encode(IMAGE))
        assert request["inputs"] == [
            {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["/9hqcGVn"]}
        ]
        assert [each["name"] for each in request["outputs"]] == ["class_id", "confidence"]

    def test_reads_outputs_of_any_order_and_shape(self) -> None:
        body = {"outputs": [{"name": "confidence", "data": [CONFIDENCES]}, {"name": "class_id", "data": IDS}]}
        assert IMAGE.agrees(V2Json.decode(json.dumps(body).encode()))


def binary(outputs: list[tuple[str, str, bytes]]) -> bytes:
    header = {
        "outputs": [
            {"name": name, "datatype": kind, "shape": [1, 5], "parameters": {"binary_data_size": len(data)}}
            for name, kind, data in outputs
        ]
    }
    return json.dumps(header).encode() + b"".join(data for _, _, data in outputs)


RAW = [
    ("class_id", "INT32", np.array(IDS, "<i4").tobytes()),
    ("confidence", "FP32", np.array(CONFIDENCES, "<f4").tobytes()),
]


class TestBinary:
    def test_says_where_its_header_ends(self) -> None:
        body = V2Binary.encode(IMAGE)
        length = int(V2Binary.headers(IMAGE, body)["Inference-Header-Content-Length"])
        header = json.loads(body[:length])
        assert body[length:] == struct.pack("<I", 6) + IMAGE.jpeg
        assert header["inputs"][0]["parameters"] == {"binary_data_size": 10}

    def test_reads_tensors_in_their_order(self) -> None:
        assert IMAGE.agrees(V2Binary.decode(binary(RAW)))
        assert IMAGE.agrees(V2Binary.decode(binary(RAW[::-1])))

    @pytest.mark.parametrize(
        "body", [b"", b"x", b"{}", b"{}" * 9, binary(RAW)[:-1], binary([("class_id", "FP99", b"")])]
    )
    def test_is_a_named_failure_when_it_holds_none(self, body: bytes) -> None:
        with pytest.raises((ValueError, KeyError, TypeError)):
            V2Binary.decode(body)


def response(tensors: list[tuple[str, str, bytes]], raw: list[bytes]) -> bytes:
    outputs = b"".join(
        field(
            5,
            field(1, name)
            + field(2, kind)
            + field(3, varint(1) + varint(5))
            + (field(5, contents) if contents else b""),
        )
        for name, kind, contents in tensors
    )
    return field(1, "mobilenet") + outputs + b"".join(field(6, data) for data in raw)


class TestGrpc:
    def test_sends_the_jpeg_as_a_raw_element(self) -> None:
        request = V2Grpc.encode(IMAGE)
        (tensor,) = messages(request, 5)
        assert (text(request, 1), text(tensor, 1), text(tensor, 2)) == ("mobilenet", "image", "BYTES")
        assert numbers(tensor, 3, "<i8").tolist() == [1]
        assert [text(each, 1) for each in messages(request, 6)] == ["class_id", "confidence"]
        assert messages(request, 7) == [struct.pack("<I", 6) + IMAGE.jpeg]

    def test_reads_raw_tensors(self) -> None:
        body = response([(name, kind, b"") for name, kind, _ in RAW], [data for _, _, data in RAW])
        assert IMAGE.agrees(V2Grpc.decode(body))

    def test_reads_typed_tensors(self) -> None:
        ids = field(3, b"".join(map(varint, IDS)))
        confidences = field(7, np.array(CONFIDENCES, "<f8").tobytes())
        body = response([("class_id", "INT64", ids), ("confidence", "FP64", confidences)], [])
        assert IMAGE.agrees(V2Grpc.decode(body))

    def test_takes_the_best_five_of_all_probabilities(self) -> None:
        class All(V2Grpc):
            outputs = ("probabilities",)

        probabilities = np.zeros(1000, "<f4")
        probabilities[IDS] = CONFIDENCES
        assert IMAGE.agrees(All.decode(response([("probabilities", "FP32", b"")], [probabilities.tobytes()])))

    def test_is_a_named_failure_when_tensors_are_missing(self) -> None:
        body: Any = response([(name, kind, b"") for name, kind, _ in RAW], [RAW[0][2]])
        with pytest.raises(ValueError, match="zip"):
            V2Grpc.decode(body)
