"""KServe's model server on an address of our choice, and with 4xx for every request that it cannot read.

Its own listens on all interfaces, without an option, answers some unreadable requests with 500, and refuses
images in binary over REST, as its own client sends them.
"""

from __future__ import annotations

import argparse
import logging
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import kserve.model_server
import kserve.protocol.infer_type
import kserve.protocol.rest.multiprocess.server
from grpc import aio
from kserve import InferInput, Model, ModelServer
from kserve.errors import InferenceError, InvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.rest.multiprocess.server import RESTServerProcess
from kserve.protocol.rest.server import RESTServer

from services.model.contract import MAX_BODY_BYTES, Settings
from services.supervise import end_with_parent

START_S = 60.0
GRACE_S = 3  # for requests under way when the server is told to end; for REST, then for gRPC
READING_FAILED = (AttributeError, InferenceError, LookupError, TypeError, ValueError, struct.error)


class StrictDataPlane(DataPlane):
    """Names every failure to read a request as the client's."""

    def decode(self, *args: Any, **options: Any) -> Any:
        """As KServe's; raises InvalidInput for whatever is wrong with the request."""
        try:
            return super().decode(*args, **options)
        except InvalidInput:
            raise
        except READING_FAILED as error:
            raise InvalidInput(f"the request cannot be read ({type(error).__name__}: {error})") from error


class BinaryInput(InferInput):
    """Keeps a BYTES tensor that came in binary: KServe makes UTF-8 text of it, which no image is."""

    def set_data_from_numpy(self, input_tensor: Any, binary_data: bool = True) -> None:
        """As KServe's, which it calls with False for what it has just read from a request's binary part."""
        super().set_data_from_numpy(input_tensor, binary_data or self.datatype == "BYTES")


class BoundRest(RESTServer):
    """Listens on `host`; without a log line per request, as the other frameworks' servers."""

    def __init__(self, *args: Any, host: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.config.host = host

    def create_application(self) -> None:
        """Called in each worker process."""
        super().create_application()
        for logger in ("uvicorn.access", "kserve.trace"):
            logging.getLogger(logger).setLevel(logging.WARNING)


class PatientProcess(RESTServerProcess):
    """A worker process that may take its time to start: KServe kills and replaces it after 5 s."""

    def is_alive(self, timeout: float = START_S) -> bool:
        """Whether it answers in time."""
        return bool(super().is_alive(timeout))


class BoundGrpc(GRPCServer):
    """Listens on `host`, and takes messages as large as the other frameworks' bodies."""

    def __init__(self, *args: Any, host: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._host = host

    async def start(self, max_workers: int) -> None:
        """As KServe's, which listens on all interfaces."""
        self._server = aio.server(
            ThreadPoolExecutor(max_workers),
            interceptors=(ExceptionToStatusInterceptor(),),
            options=[
                ("grpc.max_send_message_length", self._kwargs["grpc_max_send_message_length"]),
                ("grpc.max_receive_message_length", MAX_BODY_BYTES),
            ],
        )
        servicer = InferenceServicer(self._data_plane, self._model_repository_extension)
        add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self._server.add_insecure_port(f"{self._host}:{self._port}")
        await self._server.start()
        await self._server.wait_for_termination()


def main(make: Callable[[Settings], Model]) -> None:
    """Serve a model on the ports that KServe's own options name."""
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--end-with-parent", action="store_true")
    options = parser.parse_args()
    if options.end_with_parent:
        end_with_parent()
    serve(make(Settings.from_env()), options.host)


def serve(model: Model, host: str) -> None:
    """Serve a ready model until SIGTERM, with MODELSWARM_WORKERS workers, on ports of its own options."""
    kserve.protocol.infer_type.InferInput = BinaryInput
    kserve.model_server.RESTServer = partial(BoundRest, host=host)
    kserve.protocol.rest.multiprocess.server.RESTServer = partial(BoundRest, host=host)
    kserve.protocol.rest.multiprocess.server.RESTServerProcess = PatientProcess
    kserve.model_server.GRPCServer = partial(BoundGrpc, host=host)
    workers = Settings.from_env().workers
    server = ModelServer(workers=workers, enable_latency_logging=False, grace_period=GRACE_S)
    server.dataplane = StrictDataPlane(model_registry=server.registered_models)
    server.start([model])
    os._exit(0)  # all requests are answered; taking torch down in order would take seconds
