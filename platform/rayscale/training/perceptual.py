"""Content losses of the GAN stage: features of VGG19 from a file of weights, or pixels."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from rayscale.errors import ConfigError
from rayscale.storage import connect, split
from rayscale.training.sections import AdversarialSection

Content = Callable[[Tensor, Tensor], Tensor]

# Filters of VGG19's convolutions (Simonyan and Zisserman 2015); 0 is a pooling. Their places are torchvision's.
_VGG19 = (64, 64, 0, 128, 128, 0, *(256,) * 4, 0, *(512,) * 4, 0, *(512,) * 4)
# Layers up to the activation after conv2_2 and conv5_4.
_DEPTH = {"vgg22": 9, "vgg54": 36}
_FEATURE_SCALE = 1 / 12.75  # Ledig et al. 2017, section 3.2
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_content(config: AdversarialSection, channels: int, device: torch.device) -> Content:
    """The content loss of a configuration: of images ``(N, C, H, W)`` in [-1, 1], super-resolved and real.

    Raises ConfigError where features are wanted but there are no weights for them, or the images are neither
    grey nor RGB.
    """
    if config.content == "mse":
        return functional.mse_loss
    if config.content == "l1":
        return functional.l1_loss
    if config.vgg is None:
        raise ConfigError(
            f"adversarial.content is {config.content}, features of VGG19, but adversarial.vgg names no file of its "
            "weights. Give one in torchvision's layout (vgg19-dcbb9e9d.pth), or choose adversarial.content=mse or l1"
        )
    if channels not in (1, 3):
        raise ConfigError(
            f"VGG19 sees grey or RGB images, these have {channels} channels; choose adversarial.content=l1 or mse"
        )
    features = VGGFeatures(config.vgg, config.content).to(device)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = features(target)
        return functional.mse_loss(features(output), wanted)

    return loss


class VGGFeatures(nn.Module):
    """VGG19 up to the activation after conv2_2 (``vgg22``) or conv5_4 (``vgg54``), frozen, its output over 12.75.

    ``uri`` is a file of weights with torchvision's keys (``features.N.weight``), .pth or .safetensors. Raises
    ConfigError when it is something else; nothing in it is executed.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, uri: str, content: str) -> None:
        super().__init__()
        depth = _DEPTH[content]
        with torch.device("meta"):
            self.features = nn.Sequential(*_layers()[:depth])
        state = {
            key: value.to(torch.float32)
            for key, value in _read(uri).items()
            if key in self.state_dict()
        }
        wrong = [
            key
            for key, value in self.state_dict().items()
            if key not in state or state[key].shape != value.shape
        ]
        if wrong:
            raise ConfigError(
                f"adversarial.vgg: {uri} is not VGG19 in torchvision's layout: {', '.join(wrong[:3])} missing or of "
                "another shape"
            )
        self.load_state_dict(state, assign=True)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None])
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Features of images ``(N, 1 or 3, H, W)`` in [-1, 1]; grey is repeated."""
        x = ((x + 1) / 2).expand(-1, 3, -1, -1)
        features: Tensor = self.features((x - self.mean) / self.deviation)
        return features * _FEATURE_SCALE


def _layers() -> list[nn.Module]:
    layers: list[nn.Module] = []
    inputs = 3
    for filters in _VGG19:
        if filters == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, filters, 3, padding=1), nn.ReLU()]
        inputs = filters
    return layers


def _read(uri: str) -> dict[str, Any]:
    folder, key = split(uri)
    with tempfile.TemporaryDirectory(prefix="rayscale-") as temporary:
        path = Path(temporary, key)
        connect(folder).fetch(key, path)
        try:
            if path.suffix == ".safetensors":
                return dict(safetensors.torch.load_file(path))
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, safetensors.SafetensorError):
            raise ConfigError(f"adversarial.vgg: {uri} is not a file of weights") from None
    if not isinstance(content, dict):
        raise ConfigError(f"adversarial.vgg: {uri} holds no state dict")
    return content
