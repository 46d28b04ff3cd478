"""MLServer with one model, as `mlserver start` would start it, and MODELSWARM_WORKERS inference workers."""

from __future__ import annotations

import argparse
import asyncio
import os
import struct
from http import HTTPStatus
from typing import Any

import mlserver
import mlserver.grpc.servicers
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from mlserver.errors import InferenceError
from mlserver.grpc.converters import ModelInferRequestConverter
from mlserver.utils import install_uvloop_event_loop

from services.mlserver.runtime import MobileNet
from services.model.contract import MAX_BODY_BYTES, Settings

# For a worker to end before it is killed, and for requests that it leaves without an answer.
STOP_S = 1
READING_FAILED = (LookupError, TypeError, ValueError, struct.error)


class StrictConverter(ModelInferRequestConverter):
    """Names every failure to read a gRPC message as the client's: MLServer's own calls some INTERNAL."""

    @classmethod
    def to_types(cls, pb_object: Any) -> Any:
        """As MLServer's; raises InferenceError for whatever is wrong with the message."""
        try:
            return super().to_types(pb_object)
        except READING_FAILED as error:
            raise InferenceError(f"the request cannot be read ({type(error).__name__}: {error})") from error


async def unreadable(_: Request, error: RequestValidationError) -> JSONResponse:
    """Say what is wrong with a request, without the request: FastAPI's own answer fails on binary ones."""
    found = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return JSONResponse({"error": "; ".join(found)}, HTTPStatus.UNPROCESSABLE_ENTITY)


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    settings = mlserver.Settings(
        debug=False,  # no log line per request
        host=options.host,
        http_port=options.port,
        grpc_port=options.grpc_port,
        grpc_max_message_length=MAX_BODY_BYTES,  # gRPC's own is a quarter of it
        metrics_port=options.metrics_port,
        parallel_workers=Settings.from_env().workers,
        parallel_workers_timeout=STOP_S,
    )
    # At the end its workers go first: whoever waits for one of them then would be waited for without end.
    settings._custom_rest_server_settings = {"timeout_graceful_shutdown": STOP_S}
    model = mlserver.ModelSettings(name="mobilenet", implementation=MobileNet)
    mlserver.grpc.servicers.ModelInferRequestConverter = StrictConverter
    server = mlserver.MLServer(settings)
    server._rest_server._app.add_exception_handler(RequestValidationError, unreadable)
    await server.start([model])


def main() -> None:
    """Read the addresses, and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--grpc-port", type=int, default=8081)
    parser.add_argument("--metrics-port", type=int, default=8082)
    install_uvloop_event_loop()
    asyncio.run(serve(parser.parse_args()))
    os._exit(0)  # all requests are answered; taking everything down in order would take seconds


if __name__ == "__main__":
    main()
