"""MobileNetV2 in torch, layer for layer Keras' one, filled from weights keyed by Keras' variable paths.

Architecture: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
Input is NCHW, RGB in [-1, 1]; output is logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Weights = Mapping[str, np.ndarray[Any, Any]]

CLASSES = 1000
# Per group of blocks: expansion, channels out, blocks, stride of the first (table 2 of the paper).
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class ConvBN(nn.Module):
    """Convolution, batch norm and (if `active`) ReLU6, under the names that Keras gives the first two."""

    def __init__(
        self,
        conv_name: str,
        bn_name: str,
        channels: tuple[int, int],
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        active: bool = True,
    ) -> None:
        super().__init__()
        self.conv_name, self.bn_name = conv_name, bn_name
        # Keras pads a strided convolution at the right and bottom only.
        self.pad = nn.ZeroPad2d((0, 1, 0, 1)) if stride == 2 else nn.Identity()
        same = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(*channels, kernel, stride, same, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(channels[1], eps=1e-3)
        self.activation = nn.ReLU6() if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] to [N, out, H/stride, W/stride]."""
        y: Tensor = self.activation(self.bn(self.conv(self.pad(x))))
        return y

    def fold(self) -> None:
        """Put the batch norm's scale and shift into the convolution."""
        self.conv = fuse_conv_bn_eval(self.conv, self.bn)
        self.bn = nn.Identity()  # type: ignore[assignment]


class Block(nn.Module):
    """Inverted residual: expand, filter each channel, project; added to its input where sizes allow."""

    def __init__(self, name: str, channels: tuple[int, int], expansion: int, stride: int) -> None:
        super().__init__()
        wide = channels[0] * expansion
        layers = [ConvBN(f"{name}_expand", f"{name}_expand_BN", (channels[0], wide))] if expansion > 1 else []
        depthwise, project = f"{name}_depthwise", f"{name}_project"
        layers += [
            ConvBN(depthwise, f"{depthwise}_BN", (wide, wide), kernel=3, stride=stride, groups=wide),
            ConvBN(project, f"{project}_BN", (wide, channels[1]), active=False),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and channels[0] == channels[1]

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] to [N, out, H/stride, W/stride]."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """The whole network; `features` alone gives the [N, 1280] that the head sees."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvBN("Conv1", "bn_Conv1", (3, 32), kernel=3, stride=2),
            *_blocks(),
            ConvBN("Conv_1", "Conv_1_bn", (320, 1280)),
        )
        self.predictions = nn.Linear(1280, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """[N, 3, 224, 224] to [N, 1280]."""
        y: Tensor = self.body(x)
        return y.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 224, 224] to [N, 1000] probabilities."""
        return torch.softmax(self.predictions(self.features(x)), 1)

    def convolutions(self) -> Iterator[ConvBN]:
        """Every convolution with its batch norm, from input to output."""
        return (layer for layer in self.modules() if isinstance(layer, ConvBN))


def _blocks() -> Iterator[Block]:
    channels, number = 32, 0
    for expansion, out, blocks, stride in GROUPS:
        for i in range(blocks):
            name = f"block_{number}" if number else "expanded_conv"
            yield Block(name, (channels, out), expansion, stride if i == 0 else 1)
            channels, number = out, number + 1


def from_weights(weights: Weights) -> MobileNetV2:
    """Build the network with these weights, batch norms not folded; KeyError names a missing one."""
    net = MobileNetV2().eval()
    with torch.no_grad():
        for layer in net.convolutions():
            layer.conv.weight.copy_(_kernel(weights[f"{layer.conv_name}/kernel"], layer.conv.groups))
            bn = layer.bn
            assert bn.running_mean is not None
            assert bn.running_var is not None
            bn.weight.copy_(_tensor(weights[f"{layer.bn_name}/gamma"]))
            bn.bias.copy_(_tensor(weights[f"{layer.bn_name}/beta"]))
            bn.running_mean.copy_(_tensor(weights[f"{layer.bn_name}/moving_mean"]))
            bn.running_var.copy_(_tensor(weights[f"{layer.bn_name}/moving_variance"]))
        net.predictions.weight.copy_(_tensor(weights["predictions/kernel"]).T)
        net.predictions.bias.copy_(_tensor(weights["predictions/bias"]))
    return net


def to_weights(net: MobileNetV2) -> dict[str, np.ndarray[Any, Any]]:
    """Return a network's weights under Keras' paths and in Keras' layout: the inverse of `from_weights`."""
    weights: dict[str, Tensor] = {}
    for layer in net.convolutions():
        order = (2, 3, 0, 1) if layer.conv.groups > 1 else (2, 3, 1, 0)
        weights[f"{layer.conv_name}/kernel"] = layer.conv.weight.permute(order)
        for name, value in zip(
            ("gamma", "beta", "moving_mean", "moving_variance"),
            (layer.bn.weight, layer.bn.bias, layer.bn.running_mean, layer.bn.running_var),
            strict=True,
        ):
            assert value is not None
            weights[f"{layer.bn_name}/{name}"] = value
    weights["predictions/kernel"] = net.predictions.weight.T
    weights["predictions/bias"] = net.predictions.bias
    return {path: np.ascontiguousarray(value.detach().numpy()) for path, value in weights.items()}


def fold(net: MobileNetV2) -> MobileNetV2:
    """Fold every batch norm into its convolution, in place; the answers stay, a third of the time goes."""
    for layer in net.convolutions():
        layer.fold()
    return net


def _kernel(keras: np.ndarray[Any, Any], groups: int) -> Tensor:
    # Keras: height, width, in, out; depthwise: height, width, channel, 1.
    return _tensor(keras).permute((2, 3, 0, 1) if groups > 1 else (3, 2, 0, 1))


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
