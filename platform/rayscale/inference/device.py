"""Where and how exactly a network computes: the device and the precision.

bfloat16 stays below one grey level of 8-bit images and is two to three times as fast where the hardware
has it; deeper pixels (16 bit) always compute in float32.
"""

from __future__ import annotations

import torch

from rayscale.errors import ConfigError, expect
from rayscale.options import Precision

_DEVICES = "auto, cpu, cuda or cuda:N"


def pick_device(name: str = "auto") -> torch.device:
    """The device called ``name``; ``auto`` is the GPU when there is one."""
    expect(name, str, _DEVICES)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}; use {_DEVICES}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was asked for, but torch sees no GPU; use cpu or auto")
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is computed by the hardware rather than emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def pick_dtype(precision: Precision, device: torch.device, bits: int) -> torch.dtype:
    """The dtype of the convolutions for pixels of ``bits`` bits; ``auto`` never lets a 16-bit pixel lose."""
    if precision == "float32" or bits > 8:
        return torch.float32
    if precision == "bfloat16":
        return torch.bfloat16
    if precision != "auto":
        raise ConfigError(f"unknown precision {precision!r}; use auto, float32 or bfloat16")
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
