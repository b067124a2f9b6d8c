"""State dicts of other toolkits, turned into a ``ModelSpec`` and the keys of this one.

Three layouts hold the same EDSR: *official* (EDSR-PyTorch, also MDSR), *basicsr* (other key names, the mean
outside of the state dict) and *super-image* (the official keys, but a forward that never applies the mean and
works on 0..1). Only names and shapes are looked at here; files are read and checked in
``rayscale.models.weights``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from rayscale.errors import ConfigError, InputError, quantity
from rayscale.models.edsr import EDSR
from rayscale.models.mdsr import MDSR
from rayscale.models.network import SuperResolver, identity
from rayscale.models.spec import ModelSpec, default_mean
from rayscale.models.systems import find_system, systems

Layout = Literal["official", "basicsr", "super-image"]

_WRAPPERS = ("params_ema", "params", "state_dict")
_PREFIXES = ("module.", "model.")
# The names under which super-image publishes its weights; its keys are the official ones.
_SUPER_IMAGE_FILE = re.compile(r"pytorch_model(_[234]x)?\.(pt|bin)")

_BASICSR_KEYS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), key)
    for pattern, key in (
        (r"conv_first\.(\w+)", r"head.0.\1"),
        (r"body\.(\d+)\.conv1\.(\w+)", r"body.\1.body.0.\2"),
        (r"body\.(\d+)\.conv2\.(\w+)", r"body.\1.body.2.\2"),
        (r"conv_after_body\.(\w+)", r"body.{blocks}.\1"),
        (r"upsample\.(\d+)\.(\w+)", r"tail.0.\1.\2"),
        (r"conv_last\.(\w+)", r"tail.1.\1"),
    )
)


class Converted(NamedTuple):
    """A foreign state dict in the keys of this toolkit, with the specification read off its shapes."""

    spec: ModelSpec
    state: dict[str, Tensor]
    layout: Layout


def unwrap(content: object) -> dict[str, Tensor]:
    """The flat state dict inside what a file held: wrappers and ``module.`` prefixes taken off.

    InputError when there is none.
    """
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise InputError(
            f"it holds {type(content).__name__}, not a state dict of named tensors; "
            "save model.state_dict()"
        )
    for key, value in content.items():
        if not isinstance(key, str) or not is_dense(value):
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"its entry {key!r} is {kind}, not a dense float tensor; save model.state_dict()"
            )
    state: dict[str, Tensor] = dict(content)
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def is_dense(value: object) -> bool:
    """Whether a value is a tensor of floats that holds its numbers."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.is_floating_point()
        and not value.is_meta
    )


def convert(
    content: object, *, file_name: str, name: str | None, layout: Layout | None
) -> Converted:
    """Recognise a foreign file's content.

    Args:
        content: what the file held.
        file_name: its base name, which tells super-image from official.
        name: the system the caller expects; it settles what shapes cannot tell (the residual scaling).
        layout: None to detect it.

    Raises:
        InputError: the content is none of the known layouts.
        ConfigError: it is another system than ``name``.
    """
    state = unwrap(content)
    layout = _detect(state, file_name, layout)
    if layout == "basicsr":
        state = _from_basicsr(state)
    elif layout == "super-image":
        state = {
            key: value
            for key, value in state.items()
            if not key.startswith(("sub_mean.", "add_mean."))
        }
    spec = _infer(state, name)
    if layout == "super-image":
        spec = replace(spec, value_range=1.0, mean=(0.0,) * spec.channels)
    elif "sub_mean.bias" in state:
        spec = replace(spec, **_normalisation(state["sub_mean.bias"], spec.channels))
    for key, sign in (("sub_mean", -1), ("add_mean", 1)):
        shift = [sign * spec.value_range * value for value in spec.mean]
        state.setdefault(f"{key}.weight", identity(spec.channels))
        state.setdefault(f"{key}.bias", torch.tensor(shift))
    return Converted(spec, state, layout)


def _detect(state: Mapping[str, Tensor], file_name: str, layout: Layout | None) -> Layout:
    basicsr = "conv_first.weight" in state and "conv_after_body.weight" in state
    official = "head.0.weight" in state
    if not basicsr and not official:
        raise InputError(
            f"its keys ({_few(list(state))}) are neither those of EDSR-PyTorch nor of BasicSR's EDSR"
        )
    if layout is None:
        if basicsr:
            return "basicsr"
        return "super-image" if _SUPER_IMAGE_FILE.fullmatch(file_name) else "official"
    if (layout == "basicsr") != basicsr:
        found = "basicsr" if basicsr else "official or super-image"
        raise ConfigError(f"its keys are {found}, not {layout}; leave the layout at auto")
    return layout


def _from_basicsr(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    numbers = [int(m[1]) for key in state if (m := re.match(r"body\.(\d+)\.", key))]
    blocks = max(numbers, default=-1) + 1
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        for pattern, target in _BASICSR_KEYS:
            if match := pattern.fullmatch(key):
                renamed[match.expand(target).replace("{blocks}", str(blocks))] = value
                break
        else:
            renamed[key] = value  # reported as unexpected when it is loaded
    return renamed


def _infer(state: Mapping[str, Tensor], name: str | None) -> ModelSpec:
    """The specification that the shapes tell; the rest from the system's defaults."""
    head = _conv(state, "head.0.weight")
    filters, channels = head.shape[:2]
    ends = [int(m[1]) for key in state if (m := re.fullmatch(r"body\.(\d+)\.weight", key))]
    if len(ends) != 1:
        raise InputError(f"its trunk has {len(ends)} closing convolutions (body.N.weight), not 1")
    network: type[SuperResolver]
    if any(key.startswith("pre_process.") for key in state):
        network = MDSR
        count = len({key.split(".")[1] for key in state if key.startswith("upsample.")})
        scales = tuple(_scale(state, f"upsample.{index}", filters) for index in range(count))
    else:
        network = EDSR
        scales = (_scale(state, "tail.0", filters),)
    system = _name(network, filters, ends[0], name)
    return ModelSpec(
        system=system,
        scales=scales,
        channels=channels,
        filters=filters,
        blocks=ends[0],
        residual_scaling=find_system(system).defaults.get("residual_scaling", 1.0),
    )


def _name(network: type[SuperResolver], filters: int, blocks: int, name: str | None) -> str:
    family = [system for system in systems().values() if system.network is network]
    size = {"filters": filters, "blocks": blocks}
    exact = [
        system.name
        for system in family
        if all(system.defaults[key] == value for key, value in size.items())
    ]
    if name is None:
        if exact:
            return exact[0]
        wide = [s.name for s in family if s.defaults["filters"] == filters]
        return (wide or [family[0].name])[0]
    found = f"{quantity(blocks, 'block')} of {quantity(filters, 'filter')}"
    if find_system(name) not in family:
        raise ConfigError(
            f"it holds {found} of the family {family[0].name}, not {name}; "
            f"ask for {' or '.join(system.name for system in family)}"
        )
    if exact and name not in exact:
        raise ConfigError(f"its {found} are {exact[0]}, not {name}; ask for {exact[0]}")
    return name


def _scale(state: Mapping[str, Tensor], prefix: str, filters: int) -> int:
    growth, rest = divmod(_conv(state, f"{prefix}.0.weight").shape[0], filters)
    steps = sum(
        re.fullmatch(rf"{re.escape(prefix)}\.\d+\.weight", key) is not None for key in state
    )
    scale = {(4, 1): 2, (9, 1): 3, (4, 2): 4}.get((growth, steps))
    if rest or scale is None:
        raise InputError(
            f"its upsampler {prefix} ({quantity(steps, 'convolution')}, {growth} times the filters) is not one of "
            "x2, x3, x4"
        )
    return scale


def _conv(state: Mapping[str, Tensor], key: str) -> Tensor:
    weight = state.get(key)
    if weight is None or weight.ndim != 4 or 0 in weight.shape:
        found = "missing" if weight is None else f"of shape {tuple(weight.shape)}"
        raise InputError(f"its {key} is {found}, not the weight of a convolution")
    return weight


def _normalisation(bias: Tensor, channels: int) -> dict[str, Any]:
    """Value range and mean told by ``sub_mean.bias``, which is ``-value_range * mean``."""
    shift = [-value for value in bias.flatten().tolist()]
    if len(shift) != channels:
        raise InputError(
            f"its sub_mean.bias has {quantity(len(shift), 'value')} for {quantity(channels, 'channel')}"
        )
    # A mean below one grey level of 255 is that of a network trained on 0..1.
    value_range = 1.0 if 0 < max(map(abs, shift)) <= 1 else 255.0
    mean = tuple(value / value_range for value in shift)
    usual = default_mean(channels)
    if all(abs(found - known) < 1e-6 for found, known in zip(mean, usual, strict=True)):
        mean = usual  # without the rounding of float32
    return {"value_range": value_range, "mean": mean}


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
