"""KServe predictor: a prepared tensor in, probabilities out, over the Open Inference Protocol (V2)."""

from __future__ import annotations

from typing import Any

import torch
from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model
from kserve.errors import InvalidInput
from kserve.utils.utils import generate_uuid

from services.kserve.serving import READING_FAILED, main
from services.model.runtime import SIDE, Classifier, Settings

NAME = "mobilenet"
INPUT, OUTPUT = "input", "probabilities"
MOST_IMAGES = 64


class Predictor(Model):
    """Ready once constructed; each worker process loads the model for itself."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(NAME)
        self.settings = settings
        self.classifier = Classifier(settings.model_dir, settings.threads)
        self.ready = True

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.settings,)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Metadata of the V2 protocol."""
        return [{"name": INPUT, "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Metadata of the V2 protocol."""
        return [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, 1000]}]

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> Any:
        """Return the [N, 1000] probabilities of the [N, 3, 224, 224] in `input`."""
        if not isinstance(payload, InferRequest):
            raise InvalidInput("the predictor speaks the V2 protocol; send images to the transformer")
        batch = torch.from_numpy(_tensor(payload))
        rows = torch.stack([self.classifier.probabilities(image.unsqueeze(0)) for image in batch]).numpy()
        output = InferOutput(OUTPUT, list(rows.shape), "FP32")
        output.set_data_from_numpy(rows, binary_data=True)
        number = payload.id or generate_uuid()
        return InferResponse(number, NAME, [output], use_binary_outputs=payload.use_binary_outputs)


def _tensor(request: InferRequest) -> Any:
    given: InferInput | None = request.get_input_by_name(INPUT)
    if given is None or given.datatype != "FP32":
        raise InvalidInput(f"send one input `{INPUT}` of datatype FP32")
    try:
        array = given.as_numpy()
    except READING_FAILED as error:
        raise InvalidInput(f"`{INPUT}` does not hold what its shape says: {error}") from error
    if array.shape[1:] != (3, SIDE, SIDE) or not 1 <= len(array) <= MOST_IMAGES:
        raise InvalidInput(f"`{INPUT}` has shape {array.shape}, not (1 to {MOST_IMAGES}, 3, {SIDE}, {SIDE})")
    return array.copy()  # the message's own buffer is read-only


if __name__ == "__main__":
    main(Predictor)
