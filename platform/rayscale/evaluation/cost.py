"""What a model costs: its parameters and its multiplications, counted; and what its seconds were measured on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rayscale.errors import quantity
from rayscale.models.spec import ModelSpec
from rayscale.models.systems import build

SIDE = 256
"""Height and width in pixels of the input that operations are counted for."""


@dataclass(frozen=True)
class Cost:
    """``parameters`` are the numbers that training finds; ``macs`` the multiply-accumulates for a 256 x 256 input."""

    parameters: int
    macs: int


def count(spec: ModelSpec, scale: float, *, ensemble: bool = False) -> Cost:
    """The cost of a network with fresh weights, from its shapes alone where these tell it.

    Counted are convolutions and matrix products, as in every paper; interpolation, activations and additions are not.
    A self-ensemble runs the network 8 times.
    """
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorMode,
    )

    try:
        # Shapes without memory or arithmetic, like the meta device, but they claim to be on the CPU, so that
        # networks which ask for their device (autocast does) run too.
        with FakeTensorMode(allow_non_fake_inputs=True):
            cost = _run(spec, scale)
    except (DataDependentOutputException, DynamicOutputShapeException):
        cost = _run(spec, scale)  # its path depends on the values, as that of A+: compute once
    return Cost(cost.parameters, cost.macs * (8 if ensemble else 1))


def _run(spec: ModelSpec, scale: float) -> Cost:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = build(spec).eval()
        model(torch.zeros(1, spec.channels, SIDE, SIDE), scale)
    operations = counter.get_total_flops() // 2  # a multiplication and an addition each
    return Cost(sum(p.numel() for p in model.parameters()), operations)


def describe_device(device: torch.device) -> str:
    """What times were measured on, as a table names it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"{device.type.upper()}, {quantity(threads, 'thread')}"
