"""Protobuf's wire format, as much of it as a few fixed messages need: varints and length-delimited fields.

A message is the concatenation of its fields, in any order; so encoding is concatenation, and nothing has to
be generated or installed.  Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def varint(number: int) -> bytes:
    """A whole number from 0 to 2^64 - 1."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, value: bytes | str) -> bytes:
    """A string, bytes, packed numbers or a message, as field `number`."""
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | _BYTES) + varint(len(data)) + data


def number_field(number: int, value: int) -> bytes:
    """A whole number or an enum, as field `number`."""
    return varint(number << 3 | _VARINT) + varint(value)


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Each (field number, value) in a message: bytes, or a number where it is a varint.

    Fixed-width values come as their bytes.  Raises ValueError where the message is broken.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _read_varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _read_varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a protobuf field of the wire type {kind}")
        if end - at < length:
            raise ValueError("a protobuf message that is cut off")
        yield number, message[at : at + length]
        at += length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70 and at < len(message):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a protobuf number that does not end")


def messages(message: bytes, number: int) -> list[bytes]:
    """All values of a length-delimited field, in order."""
    return [value for each, value in fields(message) if each == number and isinstance(value, bytes)]


def text(message: bytes, number: int) -> str:
    """A string field; empty where there is none."""
    found = messages(message, number)
    return found[-1].decode() if found else ""


def numbers(message: bytes, number: int, dtype: str) -> Array:
    """A repeated field of numbers, packed or not: varints for integer dtypes, fixed-width for floats.

    Raises ValueError when the bytes are no whole number of values.
    """
    found = [value for each, value in fields(message) if each == number]
    if np.dtype(dtype).kind == "f":
        return np.frombuffer(b"".join(v for v in found if isinstance(v, bytes)), dtype)
    values: list[int] = []
    for value in found:
        if isinstance(value, int):
            values.append(value)
            continue
        at = 0
        while at < len(value):
            one, at = _read_varint(value, at)
            values.append(one)
    return np.array(values, np.uint64).astype(np.int64).astype(dtype)  # negative numbers are 64 bits wide
