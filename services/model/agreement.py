"""Do all exports give the same answer? A comparison of servers is worth nothing if they do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from services.model.runtime import TOP, Classifier, prepare

Array = np.ndarray[Any, Any]
Predictor = Callable[[bytes], Array]

MAX_DIFFERENCE = 1e-4


class Disagreement(RuntimeError):
    """Two exports answer differently; says which, on which image, and how."""


def check(model_dir: Path) -> float:
    """Ask every export about every test image and return the largest difference of a probability.

    Disagreement when a top 5 is not the one in images.json or a probability is more than 1e-4 off.
    """
    images = json.loads((model_dir / "images.json").read_text(encoding="utf-8"))
    exports = predictors(model_dir)
    largest = 0.0
    for image in images:
        jpeg = (model_dir / image["file"]).read_bytes()
        answers = {name: predict(jpeg) for name, predict in exports.items()}
        expected = [entry["class_id"] for entry in image["top5"]]
        reference = answers["TorchScript"]
        for name, answer in answers.items():
            top = ranked(answer)[:TOP].tolist()
            if top != expected:
                raise Disagreement(f"{name} answers {image['file']} with top 5 {top}, not {expected}")
            difference = float(abs(answer - reference).max())
            if difference > MAX_DIFFERENCE:
                raise Disagreement(
                    f"{name} is {difference:.2g} off TorchScript on {image['file']}, "
                    f"more than {MAX_DIFFERENCE:.0e}"
                )
            largest = max(largest, difference)
    return largest


def ranked(probabilities: Array) -> Array:
    """Class ids from the likeliest to the least likely."""
    order: Array = np.argsort(-probabilities, kind="stable")
    return order


def predictors(model_dir: Path) -> dict[str, Predictor]:
    """Load every export from its file, as a function from JPEG bytes to [1000] probabilities."""
    import onnxruntime
    import tensorflow as tf

    classifier = Classifier(model_dir, threads=1)
    session = onnxruntime.InferenceSession(str(model_dir / "model.onnx"), providers=["CPUExecutionProvider"])
    signatures = tf.saved_model.load(str(model_dir / "saved_model")).signatures

    def torchscript(jpeg: bytes) -> Array:
        return classifier.probabilities(prepare(jpeg)).numpy()

    def onnx(jpeg: bytes) -> Array:
        answer: Array = session.run(["probabilities"], {"images": prepare(jpeg).numpy()})[0][0]
        return answer

    def tf_floats(jpeg: bytes) -> Array:
        images = tf.constant(prepare(jpeg).permute(0, 2, 3, 1).numpy())
        answer: Array = signatures["serve"](images=images)["probabilities"][0].numpy()
        return answer

    def tf_jpeg(jpeg: bytes) -> Array:
        image_bytes = tf.constant([jpeg])
        answer: Array = signatures["serving_jpeg"](image_bytes=image_bytes)["probabilities"][0].numpy()
        return answer

    return {
        "TorchScript": torchscript,
        "ONNX": onnx,
        "SavedModel serve": tf_floats,
        "SavedModel serving_jpeg": tf_jpeg,
    }
