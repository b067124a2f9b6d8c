"""Weights of one network as the start of another: of other scales, channels or depth, MDSR and SRResNet from EDSR."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayscale.errors import ConfigError, quantity
from rayscale.models.edsr import EDSR
from rayscale.models.mdsr import MDSR
from rayscale.models.network import BatchNorm, SuperResolver
from rayscale.models.srresnet import SRResNet
from rayscale.models.vdsr import VDSR
from rayscale.models.weights import require_same

Weights = dict[str, Tensor]


def warm_start(
    target: SuperResolver, source: SuperResolver, *, any_range: bool = False
) -> list[str]:
    """Copy weights into ``target`` and return the keys that stay fresh.

    - Of the same scales everything is copied. Of others, all but what belongs to a scale: EDSR's tail, MDSR's
      ``pre_process`` and ``upsample`` (the paper starts x3 and x4 from a trained x2 this way).
    - MDSR starts from EDSR as a network that enlarges by EDSR's scale exactly as that does: its ``pre_process``
      changes nothing at first, and the upsamplers of other scales stay fresh.
    - SRResNet and SRGAN start from EDSR as the same function, but for the border, where they pad with black instead of
      the mean. Their normalisations begin as identities for images with the statistics of photographs.
    - A deeper VDSR starts from a shallower one as the same function: what is new between its ReLUs is the identity
      (Chen et al. 2016, "Net2Net").
    - From RGB to one channel: the network of a grey image, the mean of R, G and B. To more channels: the first three
      as they were; each further one is not looked at, and comes out as that mean, until training says otherwise.

    The target keeps its own mean. Nothing is changed on an error.

    Args:
        any_range: also from weights of another value range, because the numbers that the target will see
            were chosen to be like those.

    Raises:
        ConfigError: another architecture, size, value range or residual scaling, or channels that do not follow from
            the source's.
    """
    if isinstance(target, SRResNet) and isinstance(source, EDSR):
        source = _with_normalisation(target, source)
    for name in ("value_range", "residual_scaling"):
        ours, theirs = getattr(target.spec, name), getattr(source.spec, name)
        if ours != theirs and not (any_range and name == "value_range"):
            raise ConfigError(
                f"cannot start from weights with {name} {theirs:g}: the model has {ours:g}; "
                "use the same value"
            )
    own, given = _learned(target), _given(target, source)
    if target.channels != source.channels:
        given = {key: _refit(key, value, target, source) for key, value in given.items()}
    fresh = [key for key in own if key not in given and key.startswith(target.scale_bound)]
    require_same({key: value for key, value in own.items() if key not in fresh}, given)
    with torch.no_grad():
        for key, value in given.items():
            own[key].copy_(value)
    return fresh


def _learned(model: SuperResolver) -> Weights:
    """What training changes: the parameters, and the statistics of batch normalisation."""
    statistics = {
        key: value
        for key, value in model.named_buffers()
        if key.endswith((".running_mean", ".running_var"))
    }
    return {**dict(model.named_parameters()), **statistics}


def _given(target: SuperResolver, source: SuperResolver) -> Weights:
    """What ``source`` has for ``target``, under the names of the target."""
    learned = _learned(source)
    if isinstance(target, MDSR) and isinstance(source, EDSR):
        return _from_edsr(target, learned, source.scales[0])
    if type(target) is not type(source):
        raise ConfigError(
            f"{target.spec.system} cannot start from {source.spec.system}: another architecture"
        )
    if isinstance(target, VDSR) and target.spec.blocks > source.spec.blocks:
        return _deepen(target, learned, source.spec.blocks)
    if target.scales == source.scales:
        return learned
    bound = target.scale_bound
    return {k: v for k, v in learned.items() if not (bound and k.startswith(bound))}


def _from_edsr(target: MDSR, learned: Weights, scale: int) -> Weights:
    """EDSR's weights under MDSR's names, and the zeros that make the blocks of ``pre_process`` pass all on."""
    given = {}
    for key, value in learned.items():
        if key.startswith("tail.0.") and scale in target.scales:
            given[f"upsample.{target.scales.index(scale)}.{key.removeprefix('tail.0.')}"] = value
        elif not key.startswith("tail.0."):
            given[key.replace("tail.1.", "tail.0.")] = value
    for key, value in target.named_parameters():
        if key.startswith("pre_process.") and ".body.2." in key:
            given[key] = torch.zeros_like(value)
    return given


def _with_normalisation(target: SRResNet, source: EDSR) -> SRResNet:
    """EDSR as an SRResNet of the target's value range, with [0, 1] before the first layer and [-1, 1] after the last.

    Residual scaling becomes part of the weights.
    """
    spec, half = source.spec, source.spec.value_range / 2
    own = target.spec
    model = SRResNet(
        replace(
            spec,
            system=own.system,
            value_range=own.value_range,
            residual_scaling=own.residual_scaling,
        )
    )
    mean = torch.tensor(spec.mean)
    convolutions = _convolutions(model)
    with torch.no_grad():
        for (weight, bias), (given, offset) in zip(
            convolutions, _convolutions(source), strict=True
        ):
            border = (weight.shape[-1] - given.shape[-1]) // 2
            weight.copy_(functional.pad(given, [border] * 4))
            bias.copy_(offset / half)
        for weight, bias in convolutions[2 : 2 * spec.blocks + 1 : 2]:  # the last of each block
            weight.mul_(spec.residual_scaling)
            bias.mul_(spec.residual_scaling)
        weight, bias = convolutions[0]
        weight *= 2
        bias -= torch.einsum("oiyx,i->o", weight, mean)
        _, bias = convolutions[-1]
        bias += 2 * mean - 1
        for name, module in model.named_modules():
            if isinstance(module, nn.PReLU):  # in a block a ReLU, elsewhere nothing
                module.weight.fill_(0.0 if ".body." in name else 1.0)
        _pass_on(model, _dead_leaves(16, spec.channels, 48))
    return model


def _convolutions(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution, in the order of the image's way."""
    layers = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    return [(layer.weight, layer.bias) for layer in layers if layer.bias is not None]


def _pass_on(model: SRResNet, images: Tensor) -> None:
    """Make each normalisation the identity, with what the ``images`` of [0, 1] bring to it as its statistics."""

    def measure(norm: BatchNorm, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        norm.running_mean, norm.running_var = mean, variance
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean)
        return inputs[0]

    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    hooks = [norm.register_forward_hook(measure) for norm in norms]
    model.body(model.head(images))
    for hook in hooks:
        hook.remove()


def _dead_leaves(count: int, channels: int, side: int) -> Tensor:
    """Images ``(N, C, side, side)`` in [0, 1] of discs that hide each other: their edges and smooth areas are as common
    as those of photographs (Lee, Mumford and Huang 2001, "Occlusion Models for Natural Images")."""
    random = torch.Generator().manual_seed(0)
    axis = torch.arange(float(side))
    images = torch.zeros(count, channels, side, side)
    for _ in range(200):
        y, x, size = torch.rand(3, count, 1, 1, generator=random)
        radius = 2 / (1.01 - size).sqrt()  # as many as 1 / radius^3
        inside = (axis[:, None] - side * y) ** 2 + (axis - side * x) ** 2 < radius**2
        colour = torch.rand(count, 1, 1, 1, generator=random) * 0.8
        tint = torch.rand(count, channels, 1, 1, generator=random) * 0.2
        images = torch.where(inside[:, None], colour + tint, images)
    return images


def _deepen(target: VDSR, learned: Weights, blocks: int) -> Weights:
    """The ``blocks`` layers of a shallower VDSR spread over the target's, with identities after each but the last."""
    depth = target.spec.blocks
    place = {i * (depth - 1) // (blocks - 1): i for i in range(blocks)}
    given = {}
    for key, value in target.named_parameters():
        _, index, kind = key.split(".")
        layer = int(index) // 2
        if layer in place:
            given[key] = learned[f"layers.{2 * place[layer]}.{kind}"]
        else:
            given[key] = torch.zeros_like(value)
            if kind == "weight":
                torch.nn.init.dirac_(given[key])
    return given


def _refit(key: str, value: Tensor, target: SuperResolver, source: SuperResolver) -> Tensor:
    """A weight of the first or the last layer for the target's channels; any other as it is."""
    if key == "head.0.weight":
        axis = 1
    elif key.startswith("tail.") and len(value) == source.channels:
        axis = 0
    else:
        return value
    if target.channels == 1:
        return value.sum(axis, keepdim=True) if axis else value.mean(0, keepdim=True)
    more = target.channels - source.channels
    if more < 0:
        raise ConfigError(
            f"{quantity(target.channels, 'channel')} cannot start from {source.channels}; 1 and more than "
            f"{source.channels} can"
        )
    mean = value.mean(axis, keepdim=True)
    further = torch.zeros_like(mean) if axis else mean
    return torch.cat((value, further.repeat_interleave(more, axis)), axis)
