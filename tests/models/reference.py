"""Plain networks written from the published code's description, independent of ``rayscale.models``."""

from __future__ import annotations

import torch
from torch import nn

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
