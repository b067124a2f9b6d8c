"""Gains of sensors at their Nyquist frequency, by band, with where they were published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sensor:
    """Gain of each band (1 loses nothing) at half a cycle per pixel of that band, and the source."""

    gains: dict[str, float]
    source: str


SENSORS = {
    "sentinel-2": Sensor(
        {
            "B1": 0.32,
            "B2": 0.26,
            "B3": 0.28,
            "B4": 0.24,
            "B5": 0.38,
            "B6": 0.34,
            "B7": 0.34,
            "B8": 0.26,
            "B8A": 0.33,
            "B9": 0.26,
            "B11": 0.22,
            "B12": 0.23,
        },
        "MSI as in Lanaras et al. 2017 (SupReME, CVPR Workshops, after ESA's S2 MPC Data Quality Report) and "
        "Ulfarsson et al. 2019 (S2Sharp, IEEE TGRS); B10 is not given there",
    ),
    "landsat-oli": Sensor(
        {f"B{band}": 0.30 for band in range(1, 10)},
        "an assumption for Landsat 8 and 9 OLI, not a measurement: about the gain of a Gaussian whose edges are as steep as "
        "such missions require; give the gain of your own product where you know it",
    ),
}
