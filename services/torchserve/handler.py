"""TorchServe's handler, inside the model archive: JPEG or PNG bytes in, the top 5 out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from services.model.runtime import BadInput, Classifier, answer_or_error


class Handler:
    """Made and initialized once in each worker; gets batches, which are of one unless told more."""

    def initialize(self, context: Any) -> None:
        """Load the TorchScript model and the labels that lie beside this file in the archive."""
        folder = Path(context.system_properties["model_dir"])
        self._classifier = Classifier(folder, int(os.environ["MODELSWARM_THREADS"]))

    def handle(self, rows: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer each request of a batch; a mistake is answered with 4xx, not raised, which would be 5xx."""
        bodies = [bytes(row.get("data") or row.get("body") or b"") for row in rows]
        results = self._classifier.predict_batch(bodies, read=_image)
        return [_reply(index, *answer_or_error(result), context) for index, result in enumerate(results)]


def _image(body: bytes) -> bytes:
    if not body:
        raise BadInput("the body is empty; send a JPEG or PNG")
    return body


def _reply(index: int, body: dict[str, Any], status: int, context: Any) -> bytes:
    context.set_response_content_type(index, "application/json")
    context.set_response_status(int(status), idx=index)
    return json.dumps(body).encode()
