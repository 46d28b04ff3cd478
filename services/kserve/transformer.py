"""KServe transformer: makes the predictor's tensor of a JPEG, and a top 5 of its probabilities; and explains.

V1: `{"instances": [{"image_bytes": {"b64": "…"}}]}`.  V2: one BYTES element `image`, in base64 in JSON, as it
is in binary, over REST and gRPC.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model
from kserve.context import set_predictor_config
from kserve.errors import InvalidInput
from kserve.predictor_config import PredictorConfig
from kserve.utils.utils import generate_uuid

from services.kserve.predictor import INPUT, NAME, OUTPUT
from services.kserve.serving import READING_FAILED, main
from services.model.runtime import SIDE, TOP, BadInput, Prediction, Settings, decode_base64, prepare

PATCHES = 7  # a side: each hides 32 x 32 pixels


class Prepared(InferRequest):
    """The predictor's request for an image, and the client's request that it came of."""

    def __init__(self, image: torch.Tensor, asked: dict[str, Any] | InferRequest) -> None:
        tensor = InferInput(INPUT, list(image.shape), "FP32")
        tensor.set_data_from_numpy(image.numpy(), binary_data=True)
        super().__init__(NAME, [tensor], parameters={"binary_data_output": True})
        self.image, self.asked = image, asked


class Transformer(Model):
    """Asks the predictor that KServe's option --predictor_host names."""

    def __init__(self, model_dir: Path) -> None:
        super().__init__(NAME)
        self.model_dir = model_dir
        self.labels = (model_dir / "labels.txt").read_text(encoding="utf-8").splitlines()
        self.ready = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _in_worker, (self.model_dir, self.predictor_config)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Metadata of the V2 protocol."""
        return [{"name": "image", "datatype": "BYTES", "shape": [1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Metadata of the V2 protocol."""
        kinds = {"class_id": "INT64", "class_name": "BYTES", "confidence": "FP32"}
        return [{"name": name, "datatype": kind, "shape": [1, TOP]} for name, kind in kinds.items()]

    async def preprocess(self, payload: Any, headers: Any = None) -> Prepared:
        """Decode, resize and normalise the image of a request."""
        try:
            encoded = _from_v2(payload) if isinstance(payload, InferRequest) else _from_v1(payload)
            return Prepared(prepare(encoded), payload)
        except BadInput as error:
            raise InvalidInput(str(error)) from error

    async def predict(self, payload: Prepared, headers: Any = None, response_headers: Any = None) -> Any:
        """Answer in the protocol that was asked in."""
        [top] = self.tops(await self.probabilities(payload))
        if not isinstance(payload.asked, InferRequest):
            return {"predictions": [[prediction._asdict() for prediction in top]]}
        return InferResponse(
            payload.asked.id or generate_uuid(),
            NAME,
            self._outputs(top, payload.asked),
            use_binary_outputs=payload.asked.use_binary_outputs,
            requested_outputs=payload.asked.request_outputs,
        )

    def _outputs(self, top: list[Prediction], asked: InferRequest) -> list[InferOutput]:
        """Return those that are asked for: over gRPC, KServe itself would return all."""
        columns = zip(self.get_output_types(), zip(*top, strict=True), strict=True)
        outputs = [InferOutput(c["name"], c["shape"], c["datatype"], list(values)) for c, values in columns]
        wanted = {output.name for output in asked.request_outputs or outputs}
        if unknown := wanted - {output.name for output in outputs}:
            raise InvalidInput(f"there is no output {sorted(unknown)[0]!r}")
        return [output for output in outputs if output.name in wanted]

    async def probabilities(self, request: Prepared) -> torch.Tensor:
        """Return the predictor's [N, 1000] probabilities."""
        config = self.predictor_config
        if config.protocol == "grpc-v2":
            response = await super().predict(request)
        else:  # KServe's own `predict` names a binary tensor application/json
            response = await self._http_client.infer(config.predictor_base_url, request, model_name=NAME)
        return torch.from_numpy(response.get_output_by_name(OUTPUT).as_numpy().copy())

    def tops(self, probabilities: torch.Tensor) -> list[list[Prediction]]:
        """Return the five likeliest classes of each row, likeliest first."""
        confidences, ids = probabilities.topk(TOP)
        rows = zip(ids.tolist(), confidences.tolist(), strict=True)
        return [[Prediction(i, self.labels[i], p) for i, p in zip(*row, strict=True)] for row in rows]

    async def explain(self, payload: Prepared, headers: Any = None) -> dict[str, Any]:
        """Return what hiding each patch takes from the confidence in the top class, [7, 7].

        Occlusion sensitivity: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks",
        ECCV 2014.
        """
        [top] = self.tops(await self.probabilities(payload))
        best = top[0]
        saliency = []
        for row in range(PATCHES):
            hidden = await self.probabilities(Prepared(_hide(payload.image, row), payload.asked))
            saliency.append((best.confidence - hidden[:, best.class_id]).tolist())
        return {"explanations": [best._asdict() | {"method": "occlusion", "saliency": saliency}]}


def _in_worker(model_dir: Path, predictor: PredictorConfig) -> Transformer:
    set_predictor_config(predictor)  # KServe sets it in the first process only
    return Transformer(model_dir)


def _hide(image: torch.Tensor, row: int) -> torch.Tensor:
    """Return [7, 3, 224, 224]: the image with each patch of a row of patches in turn put to grey."""
    side = SIDE // PATCHES
    images = image.repeat(PATCHES, 1, 1, 1)
    for column in range(PATCHES):
        images[column, :, row * side : (row + 1) * side, column * side : (column + 1) * side] = 0
    return images


def _from_v1(payload: Any) -> bytes:
    if not isinstance(payload, dict):
        raise InvalidInput('send {"instances": [{"image_bytes": {"b64": "…"}}]} as application/json')
    match payload.get("instances"):
        case [{"image_bytes": {"b64": str(text)}}]:
            return decode_base64(text, "b64")
        case [_, _, *_] as instances:
            raise InvalidInput(f"`instances` holds {len(instances)} images; send one a request")
        case _:
            raise InvalidInput('`instances` is not [{"image_bytes": {"b64": "…"}}]')


def _from_v2(request: InferRequest) -> bytes:
    given = request.get_input_by_name("image")
    if given is None or given.datatype != "BYTES" or len(request.inputs) != 1:
        raise InvalidInput("send one input `image` of datatype BYTES")
    try:
        [element] = np.ravel(given.as_numpy()).tolist()
    except READING_FAILED as error:
        raise InvalidInput(f"`image` is not one element of datatype BYTES: {error}") from error
    if isinstance(element, bytes):
        # base64 is ASCII, and no JPEG or PNG begins with it: clients differ in what they put into binary data
        return decode_base64(element.decode(), "image") if element.isascii() else element
    if not isinstance(element, str):
        raise InvalidInput("the element of `image` is not a string; it holds a JPEG or PNG in base64")
    return decode_base64(element, "image")


def transformer(settings: Settings) -> Transformer:
    """Limited to its threads, as the predictor is."""
    torch.set_num_threads(settings.threads)
    return Transformer(settings.model_dir)


if __name__ == "__main__":
    main(transformer)
