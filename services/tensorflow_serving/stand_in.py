"""A stand-in for tensorflow_model_server where there is none: its gRPC services and REST API, in Python.

It is not TensorFlow Serving and says so: in its log, its Server header and its metrics. Requests, answers,
status codes and configuration files are the real ones; speed is not.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import grpc
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from services.model.contract import MAX_BODY_BYTES, Settings
from services.tensorflow_serving.models import Models
from services.tensorflow_serving.rest import RestServer
from services.tensorflow_serving.rpc import ModelService, PredictionService

GRACE_S = 3.0


def main() -> NoReturn:
    """Load the models, serve until SIGTERM, answer what is under way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8500)
    parser.add_argument("--rest_api_port", type=int, default=8501)
    parser.add_argument("--model_config_file", type=Path, required=True)
    parser.add_argument("--monitoring_config_file", type=Path, required=True)
    options = parser.parse_args()
    settings = Settings.from_env()
    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    tf.config.threading.set_inter_op_parallelism_threads(settings.workers)
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse(options.model_config_file.read_text(encoding="utf-8"), config)
    models = Models(settings.workers)
    models.apply(config)

    calls = grpc.server(
        ThreadPoolExecutor(max_workers=16),
        options=[("grpc.max_receive_message_length", MAX_BODY_BYTES), ("grpc.so_reuseport", 0)],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(models), calls)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(models), calls)
    calls.add_insecure_port(f"{options.host}:{options.port}")
    calls.start()
    rest = RestServer(
        (options.host, options.rest_api_port), models, _metrics_path(options.monitoring_config_file)
    )
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    print("This is a stand-in for TensorFlow Serving, not TensorFlow Serving. Ready.", flush=True)

    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ended = calls.stop(GRACE_S)
    rest.shutdown()
    ended.wait()
    os._exit(0)  # TensorFlow takes seconds to take itself down, and nothing is left to save


def _metrics_path(file: Path) -> str | None:
    text = file.read_text(encoding="utf-8")
    path = re.search(r'path:\s*"([^"]+)"', text)
    return path[1] if path and re.search(r"enable:\s*true", text) else None


if __name__ == "__main__":
    main()
