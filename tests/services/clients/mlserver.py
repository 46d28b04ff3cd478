"""Ask a server every test image in MLServer's own words: its types over REST, its stubs over gRPC."""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from urllib.request import Request, urlopen

import grpc
from mlserver.grpc import converters
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput

MODEL = "mobilenet"


def request(element: bytes | str) -> InferenceRequest:
    return InferenceRequest(inputs=[RequestInput(name="image", shape=[1], datatype="BYTES", data=[element])])


def top5(response: InferenceResponse) -> list[tuple[int, float]]:
    outputs: dict[str, Sequence[float]] = {output.name: list(output.data) for output in response.outputs}
    return list(zip(map(int, outputs["class_id"]), outputs["confidence"], strict=True))


def over_rest(host: str) -> Callable[[bytes], InferenceResponse]:
    def ask(image: bytes) -> InferenceResponse:
        body = request(base64.b64encode(image).decode()).model_dump_json(exclude_none=True).encode()
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"{host}/v2/models/{MODEL}/infer", body, headers)) as answer:
            return InferenceResponse.model_validate_json(answer.read())

    return ask


def over_grpc(host: str) -> Callable[[bytes], InferenceResponse]:
    stub = GRPCInferenceServiceStub(grpc.insecure_channel(host.removeprefix("grpc://")))

    def ask(image: bytes) -> InferenceResponse:
        message = converters.ModelInferRequestConverter.from_types(request(image), model_name=MODEL)
        return converters.ModelInferResponseConverter.to_types(stub.ModelInfer(message))

    return ask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--protocol", required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    options = parser.parse_args()
    ask = (over_grpc if options.protocol == "grpc" else over_rest)(options.host)
    files = [entry["file"] for entry in json.loads((options.model_dir / "images.json").read_text())]
    answers = {file: top5(ask((options.model_dir / file).read_bytes())) for file in files}
    print(json.dumps({"client": f"mlserver {version('mlserver')}", "answers": answers}))


if __name__ == "__main__":
    main()
