"""Ask a server every test image with KServe's own clients, over V1, V2 and gRPC, and print the answers."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--host", required=True)
parser.add_argument("--protocol", required=True)
parser.add_argument("--model-dir", type=Path, required=True)
options = parser.parse_args()
del sys.argv[1:]  # KServe reads them too when it is imported

from kserve import (  # noqa: E402  # after its arguments are gone
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    InferResponse,
    RESTConfig,
)

MODEL = "mobilenet"


def v1_request(image: bytes) -> dict[str, Any]:
    return {"instances": [{"image_bytes": {"b64": base64.b64encode(image).decode()}}]}


def v2_request(image: bytes | str, in_binary: bool = True) -> InferRequest:
    """The client's default is binary."""
    given = InferInput("image", [1], "BYTES")
    given.set_data_from_numpy(np.array([image], dtype=np.object_), binary_data=in_binary)
    return InferRequest(MODEL, [given])


def v2_forms(image: bytes) -> dict[str, InferRequest]:
    """The ways in which an image can be sent, by name."""
    text = base64.b64encode(image).decode()
    return {
        "in binary": v2_request(image),
        "as base64 in binary": v2_request(text),
        "as base64 in JSON": v2_request(text, in_binary=False),
    }


def v2_top5(response: InferResponse) -> list[tuple[int, float]]:
    columns = [
        np.ravel(response.get_output_by_name(n).as_numpy()).tolist() for n in ("class_id", "confidence")
    ]
    return list(zip(*columns, strict=True))


async def answers(host: str, protocol: str, images: dict[str, bytes]) -> dict[str, list[tuple[int, float]]]:
    if protocol == "grpc":
        async with InferenceGRPCClient(host.removeprefix("grpc://")) as grpc:
            return {name: v2_top5(await grpc.infer(v2_request(image))) for name, image in images.items()}
    async with InferenceRESTClient(RESTConfig(protocol=protocol)) as rest:
        if protocol == "v1":
            found = {n: await rest.infer(host, v1_request(i), model_name=MODEL) for n, i in images.items()}
            return {
                name: [(p["class_id"], p["confidence"]) for p in body["predictions"][0]]
                for name, body in found.items()
            }
        found = {}
        for name, image in images.items():
            told = {
                form: v2_top5(await rest.infer(host, request, model_name=MODEL))
                for form, request in v2_forms(image).items()
            }
            found[name] = told["in binary"]
            if any(top5 != found[name] for top5 in told.values()):
                sys.exit(f"{name}: {told}")
        return found


def main() -> None:
    if options.protocol not in ("v1", "v2", "grpc"):
        print(json.dumps({"skip": f"KServe has no client for {options.protocol}"}))
        return
    files = [entry["file"] for entry in json.loads((options.model_dir / "images.json").read_text())]
    images = {file: (options.model_dir / file).read_bytes() for file in files}
    found = asyncio.run(answers(options.host, options.protocol, images))
    print(json.dumps({"client": f"kserve {version('kserve')}", "answers": found}))


if __name__ == "__main__":
    main()
