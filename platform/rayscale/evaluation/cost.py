"""What a model costs: its parameters and its multiplications, counted; and what its seconds were measured on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from rayscale.models.registry import build
from rayscale.models.spec import ModelSpec

SIDE = 256
"""Height and width in pixels of the input that operations are counted for."""


@dataclass(frozen=True)
class Cost:
    """``parameters`` are the trained ones; ``macs`` the multiply-accumulate operations for a 256 x 256 input."""

    parameters: int
    macs: int


def count(spec: ModelSpec, scale: float, *, ensemble: bool = False) -> Cost:
    """The cost of a network, from shapes alone: nothing is allocated or computed.

    Counted are convolutions and matrix products, as in every paper; interpolation, activations and additions are not.
    A self-ensemble runs the network 8 times.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch on its own internals, at the first use
        model = build(spec).eval()
        image = torch.empty(1, spec.channels, SIDE, SIDE)
        with FlopCounterMode(display=False) as counter:
            model(image, scale)
    operations = counter.get_total_flops() // 2  # a multiplication and an addition each
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Cost(parameters, operations * (8 if ensemble else 1))


def describe_device(device: torch.device) -> str:
    """What times were measured on, as a table names it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"{device.type.upper()}, {threads} thread{'s' * (threads != 1)}"
