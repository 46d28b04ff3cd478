"""Ask a server every test image with TensorFlow Serving's stubs, or over REST as its tutorial does."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

sys.path.pop(0)  # this folder, in which we have the package's name

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

MODEL, LABEL = "mobilenet", "stable"
Array = np.ndarray[Any, Any]


def over_grpc(host: str) -> Callable[[bytes], Array]:
    channel = grpc.insecure_channel(host.removeprefix("grpc://"))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def ask(image: bytes) -> Array:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.version_label = MODEL, LABEL
        request.model_spec.signature_name = "serving_jpeg"
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([image]))
        return tf.make_ndarray(stub.Predict(request, 30.0).outputs["probabilities"])[0]

    return ask


def over_rest(host: str) -> Callable[[bytes], Array]:
    def ask(image: bytes) -> Array:
        instances = [{"b64": base64.b64encode(image).decode()}]
        body = json.dumps({"signature_name": "serving_jpeg", "instances": instances}).encode()
        with urlopen(Request(f"{host}/v1/models/{MODEL}/labels/{LABEL}:predict", body)) as answer:
            return np.array(json.load(answer)["predictions"][0])

    return ask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--protocol", required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    options = parser.parse_args()
    if options.protocol == "tensors":
        print(json.dumps({"skip": "the same REST API as the protocol rest; it has no client of its own"}))
        return
    ask = (over_grpc if options.protocol == "grpc" else over_rest)(options.host)
    answers = {}
    for entry in json.loads((options.model_dir / "images.json").read_text()):
        probabilities = ask((options.model_dir / entry["file"]).read_bytes())
        best = np.argsort(-probabilities, kind="stable")[:5]
        answers[entry["file"]] = [(int(k), float(probabilities[k])) for k in best]
    client = f"tensorflow-serving-api {version('tensorflow-serving-api')}"
    print(json.dumps({"client": client, "answers": answers}))


if __name__ == "__main__":
    main()
