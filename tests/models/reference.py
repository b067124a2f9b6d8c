"""Plain networks written from the published code's description, independent of ``rayscale.models``."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from torch import nn
from torch.nn import functional

MEAN = (0.4488, 0.4371, 0.4040)


def conv(inputs, outputs, kernel=3):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def mean_shift(sign, value_range=255.0, mean=MEAN):
    layer = nn.Conv2d(len(mean), len(mean), 1)
    layer.weight.data = torch.eye(len(mean)).view(len(mean), len(mean), 1, 1)
    layer.bias.data = sign * value_range * torch.tensor(mean)
    layer.requires_grad_(False)
    return layer


class Block(nn.Module):
    def __init__(self, filters, kernel=3, factor=1.0):
        super().__init__()
        self.body = nn.Sequential(
            conv(filters, filters, kernel), nn.ReLU(), conv(filters, filters, kernel)
        )
        self.factor = factor

    def forward(self, x):
        return self.body(x) * self.factor + x


def upsampler(scale, filters):
    if scale == 3:
        return nn.Sequential(conv(filters, 9 * filters), nn.PixelShuffle(3))
    layers = []
    for _ in range(scale // 2):
        layers += [conv(filters, 4 * filters), nn.PixelShuffle(2)]
    return nn.Sequential(*layers)


class OfficialEDSR(nn.Module):
    def __init__(self, scale, blocks, filters, factor=1.0, mean=MEAN):
        super().__init__()
        channels = len(mean)
        self.sub_mean = mean_shift(-1, mean=mean)
        self.head = nn.Sequential(conv(channels, filters))
        self.body = nn.Sequential(
            *[Block(filters, factor=factor) for _ in range(blocks)], conv(filters, filters)
        )
        self.tail = nn.Sequential(upsampler(scale, filters), conv(filters, channels))
        self.add_mean = mean_shift(1, mean=mean)

    def forward(self, x):
        x = self.head(self.sub_mean(x))
        return self.add_mean(self.tail(self.body(x) + x))


class SuperImageEDSR(OfficialEDSR):
    """The same keys, but 0..1 in and out and the mean never applied."""

    def forward(self, x):
        x = self.head(x)
        return self.tail(self.body(x) + x)


class OfficialMDSR(nn.Module):
    def __init__(self, blocks, filters, scales=(2, 3, 4)):
        super().__init__()
        self.scales = scales
        self.sub_mean = mean_shift(-1)
        self.head = nn.Sequential(conv(3, filters))
        self.pre_process = nn.ModuleList(
            nn.Sequential(Block(filters, 5), Block(filters, 5)) for _ in scales
        )
        self.body = nn.Sequential(*[Block(filters) for _ in range(blocks)], conv(filters, filters))
        self.upsample = nn.ModuleList(upsampler(scale, filters) for scale in scales)
        self.tail = nn.Sequential(conv(filters, 3))
        self.add_mean = mean_shift(1)

    def forward(self, x, scale):
        index = self.scales.index(scale)
        x = self.pre_process[index](self.head(self.sub_mean(x)))
        x = self.upsample[index](self.body(x) + x)
        return self.add_mean(self.tail(x))


class BasicBlock(nn.Module):
    def __init__(self, filters, factor):
        super().__init__()
        self.conv1, self.conv2 = conv(filters, filters), conv(filters, filters)
        self.factor = factor

    def forward(self, x):
        return x + self.conv2(torch.relu(self.conv1(x))) * self.factor


class BasicSREDSR(nn.Module):
    """0..1 in and out, the mean outside of the state dict."""

    def __init__(self, scale, blocks, filters, factor=1.0):
        super().__init__()
        self.mean = torch.tensor(MEAN).view(1, 3, 1, 1)
        self.conv_first = conv(3, filters)
        self.body = nn.Sequential(*[BasicBlock(filters, factor) for _ in range(blocks)])
        self.conv_after_body = conv(filters, filters)
        self.upsample = upsampler(scale, filters)
        self.conv_last = conv(filters, 3)

    def forward(self, x):
        x = self.conv_first((x - self.mean) * 255.0)
        x = self.conv_after_body(self.body(x)) + x
        return self.conv_last(self.upsample(x)) / 255.0 + self.mean


# The networks below are functions of a state dict and an image, in the words of their papers.


def bicubic(x, scale):
    """MATLAB's cubic interpolation for whole scales, by torch's own."""
    padded = functional.pad(x, (4,) * 4, mode="replicate")
    large = functional.interpolate(padded, scale_factor=scale, mode="bicubic", antialias=True)
    return large[..., 4 * scale : -4 * scale, 4 * scale : -4 * scale]


def apply(state, key, x, mode="constant"):
    weight = state[f"{key}.weight"]
    x = functional.pad(x, (weight.shape[-1] // 2,) * 4, mode=mode)
    return functional.conv2d(x, weight, state[f"{key}.bias"])


def srcnn(state, y, scale):
    x = bicubic(y, scale)
    x = torch.relu(apply(state, "layers.0", x, "replicate"))
    x = torch.relu(apply(state, "layers.2", x, "replicate"))
    return apply(state, "layers.4", x, "replicate")


def vdsr(state, y, scale, layers):
    x = start = bicubic(y, scale)
    for layer in range(layers - 1):
        x = torch.relu(apply(state, f"layers.{2 * layer}", x))
    return start + apply(state, f"layers.{2 * layers - 2}", x)


def _norm(state, key, x):
    shape = (1, -1, 1, 1)
    mean, var = (state[f"{key}.running_{name}"].view(shape) for name in ("mean", "var"))
    weight, bias = (state[f"{key}.{name}"].view(shape) for name in ("weight", "bias"))
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def _prelu(state, key, x):
    return torch.where(x > 0, x, x * state[f"{key}.weight"])


def srgan_trunk(state, x, blocks):
    start = x = _prelu(state, "head.1", apply(state, "head.0", x))
    for block in range(blocks):
        key = f"body.{block}.body"
        y = _norm(state, f"{key}.1", apply(state, f"{key}.0", x))
        y = apply(state, f"{key}.3", _prelu(state, f"{key}.2", y))
        x = x + _norm(state, f"{key}.4", y)
    return start + _norm(state, f"body.{blocks + 1}", apply(state, f"body.{blocks}", x))


def srresnet(state, x, scale, blocks):
    """0..1 in; the network's -1..1 out is mapped to 0..1."""
    x = srgan_trunk(state, x, blocks)
    for step, factor in enumerate((3,) if scale == 3 else (2,) * (scale // 2)):
        x = functional.pixel_shuffle(apply(state, f"tail.0.{3 * step}", x), factor)
        x = _prelu(state, f"tail.0.{3 * step + 2}", x)
    return (apply(state, "tail.1", x) + 1) / 2


def meta_edsr_trunk(state, x, blocks, factor=1.0):
    start = x = apply(state, "head", x)
    for block in range(blocks):
        y = torch.relu(apply(state, f"body.{block}.body.0", x))
        x = x + apply(state, f"body.{block}.body.2", y) * factor
    return start + apply(state, f"body.{blocks}", x)


def meta_upscale(state, features, scale):
    """Meta-SR's equations (1) to (4), one output pixel after the other, in double precision."""
    scale = Fraction(scale).limit_denominator(100)
    arrays = {key: value.double().numpy() for key, value in state.items()}
    w1, b1, w2, b2 = (
        arrays[f"upscale.predictor.{key}"] for key in ("0.weight", "0.bias", "2.weight", "2.bias")
    )
    maps = np.pad(features.double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    count, filters, height, width = features.shape
    channels = len(b2) // (9 * filters)
    image = np.empty((count, channels, int(height * scale), int(width * scale)))
    for i in range(image.shape[2]):
        for j in range(image.shape[3]):
            row, column = int(i / scale), int(j / scale)
            place = np.array([1 / scale, i / scale - row, j / scale - column], dtype=float)
            kernel = (w2 @ np.maximum(w1 @ place + b1, 0) + b2).reshape(filters * 9, channels)
            patch = maps[:, :, row : row + 3, column : column + 3].reshape(count, -1)
            image[:, :, i, j] = patch @ kernel
    return torch.from_numpy(image)
