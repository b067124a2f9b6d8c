"""What is measured on satellite and medical sets besides PSNR and SSIM: a suite is a function of one image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rayscale.errors import ConfigError, shown
from rayscale.imaging.consistency import consistency
from rayscale.imaging.fidelity import cpsnr, ergas, nrmse, sam
from rayscale.imaging.fourier import ring_correlation
from rayscale.imaging.image import Pixels
from rayscale.imaging.metrics import PROTOCOLS

Suite = Callable[[Pixels, Pixels, Pixels, float], dict[str, float]]
"""``(sr, hr, lr, scale)``, pixels ``(H, W, C)``, to keys of ``MEASURES`` and their values."""


@dataclass(frozen=True)
class Measure:
    """How a measure is shown: its title with the unit, its digits, and which way is better."""

    title: str
    digits: int
    higher: bool = False


MEASURES = {
    "cpsnr": Measure("cPSNR dB", 2, higher=True),
    "nrmse": Measure("NRMSE", 4),
    "sam": Measure("SAM deg", 3),
    "ergas": Measure("ERGAS", 3),
    "frc": Measure("FRC 1/7 px", 2),
    "reflectance": Measure("LR difference", 5),
    "spectral": Measure("LR angle deg", 3),
    "spatial": Measure("LR shift px", 3),
}


def satellite(sr: Pixels, hr: Pixels, lr: Pixels, scale: float) -> dict[str, float]:
    """Radiometry and spectra against the reference; detail; agreement with the source."""
    source = consistency(sr, lr, scale)
    return {
        "cpsnr": cpsnr(sr, hr),
        "sam": sam(sr, hr),
        "ergas": ergas(sr, hr, scale),
        "frc": ring_correlation(sr, hr).resolution,
        "reflectance": source.reflectance,
        "spectral": source.spectral,
        "spatial": source.spatial,
    }


def medical(sr: Pixels, hr: Pixels, lr: Pixels, scale: float) -> dict[str, float]:
    """Error relative to the signal; detail; agreement with the source."""
    source = consistency(sr, lr, scale)
    return {
        "nrmse": nrmse(sr, hr),
        "frc": ring_correlation(sr, hr).resolution,
        "reflectance": source.reflectance,
        "spatial": source.spatial,
    }


SUITES: dict[str, Suite] = {"satellite": satellite, "medical": medical}


def check_measures(protocol: str, suite: str | None = None) -> None:
    """Raise ConfigError for a protocol or a suite that there is not."""
    for what, value, known in (("protocol", protocol, PROTOCOLS), ("suite", suite, SUITES)):
        if value not in list(known) and (value is not None or what == "protocol"):  # of any type
            raise ConfigError(f"unknown {what} {shown(value)}; use one of {', '.join(known)}")
