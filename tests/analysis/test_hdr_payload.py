import base64
import zlib

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.hdr_payload import Damaged, decoded, unpacked
from analysis.histograms import bucket_low_us

LAST_US = int(bucket_low_us()[-2])


def written(values: dict[int, int], digits: int = 3) -> bytes:
    """A histogram of so many of each value in µs, as the package encodes it."""
    histogram = HdrHistogram(1, 3_600_000_000, digits)
    for value, count in values.items():
        histogram.record_value(value, count)
    return bytes(histogram.encode())


def as_the_package_reads(encoded: bytes) -> dict[int, int]:
    counts = np.array(HdrHistogram.decode(encoded).counts)
    return {int(i): int(counts[i]) for i in np.flatnonzero(counts)}


VALUES = st.dictionaries(st.integers(1, LAST_US), st.integers(1, 2**50), max_size=40)


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(VALUES, max_size=5))
def test_many_histograms_are_read_as_the_package_reads_each(histograms: list[dict[int, int]]) -> None:
    encoded = [written(values) for values in histograms]
    found = decoded([unpacked(one) for one in encoded])
    assert found.possible.tolist() == [True] * len(encoded)
    assert np.all(np.diff(found.row) >= 0)
    for i, one in enumerate(encoded):
        mine = found.row == i
        counts = dict(zip(found.bucket[mine].tolist(), found.count[mine].tolist(), strict=True))
        assert counts == as_the_package_reads(one)


def varints(*values: int) -> bytes:
    found = bytearray()
    for value in values:
        rest = (value << 1) ^ (value >> 63)
        while rest > 127:
            found.append(rest & 127 | 128)
            rest >>= 7
        found.append(rest)
    return bytes(found)


@pytest.mark.parametrize(
    "impossible",
    [
        varints(-len(bucket_low_us()), 1),
        varints(*[-(2**54)] * 300, 1),
        varints(1, 2**60),
        b"\x80" * 20 + b"\x01",
    ],
)
def test_what_cannot_be_is_refused_and_leaves_its_neighbours(impossible: bytes) -> None:
    found = decoded([varints(-3, 5), impossible, b"", varints(7)])
    assert found.possible.tolist() == [True, False, True, True]
    assert (found.row.tolist(), found.bucket.tolist(), found.count.tolist()) == ([0, 3], [3, 0], [5, 7])


def changed(position: int, value: bytes, inner: bool) -> bytes:
    data = bytearray(base64.b64decode(written({5: 1})))
    if inner:
        plain = bytearray(zlib.decompress(bytes(data[8:])))
        plain[position : position + len(value)] = value
        packed = zlib.compress(bytes(plain))
        data[4:] = len(packed).to_bytes(4, "big") + packed
    else:
        data[position : position + len(value)] = value
    return base64.b64encode(bytes(data))


@pytest.mark.parametrize(
    ("encoded", "told"),
    [
        (b"", "damaged"),
        (b"A", "damaged"),
        (written({5: 1})[:-8], "its head does not fit"),
        (changed(0, b"\x00", inner=False), "its head does not fit"),
        (changed(20, b"\xff\xff", inner=False), "damaged"),
        (changed(0, b"\x00", inner=True), "it is not whole"),
        (changed(4, b"\x01", inner=True), "it is not whole"),
        (changed(40, b"\xff" * 9, inner=True), "it is not whole"),
        (changed(8, b"\x01", inner=True), "another layout"),
        (written({5: 1}, digits=2), "another layout"),
    ],
)
def test_damage_is_told(encoded: bytes, told: str) -> None:
    with pytest.raises(Damaged, match=told):
        unpacked(encoded)


def test_a_small_line_cannot_swell_without_bound() -> None:
    packed = zlib.compress(bytes(1 << 28))
    data = (0x1C849304).to_bytes(4, "big") + len(packed).to_bytes(4, "big") + packed
    with pytest.raises(Damaged, match="it is not whole"):
        unpacked(base64.b64encode(data))
