"""The stand-in's models: versions and labels by TensorFlow Serving's own configuration, and one inference."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf

MAX_ELEMENTS = 2**26


class Refused(Exception):
    """What the caller did wrong, with the gRPC status code that says so."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def bad(message: str) -> Refused:
    """An invalid argument."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


@dataclass
class Model:
    """One model: its loaded versions by number, its labels, and the folder that holds them."""

    name: str
    base_path: str
    versions: dict[int, Any] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)

    def choose(self, version: int | None, label: str | None) -> int:
        """The version that is meant: by number, by label, or the latest."""
        if label is not None:
            if label not in self.labels:
                raise Refused(
                    grpc.StatusCode.NOT_FOUND,
                    f"Unrecognized servable version label: {label} of model {self.name}",
                )
            return self.labels[label]
        chosen = max(self.versions) if version is None else version
        if chosen not in self.versions:
            raise Refused(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Specific({self.name}, {chosen})"
            )
        return chosen


class Models:
    """All models; `inferences` run at once, as many as there are workers."""

    def __init__(self, inferences: int) -> None:
        self._models: dict[str, Model] = {}
        self._slots = threading.Semaphore(inferences)
        self._counting = threading.Lock()
        self.requests: Counter[tuple[str, str]] = Counter()

    def apply(self, config: Any) -> None:
        """Load what a ModelServerConfig names and the server has not; Refused where it cannot be."""
        models = {}
        for entry in config.model_config_list.config:
            known = self._models.get(entry.name)
            loaded = known.versions if known and known.base_path == entry.base_path else {}
            numbers = entry.model_version_policy.specific.versions or [_latest(Path(entry.base_path))]
            versions = {n: loaded.get(n) or _load(Path(entry.base_path) / str(n)) for n in numbers}
            labels = dict(entry.version_labels)
            for label, version in labels.items():
                if version not in versions:
                    raise Refused(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"Label {label} cannot be given to version {version}, which is not available",
                    )
            models[entry.name] = Model(entry.name, entry.base_path, versions, labels)
        self._models = models

    def find(self, name: str) -> Model:
        """The model of that name."""
        if name not in self._models:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({name})")
        return self._models[name]

    def signature(self, name: str, version: int, signature: str) -> Any:
        """A version's signature by name."""
        signatures = self.find(name).versions[version].signatures
        if signature not in signatures:
            raise bad(
                f'Serving signature key "{signature}" not found; there are {", ".join(sorted(signatures))}'
            )
        return signatures[signature]

    def predict(self, function: Any, inputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """Run a signature on tensors; what TensorFlow calls an invalid argument is the caller's."""
        expected = function.structured_input_signature[1]
        if set(inputs) != set(expected):
            raise bad(f"input must be {', '.join(expected)}, not {', '.join(inputs) or 'nothing'}")
        for name, spec in expected.items():
            if not spec.shape.is_compatible_with(inputs[name].shape) or spec.dtype != inputs[name].dtype:
                raise bad(
                    f"input {name} must be {spec.dtype.name} of shape {spec.shape}, "
                    f"not {inputs[name].dtype.name} of shape {inputs[name].shape}"
                )
            if not math.prod(inputs[name].shape):
                raise bad(f"input {name} is empty")
        with self._slots:
            try:
                return {name: value.numpy() for name, value in function(**inputs).items()}
            except tf.errors.InvalidArgumentError as error:
                raise bad(_cause(error)) from error

    def count(self, model: str, status: str) -> None:
        """Count a request, for the metrics."""
        with self._counting:
            self.requests[model if model in self._models else "", status] += 1


def _cause(error: Any) -> str:
    """The sentence in a graph's error: its last line that is no position."""
    lines = [line for line in str(error.message).splitlines() if line and not line.startswith("\t")]
    return lines[-1][:500]


def _latest(base_path: Path) -> int:
    found = [int(folder.name) for folder in base_path.glob("*") if folder.name.isdigit()]
    if not found:
        raise Refused(grpc.StatusCode.NOT_FOUND, f"No versions of servable found under base path {base_path}")
    return max(found)


def _load(folder: Path) -> Any:
    try:
        return tf.saved_model.load(str(folder))
    except (OSError, ValueError) as error:
        raise Refused(grpc.StatusCode.NOT_FOUND, f"{folder} holds no SavedModel: {error}") from error
