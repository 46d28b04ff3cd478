"""Ask a server every text with KServe's own client, and name the answers that are not the stored ones."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--host", required=True)
parser.add_argument("--protocol", required=True)
parser.add_argument("--model-dir", type=Path, required=True)
options = parser.parse_args()
del sys.argv[1:]  # KServe reads them too when it is imported

from kserve import InferenceRESTClient, RESTConfig  # noqa: E402  # after its arguments are gone

TEXTS = Path(__file__).resolve().parents[3] / "locustfiles" / "huggingface_texts.json"
TOLERANCE = 1e-3


async def wrong(rows: list[dict[str, Any]]) -> list[str]:
    sentences = []
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        for row in rows:
            body = {"instances": [row["text"]]}
            answer = await client.infer(options.host, body, model_name="distilbert")
            found = [(p["class_id"], p["confidence"]) for p in answer["predictions"][0]]
            near = zip(found, row["tiny"], strict=True)
            if not all(i == j and abs(p - q) <= TOLERANCE for (i, p), (j, q) in near):
                sentences.append(f"{row['name']}: {found}, stored are {row['tiny']}")
    return sentences


def main() -> None:
    rows = json.loads(TEXTS.read_text(encoding="utf-8"))
    found = asyncio.run(wrong(rows))
    print(json.dumps({"client": f"kserve {version('kserve')}", "checked": len(rows), "wrong": found}))


if __name__ == "__main__":
    main()
