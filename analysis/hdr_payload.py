"""Decoding many histograms in HdrHistogram's V2 encoding at once.

The ``hdrhistogram`` package decodes one histogram at a time into an array of all its buckets, of which a
second of a trial uses some hundred: a run of hours has a hundred thousand of them. Here numpy takes the
histograms of a whole log together. That both read the same is tested.

A histogram is base64 of a head, and zlib-compressed another head and the counts of successive buckets as
zig-zag LEB128 integers; a negative one stands for that many empty buckets [1]_.

References
----------
.. [1] HdrHistogram V2 encoding, https://github.com/HdrHistogram/HdrHistogram,
   ``AbstractHistogram.encodeIntoByteBuffer`` and ``ZigZagLEB128``.
"""

from __future__ import annotations

import binascii
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.histograms import DIGITS, LOWEST_US, Ints, bucket_low_us

COMPRESSED, PLAIN = 0x1C849304, 0x1C849303
"""The cookies of V2, whose bits 4 to 7 do not matter."""
_OUTER = struct.Struct(">II")  # cookie, length
_INNER = struct.Struct(">IIIIQQd")  # cookie, length, index offset, digits, lowest, highest, conversion ratio
LONGEST_BYTES = 1 << 20
"""Of one decompressed histogram: nine bytes for each bucket are a quarter of it."""
LONGEST_VARINT = 8
"""Bytes of an integer below 2**55; a ninth byte holds no count that was ever measured."""


class Damaged(ValueError):
    """Bytes that are no histogram; the message continues 'it …'."""


@dataclass(frozen=True)
class Counts:
    """Buckets that are not empty: ``count`` values in ``bucket`` of histogram ``row``, sorted by both.

    ``possible`` has an entry per histogram; what is not possible has no buckets here.
    """

    row: Ints
    bucket: Ints
    count: Ints
    possible: NDArray[np.bool_]


def unpacked(encoded: bytes) -> bytes:
    """The varints of a histogram in base64.

    Raises
    ------
    Damaged
        If the bytes are no histogram in this encoding, or not one from 1 µs with three significant digits.
    """
    try:
        data = binascii.a2b_base64(encoded)
        cookie, length = _OUTER.unpack_from(data)
        if cookie & ~0xF0 != COMPRESSED or length != len(data) - _OUTER.size:
            raise Damaged("holds a damaged histogram (its head does not fit)")
        stream = zlib.decompressobj()
        plain = stream.decompress(data[_OUTER.size :], LONGEST_BYTES)
        cookie, length, offset, digits, lowest, _, _ = _INNER.unpack_from(plain)
    except (binascii.Error, zlib.error, struct.error) as error:
        raise Damaged(f"holds a damaged histogram ({error})") from None
    varints = plain[_INNER.size : _INNER.size + length]
    if not stream.eof or cookie & ~0xF0 != PLAIN or len(varints) != length or (varints and varints[-1] > 127):
        raise Damaged("holds a damaged histogram (it is not whole)")
    if (lowest, digits, offset) != (LOWEST_US, DIGITS, 0):
        raise Damaged("holds a histogram of another layout than 1 µs and 3 significant digits")
    return varints


def decoded(histograms: Sequence[bytes]) -> Counts:
    """The counts of histograms that :func:`unpacked` has unpacked."""
    data = np.frombuffer(b"".join(histograms), dtype=np.uint8)
    last = np.flatnonzero(data < 128)  # the last byte of each integer
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    size = last - first + 1
    value = _integers(data, first, size)
    row = np.searchsorted(np.cumsum([len(one) for one in histograms]), first, side="right")
    buckets = len(bucket_low_us()) - 1
    step = np.where(value < 0, np.minimum(-value, buckets), 1)
    after = np.cumsum(step)
    start = np.searchsorted(row, np.arange(len(histograms)))  # of each histogram's integers
    before = np.concatenate([[0], after])[start]
    bucket = after - step - before[row]
    impossible = (size > LONGEST_VARINT) | ((value > 0) & (bucket >= buckets))
    possible = np.ones(len(histograms), dtype=np.bool_)
    possible[row[impossible]] = False
    kept = np.flatnonzero((value > 0) & possible[row])
    return Counts(row[kept], bucket[kept], value[kept], possible)


def _integers(data: NDArray[np.uint8], first: Ints, size: Ints) -> Ints:
    """The signed integers that begin at ``first`` and have ``size`` bytes."""
    value = (data[first] & 127).astype(np.int64)
    for place in range(1, min(LONGEST_VARINT, int(size.max(initial=0)))):
        longer = np.flatnonzero(size > place)
        value[longer] |= (data[first[longer] + place] & 127).astype(np.int64) << (7 * place)
    return np.asarray((value >> 1) ^ -(value & 1))
