from __future__ import annotations

import pytest

from locustfiles.engine.client import HttpClient
from locustfiles.engine.grpc import GrpcClient
from locustfiles.engine.options import LoadPlan
from locustfiles.engine.variants import UNKNOWN, reader


class Answered:
    """A client that has an answer."""

    def __init__(self, body: bytes) -> None:
        self.body = body


class TestWhatNamesTheVariant:
    @pytest.mark.parametrize(
        ("body", "name"),
        [
            (b'{"model": {"version": "v2"}}', "v2"),
            (b'{"model": {"version": 7}}', "7"),
            (b'{"model": {"version": "a,b\\nc"}}', "abc"),
            (b'{"model": "v2"}', UNKNOWN),
            (b'{"model": {"version": ""}}', UNKNOWN),
            (b"not JSON", UNKNOWN),
            pytest.param(b'{"model": ' + 100_000 * b"[", UNKNOWN, id="a deep nest"),
        ],
    )
    def test_is_a_field_of_the_answer(self, body: bytes, name: str) -> None:
        read, client = reader("field:model.version", HttpClient)
        assert client is HttpClient
        assert read is not None
        assert read(Answered(body)) == name

    def test_is_a_header_of_the_last_answer(self) -> None:
        read, kind = reader("header:X-Variant", HttpClient)
        assert read is not None
        client = kind.__new__(kind)
        assert read(client) == UNKNOWN
        client.on_header(b"x-variant", b"green")
        client.on_header(b"Server", b"other")
        assert read(client) == "green"
        client.on_message_begin()
        assert read(client) == UNKNOWN

    def test_is_not_asked_for_by_default(self) -> None:
        assert reader("", HttpClient) == (None, HttpClient)

    def test_cannot_be_read_from_grpc(self) -> None:
        with pytest.raises(ValueError, match="over HTTP"):
            reader("header:X-Variant", GrpcClient)

    @pytest.mark.parametrize("text", ["x-variant", "header:", "cookie:a", "field:."])
    def test_must_be_a_header_or_a_field(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"--variant-by: .*write header:X-Variant"):
            LoadPlan.from_options({"variant_by": text}, 10.0)
