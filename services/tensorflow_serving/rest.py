"""The stand-in's REST API, as tensorflow.org/tfx/serving/api_rest describes it."""

from __future__ import annotations

import base64
import binascii
import json
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToJson
from tensorflow_serving.apis import model_pb2

from services.model.contract import MAX_BODY_BYTES
from services.tensorflow_serving.models import Models, Refused, bad
from services.tensorflow_serving.rpc import DEFAULT_SIGNATURE, chosen, metadata, status

_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d{1,18})|/labels/(?P<label>[^/:]+))?"
    r"(?P<rest>/metadata|:predict|:classify|:regress)?"
)
_STATUS = {
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
}
READ_TIMEOUT_S = 30.0


class RestServer(ThreadingHTTPServer):
    """Listens at `address`; metrics are at `metrics_path` if that is given."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], models: Models, metrics_path: str | None) -> None:
        super().__init__(address, _Handler)
        self.models, self.metrics_path = models, metrics_path


class _Handler(BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    server_version = "stand-in-for-tensorflow-serving/2.21.0"
    sys_version = ""
    timeout = READ_TIMEOUT_S
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        if self.server.metrics_path and self.path == self.server.metrics_path:
            self._send(HTTPStatus.OK, _metrics(self.server.models).encode(), "text/plain")
        else:
            self._answer(self._look)

    def do_POST(self) -> None:
        self._answer(self._predict)

    def _answer(self, do: Any) -> None:
        match = _PATH.fullmatch(self.path)
        code, name = HTTPStatus.OK, match["name"] if match else ""
        try:
            body = self._body()
            if match is None:
                raise Refused(grpc.StatusCode.NOT_FOUND, f"Malformed request: {self.command} {self.path}")
            answer = do(_spec(match), match["rest"], body)
        except Refused as error:
            code = _STATUS.get(error.code, HTTPStatus.BAD_REQUEST)
            answer = json.dumps({"error": str(error)})
        except _TooLarge as error:
            code, answer = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, json.dumps({"error": str(error)})
        if self.command == "POST":
            self.server.models.count(name, code.phrase)
        self._send(code, answer.encode(), "application/json")

    def _body(self) -> bytes:
        """All of a request's body, also of one that will be refused, so that the client reads why."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"\d{1,12}", length):
            self.close_connection = True
            raise bad("send the body with a Content-Length")
        left, pieces = int(length), []
        while left and (piece := self.rfile.read(min(left, 1 << 20))):
            left -= len(piece)
            if int(length) <= MAX_BODY_BYTES:
                pieces.append(piece)
        if int(length) > MAX_BODY_BYTES:
            raise _TooLarge(f"the body is larger than {MAX_BODY_BYTES >> 20} MiB; send a smaller one")
        return b"".join(pieces)

    def _look(self, spec: Any, rest: str | None, _: bytes) -> str:
        models = self.server.models
        if rest not in (None, "/metadata"):
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Malformed request: GET {self.path}")
        found = metadata(models, spec) if rest else status(models, spec)
        return str(
            MessageToJson(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        )

    def _predict(self, spec: Any, rest: str | None, body: bytes) -> str:
        if rest in (None, "/metadata"):
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Malformed request: POST {self.path}")
        if rest != ":predict":
            raise bad("The model's signatures are for :predict")
        request = _parsed(body)
        name = request.get("signature_name", DEFAULT_SIGNATURE)
        if not isinstance(name, str):
            raise bad("'signature_name' must be a string value")
        models = self.server.models
        function = models.signature(spec.name, chosen(models, spec), name)
        rows = "instances" in request
        outputs = models.predict(function, _tensors(request, function.structured_input_signature[1]))
        lists = {key: value.tolist() for key, value in outputs.items()}
        one = next(iter(lists.values())) if len(lists) == 1 else None
        if rows:
            by_row = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
            return json.dumps({"predictions": by_row if one is None else one})
        return json.dumps({"outputs": lists if one is None else one})

    def _send(self, code: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: no server of the comparison writes an access log."""


class _TooLarge(Exception):
    pass


def _spec(match: re.Match[str]) -> Any:
    spec = model_pb2.ModelSpec(name=match["name"])
    if match["version"]:
        spec.version.value = int(match["version"])
    elif match["label"]:
        spec.version_label = match["label"]
    return spec


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad(f"JSON Parse error: {str(error)[:200]}") from None
    if not isinstance(request, dict):
        raise bad("the body must be a JSON object with instances or inputs")
    if ("instances" in request) == ("inputs" in request):
        raise bad("Missing 'inputs' or 'instances' key, or both are there; send one of them")
    return request


def _tensors(request: dict[str, Any], specs: Any) -> dict[str, Any]:
    """The inputs of either format: a list of rows, or columns by name; a lone input needs no name."""
    try:
        if "inputs" in request:
            columns = request["inputs"]
            if not isinstance(columns, dict) or _is_bytes(columns):
                columns = {next(iter(specs)): columns}
        else:
            columns = _columns(request["instances"], specs)
        if unknown := set(columns) - set(specs):
            raise bad(f"there is no input {', '.join(sorted(unknown))}; there are {', '.join(specs)}")
        return {key: _tensor(value, specs[key].dtype) for key, value in columns.items()}
    except (TypeError, ValueError, OverflowError, RecursionError, tf.errors.OpError) as error:
        raise bad(f"the inputs are no tensors of the expected kind: {str(error)[:200]}") from error


def _columns(rows: Any, specs: Any) -> dict[str, list[Any]]:
    if not isinstance(rows, list) or not rows:
        raise bad("'instances' must be a list with at least one element")
    named = isinstance(rows[0], dict) and not _is_bytes(rows[0])
    if not named:
        return {next(iter(specs)): rows}
    if any(not isinstance(row, dict) or set(row) != set(rows[0]) for row in rows):
        raise bad("all instances must have the same inputs")
    return {key: [row[key] for row in rows] for key in rows[0]}


def _is_bytes(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"}


def _tensor(value: Any, dtype: Any) -> Any:
    if dtype == tf.string:
        return tf.constant(_decoded(value), tf.string)
    return tf.constant(np.array(value, dtype.as_numpy_dtype))


def _decoded(value: Any) -> Any:
    """Strings are UTF-8, and `{"b64": …}` bytes, at any depth."""
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if isinstance(value, str):
        return value.encode()
    if not _is_bytes(value) or not isinstance(value["b64"], str):
        raise bad('a bytes input must be {"b64": "…"}')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError):
        raise bad("Unable to base64 decode") from None


def _metrics(models: Models) -> str:
    lines = [
        "# A stand-in for TensorFlow Serving wrote this.",
        "# TYPE :tensorflow:serving:request_count counter",
    ]
    lines += [
        f':tensorflow:serving:request_count{{model_name="{model}",status="{word}"}} {count}'
        for (model, word), count in sorted(models.requests.items())
    ]
    return "\n".join(lines) + "\n"
