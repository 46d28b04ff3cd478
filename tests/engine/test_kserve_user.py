"""What the KServe user sends."""

from __future__ import annotations

from locustfiles.engine.client import Target
from locustfiles.engine.payloads import Image
from locustfiles.kserve_user import BinaryCloudEvent


class TestABinaryCloudEvent:
    def test_percent_encodes_its_attributes(self) -> None:
        image = Image("images/Über 100%.jpg", "small", b"", ())
        request = BinaryCloudEvent.compose(Target.parse("http://127.0.0.1:1"), "/v1", image)
        assert b"ce-id: images/%C3%9Cber%20100%25.jpg\r\n" in request
        assert b"ce-time: 2026-01-01T00:00:00Z\r\n" in request
