"""Draw docs/images/degradation-*.png: what each degradation does to a picture, and to each frequency.

    python docs/degradations.py

Pictures are made here, or come with scikit-image and scipy.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

from rayscale.degradations import Degradation, draw

IMAGES = Path(__file__).parent / "images"
SCALE = 4

TEXTS = {
    "bicubic": "bicubic",
    "mtf": "mtf:sensor=sentinel-2,bands=B4/B3/B2",
    "kspace": "kspace",
    "blur_noise_jpeg": "blur_noise_jpeg",
}


def main() -> None:
    pictures = {"mtf": satellite(), "kspace": phantom()}
    for name, text in TEXTS.items():
        picture = pictures.get(name, data.astronaut()[16:208, 128:320])
        draw_one(name, text, picture)


def satellite() -> np.ndarray:
    """Fields and roads, some of them finer than an LR pixel ``(192, 192, 3)``."""
    random = np.random.default_rng(4)
    fields = random.integers(60, 190, (12, 12, 3)).repeat(16, 0).repeat(16, 1)
    y, x = np.mgrid[:192, :192]
    fields[(np.abs(y - 0.6 * x - 20) < 1.5) | (np.abs(y + 1.7 * x - 260) < 2)] = 235
    fields[120:180, 100:180:2] = 40
    return fields.astype(np.uint8)


def phantom() -> np.ndarray:
    """Ellipses, as of a head ``(192, 192, 1)``."""
    y, x = (np.mgrid[:192, :192] - 95.5) / 96
    values = np.zeros((192, 192))
    for cy, cx, ry, rx, value in (
        (0, 0, 0.85, 0.65, 200), (0, 0, 0.78, 0.58, -120), (-0.1, 0.2, 0.3, 0.12, 90),
        (-0.1, -0.2, 0.34, 0.14, 60), (0.45, 0, 0.1, 0.14, 100), (0.6, 0.12, 0.03, 0.03, 80),
    ):  # fmt: skip
        values += value * (((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1)
    return np.clip(values, 0, 255).astype(np.uint8)[..., None]


def draw_one(name: str, text: str, picture: np.ndarray) -> None:
    """HR, LR (twice where it is drawn) and the gain of each frequency that an LR pixel can show."""
    degradation = Degradation.parse(text)
    count = 2 if degradation.is_random else 1
    figure, axes = plt.subplots(1, 2 + count, figsize=(3 * (2 + count), 3.1))
    show(axes[0], picture, "HR")
    for number in range(count):
        lr = degradation.apply(picture, SCALE, draw(3, 0, number))
        show(axes[1 + number], lr, f"LR x{SCALE}" + (f", draw {number + 1}" if count > 1 else ""))
    frequencies = np.linspace(0.02, 1.0, 50)
    plot = axes[-1]
    if degradation.is_random:
        for number in range(6):
            quiet = Degradation.parse("blur_noise_jpeg:noise=0..0,jpeg=none")
            plot.plot(frequencies, [gain(quiet, f, 1, number) for f in frequencies], lw=1)
    else:
        channels = picture.shape[2]
        curves = np.array([[gain(degradation, f, channels, 0, c) for f in frequencies] for c in range(channels)])  # fmt: skip
        for curve in np.unique(curves.round(6), axis=0):
            plot.plot(frequencies, curve, lw=1.2)
    plot.axvline(0.5, color="grey", lw=0.8, ls="--")
    plot.set_xlabel("cycles per LR pixel", fontsize=8)
    plot.set_title("gain" + (" of 6 blurs" if degradation.is_random else ""), fontsize=9)
    plot.tick_params(labelsize=7)
    plot.set_ylim(0, 1.1)
    figure.suptitle(text, fontsize=9)
    figure.tight_layout()
    figure.savefig(IMAGES / f"degradation-{name}.png", dpi=80)
    plt.close(figure)


def gain(
    degradation: Degradation, frequency: float, channels: int, sample: int, channel: int = 0
) -> float:
    """Strength of a wave along the rows after the degradation, whatever frequency it appears at."""
    periods = round(frequency * 64)
    hr = np.cos(2 * np.pi * periods * (np.arange(64 * SCALE) + 0.5) / (64 * SCALE) + 0.7)
    waves = np.broadcast_to(hr[None, :, None], (64 * SCALE, 64 * SCALE, channels))
    lr = degradation.apply(waves, SCALE, draw(3, 0, sample))[16:48, 8:56, channel]
    return float(np.sqrt(2 * (lr**2).mean()))


def show(plot: plt.Axes, pixels: np.ndarray, title: str) -> None:
    plot.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    plot.set_title(f"{title} ({pixels.shape[1]}x{pixels.shape[0]})", fontsize=9)
    plot.axis("off")


if __name__ == "__main__":
    main()
