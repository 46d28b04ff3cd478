"""The stand-in's gRPC services, on TensorFlow Serving's own generated classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from services.tensorflow_serving.models import MAX_ELEMENTS, Models, Refused, bad

DEFAULT_SIGNATURE = "serving_default"


def metadata(models: Models, spec: Any) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of a version."""
    version = chosen(models, spec)
    found = get_model_metadata_pb2.SignatureDefMap()
    for name, function in models.find(spec.name).versions[version].signatures.items():
        definition = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
        for side, tensors in (
            (definition.inputs, function.structured_input_signature[1]),
            (definition.outputs, function.structured_outputs),
        ):
            for key, tensor in tensors.items():
                side[key].name, side[key].dtype = tensor.name, tensor.dtype.as_datatype_enum
                side[key].tensor_shape.CopyFrom(tensor.shape.as_proto())
        found.signature_def[name].CopyFrom(definition)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name, response.model_spec.version.value = spec.name, version
    response.metadata["signature_def"].Pack(found)
    return response


def status(models: Models, spec: Any) -> get_model_status_pb2.GetModelStatusResponse:
    """The state of a version, or of all where none is named."""
    model = models.find(spec.name)
    one = spec.WhichOneof("version_choice")
    numbers = [chosen(models, spec)] if one else sorted(model.versions, reverse=True)
    response = get_model_status_pb2.GetModelStatusResponse()
    for number in numbers:
        entry = response.model_version_status.add(version=number)
        entry.state = get_model_status_pb2.ModelVersionStatus.State.AVAILABLE
        entry.status.error_code = 0
    return response


def chosen(models: Models, spec: Any) -> int:
    """The version that a ModelSpec means."""
    kind = spec.WhichOneof("version_choice")
    version = spec.version.value if kind == "version" else None
    return models.find(spec.name).choose(version, spec.version_label if kind == "version_label" else None)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """Predict and GetModelMetadata; the rest is for models with other signatures, and unimplemented."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Run a signature on the tensors of a request."""
        return _refusing(context, lambda: self._predict(request), self._models, request.model_spec.name)

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return the signatures."""
        return _refusing(context, lambda: metadata(self._models, request.model_spec))

    def _predict(self, request: Any) -> Any:
        spec = request.model_spec
        version = chosen(self._models, spec)
        function = self._models.signature(spec.name, version, spec.signature_name or DEFAULT_SIGNATURE)
        outputs = self._models.predict(
            function, {key: _tensor(value) for key, value in request.inputs.items()}
        )
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.version.value = spec.name, version
        response.model_spec.signature_name = spec.signature_name
        for key, value in outputs.items():
            if not request.output_filter or key in request.output_filter:
                response.outputs[key].dtype = tf.as_dtype(value.dtype).as_datatype_enum
                response.outputs[key].tensor_shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
                response.outputs[key].float_val.extend(
                    value.ravel()
                )  # as the real one does, not tensor_content
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    """State of the versions, and a new configuration while it runs: that is how labels are moved."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return the versions' states."""
        return _refusing(context, lambda: status(self._models, request.model_spec))

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Take a new configuration."""

        def reload() -> Any:
            if request.config.WhichOneof("config") != "model_config_list":  # it would unload every model
                raise bad("ReloadConfigRequest must hold a model_config_list")
            self._models.apply(request.config)
            return model_management_pb2.ReloadConfigResponse()

        return _refusing(context, reload)


def _refusing(
    context: grpc.ServicerContext, do: Callable[[], Any], models: Models | None = None, model: str = ""
) -> Any:
    try:
        response = do()
    except Refused as error:
        if models:
            models.count(model, error.code.name)
        context.abort(error.code, str(error))
    if models:
        models.count(model, "OK")
    return response


def _tensor(proto: Any) -> Any:
    size = math.prod(dim.size for dim in proto.tensor_shape.dim)
    if not 0 <= size <= MAX_ELEMENTS:
        raise bad(f"a tensor of {size} elements; at most {MAX_ELEMENTS} are taken")
    try:
        array: np.ndarray[Any, Any] = tf.make_ndarray(proto)
        return tf.constant(array)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise bad(f"Tensor proto cannot be parsed: {str(error)[:200]}") from error
