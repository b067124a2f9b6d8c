"""The networks that tell super-resolved images from real ones; only training knows them."""

from __future__ import annotations

from torch import Tensor, nn

from rayscale.models.network import BatchNorm

_HIDDEN = 1024
_SHRINKS = 4  # layers of stride 2


class Discriminator(nn.Module):
    """Eight 3x3 convolutions to a sixteenth of the size, then two full layers; gives one logit per image.

    Ledig et al. 2017 (SRGAN): 23,565,505 parameters for RGB of 96x96. With ``side`` None, for images of any size, the
    features are averaged before the full layers, as in Meta-SRGAN (Tan et al. 2020): 5,214,273 for one channel.

    Args:
        channels: of the images, which are in [-1, 1].
        side: of the images in pixels; None takes any size.
    """

    def __init__(self, channels: int, side: int | None) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, 64, 3, padding=1), nn.LeakyReLU(0.2)]
        filters = 64
        for width, stride in (
            (64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2),
        ):  # fmt: skip
            layers += [
                nn.Conv2d(filters, width, 3, stride, padding=1),
                BatchNorm(width),
                nn.LeakyReLU(0.2),
            ]
            filters = width
        self.trunk = nn.Sequential(*layers)
        left = 1
        if side is not None:
            left = -(-side // 2**_SHRINKS)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1) if side is None else nn.Identity(),
            nn.Flatten(),
            nn.Linear(filters * left**2, _HIDDEN),
            nn.LeakyReLU(0.2),
            nn.Linear(_HIDDEN, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 1)`` of images ``(N, C, H, W)``: above 0 where they look real."""
        logits: Tensor = self.head(self.trunk(x))
        return logits
