"""Where the text classifier comes from: the Hugging Face Hub, or a tiny random checkpoint of the same kind.

Both are loaded by the same `from_pretrained`.  The tiny one is the same on every machine: its weights come
from numpy's generator, whose stream is fixed.
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification, DistilBertTokenizerFast

HUB_NAME = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SEED = 4
# Chosen, with the seed, so that the test texts get answers further apart than any tolerance.
SPREAD = 0.15


def write_tiny(folder: Path) -> None:
    """Write a checkpoint of two layers: words are split into letters."""
    signs = string.ascii_lowercase + string.digits + string.punctuation
    vocabulary = [*SPECIAL, *signs, *(f"##{sign}" for sign in string.ascii_lowercase + string.digits)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    DistilBertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = DistilBertConfig(
        vocab_size=len(vocabulary),
        dim=128,
        hidden_dim=512,
        n_layers=2,
        n_heads=4,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
    model = DistilBertForSequenceClassification(config)
    generator = np.random.default_rng(SEED)
    with torch.no_grad():
        for name, weights in sorted(model.named_parameters()):
            if "LayerNorm" not in name and "layer_norm" not in name:
                drawn = generator.normal(scale=SPREAD, size=tuple(weights.shape))
                weights.copy_(torch.from_numpy(drawn.astype(np.float32)))
    model.save_pretrained(folder)
