"""Components of Seldon graphs: a model, a transformer that can stand before it, and an A/B router.

Images come as `{"binData": "<base64>"}`, prepared tensors as `{"data": {"tensor": {"shape", "values"}}}`.
"""

from __future__ import annotations

import json
import random
import threading
from http import HTTPStatus
from typing import Any

import torch
from flask import Blueprint, Response, jsonify, request
from seldon_core.flask_utils import SeldonMicroserviceException
from werkzeug.exceptions import HTTPException

from services.model.runtime import SIDE, BadInput, Classifier, Settings, answer, decode_base64, prepare

SHAPE = [1, 3, SIDE, SIDE]


class Component:
    """Answers what cannot be read with 4xx; Seldon's own wrapper answers some of it with 500."""

    model_error_handler = Blueprint("errors", __name__)

    @staticmethod
    @model_error_handler.app_errorhandler(HTTPException)
    def http_error(error: HTTPException) -> tuple[Response, int]:
        """Unknown paths and methods."""
        return _failure(error.description or "", error.code or HTTPStatus.BAD_REQUEST)

    @staticmethod
    @model_error_handler.app_errorhandler(json.JSONDecodeError)
    @model_error_handler.app_errorhandler(UnicodeDecodeError)
    @model_error_handler.app_errorhandler(RecursionError)
    def unreadable(error: Exception) -> tuple[Response, int]:
        """A body that is no JSON."""
        return _failure(f"the request is not JSON ({type(error).__name__})", HTTPStatus.BAD_REQUEST)

    @staticmethod
    @model_error_handler.app_errorhandler(TypeError)
    @model_error_handler.app_errorhandler(ValueError)
    @model_error_handler.app_errorhandler(KeyError)
    @model_error_handler.app_errorhandler(NameError)
    def bad_feedback(error: Exception) -> tuple[Response, int]:
        """Feedback that Seldon's wrapper cannot read: it looks at its form while it takes it apart.

        A NameError is a `tftensor`, as there is no TensorFlow here. Anywhere else they are faults of ours.
        """
        if request.endpoint != "SendFeedback":
            raise error
        return _failure(f"the feedback cannot be read: {error}", HTTPStatus.BAD_REQUEST)

    @staticmethod
    @model_error_handler.app_errorhandler(BadInput)
    def bad_input(error: BadInput) -> tuple[Response, int]:
        """What our own checks find."""
        return _failure(str(error), error.status)


def _failure(sentence: str, status: int) -> tuple[Response, int]:
    return jsonify(SeldonMicroserviceException(sentence).to_dict()), status


class MobileNet(Component):
    """The model: takes an image, or the tensor that `Preparation` makes of one."""

    def __init__(self) -> None:
        self.settings = Settings.from_env()
        self.classifier: Classifier | None = None
        self._one_at_a_time = threading.Lock()  # an inference takes its own cores

    def load(self) -> None:
        """Called in each worker process before its first request."""
        self.classifier = Classifier(self.settings.model_dir, self.settings.threads)

    def predict_raw(self, message: Any) -> dict[str, Any]:
        """Return the top 5 as `jsonData`."""
        assert self.classifier is not None
        with self._one_at_a_time:
            if isinstance(message, dict) and "data" in message:
                probabilities = self.classifier.probabilities(_tensor(message["data"]))
                predictions = self.classifier.top5(probabilities)
            else:
                predictions = self.classifier.predict(_image(message))
        return {"jsonData": answer(predictions), "meta": {}}

    def health_status(self) -> dict[str, Any]:
        """Answer once a worker has loaded the model: none takes requests before."""
        return {"ready": True}


class Preparation(Component):
    """Transformer: makes the network's input of an image."""

    def transform_input_raw(self, message: Any) -> dict[str, Any]:
        """Return the message with a tensor in place of the image."""
        values = prepare(_image(message)).flatten().tolist()
        return {"data": {"tensor": {"shape": SHAPE, "values": values}}, "meta": message.get("meta", {})}


class AbRouter(Component):
    """Router: sends `share_of_first` of the requests to branch 0, the others to branch 1, at random.

    Feedback is counted by branch, so that a test of A against B can be read off the metrics.
    """

    def __init__(self, share_of_first: float = 0.5, seed: int | None = None) -> None:
        self.share_of_first = share_of_first
        self._random = random.Random(seed)
        self.rewards = [0.0, 0.0]

    def route(self, features: Any, names: Any) -> int:
        """Return the branch of a request."""
        return 0 if self._random.random() < self.share_of_first else 1

    def send_feedback(
        self, features: Any, names: Any, reward: float, truth: Any, routing: int | None
    ) -> None:
        """Credit the branch that answered; `routing` is what `route` said of the request."""
        if routing in (0, 1):
            self.rewards[routing] += reward

    def metrics(self) -> list[dict[str, Any]]:
        """Rewards so far, for Prometheus."""
        return [
            {"type": "GAUGE", "key": f"reward_branch_{branch}", "value": reward}
            for branch, reward in enumerate(self.rewards)
        ]


def _image(message: Any) -> bytes:
    text = message.get("binData") if isinstance(message, dict) else None
    if not isinstance(text, str | bytes) or not text:  # bytes come from a form's file
        raise BadInput('send {"binData": "…"}, a JPEG or PNG in base64')
    return decode_base64(text, "binData")


def _tensor(data: Any) -> torch.Tensor:
    match data:
        case {"tensor": {"shape": shape, "values": [*values]}} if shape == SHAPE:
            pass
        case _:
            raise BadInput(f'send {{"binData": "…"}}, or {{"data": {{"tensor": …}}}} of shape {SHAPE}')
    try:
        return torch.tensor(values, dtype=torch.float32).reshape(SHAPE)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BadInput(f"the tensor's values are not {SHAPE} numbers: {error}") from None
