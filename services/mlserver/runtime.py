"""MLServer runtime: one BYTES element `image` in, the top 5 as tensors out (Open Inference Protocol).

Over REST the element is base64 text, as MLServer's own codec has it; over gRPC it is the image itself.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import Any

from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.types import Datatype, InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

from services.model.runtime import TOP, BadInput, Classifier, Settings, decode_base64

OUTPUTS = {"class_id": Datatype.INT64, "class_name": Datatype.BYTES, "confidence": Datatype.FP32}


class MobileNet(MLModel):
    """Each of MLServer's inference workers loads the model for itself."""

    async def load(self) -> bool:
        """Return once it predicts at full speed."""
        if parent := multiprocessing.parent_process():
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        settings = Settings.from_env()
        self.classifier = Classifier(settings.model_dir, settings.threads)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return the outputs that are asked for, or all."""
        wanted = {output.name for output in payload.outputs or []} or set(OUTPUTS)
        if unknown := wanted - set(OUTPUTS):
            raise InferenceError(f"there is no output {sorted(unknown)[0]!r}; there are {', '.join(OUTPUTS)}")
        try:
            top = self.classifier.predict(_image(payload))
        except BadInput as error:
            raise InferenceError(str(error)) from None
        named = [(p.class_id, p.class_name.encode(), p.confidence) for p in top]
        columns = zip(OUTPUTS.items(), zip(*named, strict=True), strict=True)
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            outputs=[
                ResponseOutput(name=name, shape=[1, TOP], datatype=datatype, data=list(values))
                for (name, datatype), values in columns
                if name in wanted
            ],
        )


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)  # MLServer itself leaves its workers behind when it is killed


def _image(payload: InferenceRequest) -> bytes:
    match payload.inputs:
        case [RequestInput(name="image", datatype="BYTES") as given]:
            pass
        case _:
            raise InferenceError("send one input `image` of datatype BYTES")
    match given.data.root:
        case [bytes(image)] | bytes(image):
            return image
        case [str(text)]:
            return decode_base64(text, "image")
        case _:
            raise InferenceError("`image` is not one element; it holds a JPEG or PNG, over REST in base64")
