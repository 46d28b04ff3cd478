"""FastAPI: the model is loaded in the lifespan, and one thread per process runs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from services.model.runtime import MAX_BODY_BYTES, BadInput, Classifier, Settings, answer, decode_request


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load and warm up before the first connection is accepted.

    Inference takes `threads` cores by itself, so one at a time is as many as are worth running; the event
    loop stays free for connections.
    """
    settings = Settings.from_env()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
    run = asyncio.get_running_loop().run_in_executor
    classifier = await run(pool, Classifier, settings.model_dir, settings.threads)

    def predict(body: bytes) -> dict[str, Any]:
        return answer(classifier.predict(decode_request(body)))

    app.state.predict = lambda body: run(pool, predict, body)
    yield
    pool.shutdown(cancel_futures=True)


app = FastAPI(title="modelswarm on FastAPI", lifespan=lifespan)


@app.exception_handler(BadInput)
async def bad_input(_: Request, error: BadInput) -> JSONResponse:
    """Tell the client what to send instead."""
    return JSONResponse({"error": str(error)}, error.status)


@app.exception_handler(ClientDisconnect)
async def gone(_: Request, __: ClientDisconnect) -> Response:
    """End the request of a client that went away while it was sending; nobody reads this."""
    return Response(status_code=HTTPStatus.BAD_REQUEST)


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """Return the top 5 of the JPEG or PNG in `image_base64`."""
    body = bytearray()
    async for chunk in request.stream():
        if len(body) <= MAX_BODY_BYTES:  # what is too much is read but not kept, so that the client sees why
            body += chunk
    result: dict[str, Any] = await request.app.state.predict(bytes(body))
    return result


@app.get("/health")
async def health() -> dict[str, str]:
    """Answer once the model is loaded: the lifespan lets no request in before."""
    return {"status": "ok"}
