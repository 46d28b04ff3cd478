"""A text classifier as KServe's custom predictor: `{"instances": ["a text"]}`, answered with its labels."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from kserve import Model, model_server
from kserve.errors import InvalidInput
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from services.huggingface.checkpoint import HUB_NAME, write_tiny
from services.kserve.serving import serve
from services.model.contract import Prediction, Settings

NAME = "distilbert"
MOST_CHARACTERS = 100_000
WARM_UP_RUNS = 3
WEIGHTS = ("tiny", "hub")


class TextClassifier(Model):
    """Ready once constructed; each worker process loads the model for itself."""

    def __init__(self, weights: str, threads: int) -> None:
        super().__init__(NAME)
        self.weights, self.threads = weights, threads
        torch.set_num_threads(threads)
        if weights == "hub":
            try:
                self._load(HUB_NAME)
            except OSError as error:
                raise SystemExit(
                    f"{HUB_NAME} cannot be had; weights=tiny needs no network: {error}"
                ) from None
        else:
            with tempfile.TemporaryDirectory() as folder:
                write_tiny(Path(folder))
                self._load(folder)
        for _ in range(WARM_UP_RUNS):
            self.classify("warm up")
        self.ready = True

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.weights, self.threads)

    def _load(self, source: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.model = AutoModelForSequenceClassification.from_pretrained(source).eval()

    def classify(self, text: str) -> list[Prediction]:
        """Return every label with its probability, likeliest first; of a long text, 512 tokens count."""
        tokens = self.tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
        tokens.pop("token_type_ids", None)  # DistilBERT has no segments
        with torch.inference_mode():
            probabilities = self.model(**tokens).logits[0].softmax(0)
        confidences, ids = probabilities.sort(descending=True)
        labels = self.model.config.id2label
        return [Prediction(i, labels[i], p) for i, p in zip(ids.tolist(), confidences.tolist(), strict=True)]

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> dict[str, Any]:
        """Classify the one text of a V1 request."""
        return {"predictions": [[each._asdict() for each in self.classify(_text(payload))]]}


def _text(payload: Any) -> str:
    match payload.get("instances") if isinstance(payload, dict) else None:
        case [str(text)] if text.strip():
            pass
        case [_, _, *_] as instances:
            raise InvalidInput(f"`instances` holds {len(instances)} texts; send one a request")
        case _:
            raise InvalidInput('send {"instances": ["a text"]} as application/json')
    if len(text) > MOST_CHARACTERS:
        raise InvalidInput(f"the text has {len(text)} characters; at most {MOST_CHARACTERS} are accepted")
    return text


def main() -> None:
    """Serve on the ports that KServe's own options name."""
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    parser.add_argument("--host", default="127.0.0.1")
    options = parser.parse_args()
    weights = os.environ.get("MODELSWARM_WEIGHTS", WEIGHTS[0])
    if weights not in WEIGHTS:
        raise SystemExit(f"MODELSWARM_WEIGHTS={weights!r} is not known; write {' or '.join(WEIGHTS)}")
    serve(TextClassifier(weights, Settings.from_env().threads), options.host)


if __name__ == "__main__":
    main()
