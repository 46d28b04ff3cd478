"""Ask a server every test image with Seldon's own client, as it asks a gateway, and print the answers.

For the protocol `feedback` each answer is told back, and what is wrong is the images for which that failed.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seldon_core.seldon_client import SeldonClient


def predicted(client: SeldonClient, image: bytes) -> Any:
    done = client.predict(bin_data=image)
    assert done.success, done.msg
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--protocol", required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    options = parser.parse_args()
    feedback = options.protocol == "feedback"
    client = SeldonClient(
        gateway="seldon",
        transport="rest",
        gateway_endpoint=options.host.removeprefix("http://"),
        client_return_type="proto" if feedback else "dict",  # it builds feedback of messages alone
    )
    files = [entry["file"] for entry in json.loads((options.model_dir / "images.json").read_text())]
    done = {file: predicted(client, (options.model_dir / file).read_bytes()) for file in files}
    told: dict[str, Any] = {"client": f"seldon-core {version('seldon-core')}"}
    if feedback:
        sent = {file: client.feedback(each.request, each.response, reward=1.0) for file, each in done.items()}
        wrong = [file for file, each in sent.items() if not each.success or each.response.HasField("status")]
        told |= {"checked": len(sent), "wrong": wrong}
    else:
        found = {file: each.response["jsonData"]["predictions"] for file, each in done.items()}
        told["answers"] = {
            file: [(int(p["class_id"]), p["confidence"]) for p in top5] for file, top5 in found.items()
        }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
