"""How an image is put to a server and an answer read: over HTTP, or as a unary gRPC call.

A protocol is a class of class methods. `ModelUser` is an HTTP protocol itself, its service's default one, and
names further ones in `protocols`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from locustfiles.engine.client import Client, HttpClient, Target
from locustfiles.engine.grpc import Call, GrpcClient
from locustfiles.engine.payloads import Answer, Image


class Spoken:
    """What a request for an image is, and what its answer says; both are bytes."""

    wrong: ClassVar[str] = "wrong answer: not the stored top-5"
    """What an answer that is not right is called."""

    @classmethod
    @abstractmethod
    def encode(cls, image: Image) -> bytes:
        """The request body, or message, for an image."""

    @classmethod
    @abstractmethod
    def decode(cls, body: bytes) -> Answer:
        """The top-5 in an answer; whatever it raises when there is none names the failure."""

    @classmethod
    def is_right(cls, image: Image, body: bytes) -> bool:
        """Whether an answer holds the stored top-5; what answers something else is judged by that."""
        return image.agrees(cls.decode(body))


class HttpProtocol(Spoken):
    """A request and an answer over HTTP; the path is a fact of services/NAME/service.toml."""

    schemes: ClassVar[tuple[str, str]] = ("http", "https")
    client_class: ClassVar[type[Client[Any]]] = HttpClient
    method: ClassVar[str] = "POST"
    content_type: ClassVar[str] = "application/json"

    @classmethod
    def headers(cls, image: Image, body: bytes) -> Mapping[str, str]:
        """Further request headers, such as Authorization."""
        return {}

    @classmethod
    def compose(cls, target: Target, path: str, image: Image) -> Any:
        """The whole request for an image, as `client_class` sends it."""
        body = cls.encode(image)
        return target.encode(cls.method, path, body, cls.content_type, cls.headers(image, body))


class GrpcProtocol(Spoken):
    """A unary gRPC call of the method `path`, such as /package.Service/Method; messages are serialized."""

    schemes: ClassVar[tuple[str, str]] = ("grpc", "grpcs")
    client_class: ClassVar[type[Client[Any]]] = GrpcClient
    method: ClassVar[str] = "gRPC"
    path: ClassVar[str]

    @classmethod
    def compose(cls, target: Target, path: str, image: Image) -> Call:
        """The call for an image; `path` is HTTP's, and of no use here."""
        return Call.encode(target, cls.path, cls.encode(image))


Protocol = type[HttpProtocol] | type[GrpcProtocol]


def address(host: str | None, protocol: Protocol, port: int) -> str:
    """The base URL to send to: `host`, or the port on this machine.

    Raises ValueError when `host` is for another protocol.
    """
    url = host or f"{protocol.schemes[0]}://127.0.0.1:{port}"
    scheme = url.lower().partition("://")[0]
    if scheme not in protocol.schemes and scheme in (*HttpProtocol.schemes, *GrpcProtocol.schemes):
        raise ValueError(
            f"--host {url!r} does not fit the protocol: write for example {protocol.schemes[0]}://127.0.0.1:{port}"
        )
    return url
