"""Draw images side by side."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np


def draw(path: Path | str, images: Mapping[str, np.ndarray]) -> None:
    """A row of images with their titles, all stretched as the first."""
    first = next(iter(images.values()))
    low, high = (0, 255) if first.dtype == np.uint8 else np.percentile(first, (1, 99))
    figure, panels = plt.subplots(1, len(images), figsize=(3.2 * len(images), 3.5), squeeze=False)
    for panel, (title, image) in zip(panels[0], images.items(), strict=True):
        panel.imshow(np.clip((image - float(low)) / (high - low), 0, 1), cmap="gray")
        panel.set_title(title, fontsize=10)
        panel.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
