"""Ask a server every test image with NVIDIA's tritonclient, over HTTP or gRPC."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import tritonclient.grpc
import tritonclient.http

MODEL = "mobilenet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--protocol", required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    options = parser.parse_args()
    api = tritonclient.grpc if options.protocol == "grpc" else tritonclient.http
    client = api.InferenceServerClient(urlsplit(options.host).netloc)
    assert client.is_model_ready(MODEL)
    answers = {}
    for entry in json.loads((options.model_dir / "images.json").read_text()):
        image = api.InferInput("image", [1, 1], "BYTES")
        jpeg = (options.model_dir / entry["file"]).read_bytes()
        image.set_data_from_numpy(np.array([[jpeg]], dtype=np.object_))
        result = client.infer(MODEL, [image])
        ids, confidences = result.as_numpy("class_id")[0], result.as_numpy("confidence")[0]
        answers[entry["file"]] = [(int(k), float(p)) for k, p in zip(ids, confidences, strict=True)]
    print(json.dumps({"client": f"tritonclient {version('tritonclient')}", "answers": answers}))


if __name__ == "__main__":
    main()
