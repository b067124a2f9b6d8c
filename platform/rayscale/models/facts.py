"""What there is to say of a system, for those who choose one."""

from __future__ import annotations

from typing import Any

import torch

from rayscale.models.builtin import bundled_names, read_spec
from rayscale.models.systems import create_model, find_system


def describe(name: str) -> dict[str, Any]:
    """Facts about a system at its own number of channels, without allocating its weights.

    ``{"name", "scales": [int], "scale_range": [float, float] or None, "channels": int, "parameters": {"2": int, ...},
    "halo": {"2": int, ...}, "summary", "bundled": [str]}``; the halo is in LR pixels, the parameters are the numbers that
    training finds, ``bundled`` names the models of the system that come with weights. Every scale above the
    first and up to the second number of ``scale_range`` is served.
    """
    system = find_system(name)
    parameters: dict[str, int] = {}
    halo: dict[str, int] = {}
    for scale in system.scales:
        with torch.device("meta"):
            model = create_model(name, scale=scale)
        parameters[str(scale)] = sum(p.numel() for p in model.parameters())
        halo[str(scale)] = model.halo(scale)
    return {
        "name": name,
        "scales": list(system.scales),
        "scale_range": list(system.network.scale_range) if system.network.scale_range else None,
        "channels": system.channels,
        "parameters": parameters,
        "halo": halo,
        "summary": system.summary,
        "bundled": [model for model in bundled_names() if read_spec(model)[0].system == name],
    }
