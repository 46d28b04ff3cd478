"""LitServe: a LitAPI in its worker processes, behind LitServe's own HTTP server.

Annotations are evaluated here: LitServe hands those of `decode_request` to FastAPI.
"""

import argparse
from typing import Annotated, Any

import litserve
from fastapi import Depends, HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from services.model.runtime import (
    MAX_BATCH,
    MAX_BATCH_WAIT_S,
    MAX_BODY_BYTES,
    BadInput,
    Classifier,
    Prediction,
    Settings,
    answer_or_error,
)


async def whole_body(http: Request) -> bytes:
    """Read a request's body; what is too much is read but not kept, so that the client sees why."""
    body = bytearray()
    try:
        async for chunk in http.stream():
            if len(body) <= MAX_BODY_BYTES:
                body += chunk
    except ClientDisconnect as gone:  # nobody is left to be told, but it is no failure of the server either
        raise HTTPException(400, "the client went away") from gone
    return bytes(body)


class MobileNet(litserve.LitAPI):
    """One instance a worker process; with batching, `predict` gets what came in within a few milliseconds."""

    def __init__(self, settings: Settings) -> None:
        batching: dict[str, Any] = {"max_batch_size": MAX_BATCH, "batch_timeout": MAX_BATCH_WAIT_S}
        super().__init__(**batching if settings.batching else {})
        self._settings = settings

    def setup(self, device: str) -> None:
        """Load the model, before the first request is taken."""
        self._classifier = Classifier(self._settings.model_dir, self._settings.threads)

    def decode_request(self, request: Annotated[bytes, Depends(whole_body)]) -> bytes:
        """Take the body as it is: LitServe's own parsing answers what is not JSON with 500."""
        return request

    def predict(self, x: Any) -> Any:
        """Return the top 5, or what is wrong with the request; for a batch, a list of them."""
        if isinstance(x, bytes):
            return self._classifier.predict_batch([x])[0]
        return self._classifier.predict_batch(x)

    def encode_response(self, output: list[Prediction] | BadInput) -> Response:
        """Answer one request; an exception would end a whole batch with one bad request's error."""
        body, status = answer_or_error(output)
        return JSONResponse(body, status)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    settings = Settings.from_env()
    server = litserve.LitServer(
        MobileNet(settings), accelerator="cpu", devices=1, workers_per_device=settings.workers, timeout=60
    )
    server.run(
        host=options.host,
        port=options.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
