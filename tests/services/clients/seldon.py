"""Ask a server every test image with Seldon's own client, as it asks a gateway, and print the answers."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

from seldon_core.seldon_client import SeldonClient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--protocol", required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    options = parser.parse_args()
    client = SeldonClient(
        gateway="seldon",
        transport="rest",
        gateway_endpoint=options.host.removeprefix("http://"),
        client_return_type="dict",
    )
    answers = {}
    for entry in json.loads((options.model_dir / "images.json").read_text()):
        done = client.predict(bin_data=(options.model_dir / entry["file"]).read_bytes())
        assert done.success, done.msg
        found = done.response["jsonData"]["predictions"]
        answers[entry["file"]] = [(int(p["class_id"]), p["confidence"]) for p in found]
    print(json.dumps({"client": f"seldon-core {version('seldon-core')}", "answers": answers}))


if __name__ == "__main__":
    main()
