"""Where the weights come from: ImageNet through Keras, or synthetic ones that tell images apart.

Plain random weights give every image nearly the same, nearly uniform answer, so that a server which mixes up
its answers would pass every check. The synthetic ones are a random but well-conditioned network under a
linear discriminant fitted in closed form to generated pictures; they are the same on every run.
"""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.model import images
from services.model.runtime import SIDE, normalised
from services.model.torch_model import CLASSES, MobileNetV2, fold, to_weights

Array = np.ndarray[Any, Any]
Say = Callable[[str], None]

# Sums in another order round differently: with a number of threads of our own, cores make no difference.
THREADS = 2
BATCH = 50
# Within-class scatter is estimated from further samples of the first classes only: it is shared by all.
SCATTER_CLASSES, SCATTER_SAMPLES = 200, (1, 2)
SHRINKAGE = 0.1
# The median difference between the two largest logits of unseen generated pictures.
MEDIAN_LEAD = 3.0
DOWNLOAD_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Sourced:
    """Weights keyed by Keras' variable paths, with a word and a sentence on where they come from."""

    source: str
    description: str
    arrays: dict[str, Array]


class NoDownload(RuntimeError):
    """The ImageNet weights could not be had."""


def load(choice: str, say: Say) -> Sourced:
    """Return the weights for `auto`, `imagenet` or `synthetic`; NoDownload only for `imagenet`."""
    if choice == "synthetic":
        return synthetic(say)
    try:
        return imagenet(say)
    except NoDownload as error:
        if choice == "imagenet":
            raise
        say(f"{error}; making synthetic weights instead")
        return synthetic(say)


def imagenet(say: Say) -> Sourced:
    """Take Keras' own ImageNet weights, from its cache or by download; NoDownload when neither works."""
    import keras

    say("loading ImageNet weights through Keras")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # Keras sets none, and would wait for ever
    try:
        model = keras.applications.MobileNetV2(weights="imagenet")
    except Exception as error:  # Keras raises a bare Exception for any failed download
        reason = str(error).rsplit(" -- ", 1)[-1]
        raise NoDownload(f"ImageNet weights cannot be downloaded ({reason})") from error
    finally:
        socket.setdefaulttimeout(before)
    return Sourced(
        "imagenet",
        "Keras' MobileNetV2 weights, trained on ImageNet-1k (Apache-2.0).",
        {variable.path: np.asarray(variable) for variable in model.weights},
    )


def synthetic(say: Say, seed: int = 1) -> Sourced:
    """Make weights without data: random filters, calibrated batch norms, a closed-form head."""
    torch.set_num_threads(THREADS)
    net = MobileNetV2().eval()
    _draw_filters(net, torch.Generator().manual_seed(seed))
    _calibrate(net)
    _fit_head(net, say)
    return Sourced(
        "synthetic",
        "Synthetic weights, not trained: class names mean nothing, the arithmetic is MobileNetV2's.",
        to_weights(net),
    )


@torch.no_grad()
def _draw_filters(net: MobileNetV2, generator: torch.Generator) -> None:
    """He-normal kernels; depthwise ones low-pass with a little noise, so that shapes survive 17 blocks."""
    binomial = torch.tensor([1.0, 2.0, 1.0]) / 4
    low_pass = torch.outer(binomial, binomial)
    for layer in net.convolutions():
        kernel = layer.conv.weight
        noise = torch.randn(kernel.shape, generator=generator)
        if layer.conv.groups > 1:
            kernel.copy_(low_pass + 0.1 * noise)
        else:
            kernel.copy_(noise * (2 / kernel[0].numel()) ** 0.5)


@torch.no_grad()
def _calibrate(net: MobileNetV2) -> None:
    """Set every batch norm's mean and variance to those of one batch of generated pictures."""
    for layer in net.convolutions():
        layer.bn.momentum = 1.0  # this batch alone
    net.train()
    net.features(_batch([(kind, 0) for kind in range(BATCH)]))
    net.eval()


def _fit_head(net: MobileNetV2, say: Say) -> None:
    """Fit Fisher's linear discriminant for the generated classes, and scale it to usable confidences."""
    folded = fold(copy.deepcopy(net))
    means = _features(folded, [(kind, 0) for kind in range(CLASSES)], say, "class means")
    samples = list(product(range(SCATTER_CLASSES), SCATTER_SAMPLES))
    further = _features(folded, samples, say, "scatter within classes")
    scatter = further - means[:SCATTER_CLASSES].repeat_interleave(len(SCATTER_SAMPLES), 0)
    covariance = scatter.T @ scatter / len(scatter)
    covariance.diagonal().add_(SHRINKAGE * covariance.trace() / len(covariance))
    centred = means - means.mean(0)
    kernel = torch.linalg.solve(covariance, centred.T)
    bias = -0.5 * (centred.T * kernel).sum(0) - means.mean(0) @ kernel
    best = (further @ kernel + bias).topk(2).values
    scale = MEDIAN_LEAD / (best[:, 0] - best[:, 1]).median()
    with torch.no_grad():
        net.predictions.weight.copy_(kernel.T * scale)
        net.predictions.bias.copy_(bias * scale)


@torch.inference_mode()
def _features(net: MobileNetV2, samples: list[tuple[int, int]], say: Say, what: str) -> Tensor:
    """[samples, 1280] features, in double precision."""
    rows = []
    for start in range(0, len(samples), BATCH):
        if start % (4 * BATCH) == 0:
            say(f"synthetic weights: {what}, picture {start} of {len(samples)}")
        rows.append(net.features(_batch(samples[start : start + BATCH])).double())
    return torch.cat(rows)


def _batch(samples: Iterable[tuple[int, int]]) -> Tensor:
    # Drawn at half size and doubled: four times faster, and the head does not mind.
    half = SIDE // 2
    pictures = [images.scene(*sample, half, half).repeat(2, 0).repeat(2, 1) for sample in samples]
    return normalised(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float())
