"""Triton's Python backend: JPEG or PNG in, ONNX Runtime on the shared export, top 5 out."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from PIL import Image

sys.path += os.environ.get("PYTHONPATH", "").split(os.pathsep)  # which the backend's interpreter ignores

from services.model.contract import BadInput, Settings
from services.model.runtime import SIDE, TOP, prepare


class TritonPythonModel:
    """One instance: `instance_group.count` of them run side by side, each in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load and warm up; the server is ready only after it."""
        settings = Settings.from_env()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = settings.threads, 1
        path = str(settings.model_dir / "model.onnx")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        blank = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE)).save(blank, "JPEG")
        for _ in range(2):
            self._infer(prepare(blank.getvalue()).numpy())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, all of their images in one inference; a bad image fails its request alone."""
        images: list[np.ndarray] = []
        spans: list[tuple[int, int] | BadInput] = []
        for request in requests:
            elements = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().ravel()
            try:
                prepared = [prepare(element).numpy() for element in elements]
            except BadInput as error:
                spans.append(error)
                continue
            spans.append((len(images), len(images) + len(prepared)))
            images += prepared
        ids, confidences = self._infer(np.concatenate(images)) if images else (None, None)
        return [
            _refused(span)
            if isinstance(span, BadInput)
            else _answer(ids[slice(*span)], confidences[slice(*span)])
            for span in spans
        ]

    def _infer(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (probabilities,) = self._session.run(["probabilities"], {"images": batch})
        ids = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
        return ids.astype(np.int32), np.take_along_axis(probabilities, ids, axis=1)


def _answer(ids: np.ndarray, confidences: np.ndarray) -> Any:
    tensors = [pb_utils.Tensor("class_id", ids), pb_utils.Tensor("confidence", confidences)]
    return pb_utils.InferenceResponse(tensors)


def _refused(error: BadInput) -> Any:
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    )
