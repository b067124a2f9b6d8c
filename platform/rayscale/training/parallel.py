"""How a network is spread over workers and memory: DDP, FSDP2, activation checkpointing, compilation; and back.

Whatever is chosen, a state that leaves here (``gathered``) holds whole tensors on the CPU, so that a checkpoint of one
way is a checkpoint of every other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from rayscale.training.sections import WorkersSection


def prepare(
    model: nn.Module, config: WorkersSection, device: torch.device, world: int, *, partial: bool
) -> nn.Module:
    """What a step calls in the place of ``model``, which keeps its names and stays the one that is saved.

    ``partial`` when a step leaves some of the network unused.
    """
    for block in blocks_of(model):
        if config.compile:  # one graph for all blocks, in place of a large one
            block.forward = torch.compile(block.forward)
        if config.activation_checkpointing:
            block.forward = functools.partial(_recompute, block, block.forward)
    if world > 1 and config.strategy == "fsdp":
        return _shard(model, device, world)
    return replicate(model, device, world, partial=partial)


def replicate(
    model: nn.Module, device: torch.device, world: int, *, partial: bool = False
) -> nn.Module:
    """The model in DDP when there are several workers; ``partial`` as in ``prepare``."""
    if world == 1:
        return model
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        forward_sync_buffers=False,  # statistics are those of each worker's own share
        gradient_as_bucket_view=True,
        find_unused_parameters=partial,
    )


def unsynchronized(model: nn.Module) -> AbstractContextManager[Any]:
    """Around a backward pass that is followed by others of the same step: DDP exchanges gradients with the last only."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The parts with parameters of the longest sequence in the network: the blocks of its trunk."""
    rows = [m for m in model.modules() if isinstance(m, nn.Sequential | nn.ModuleList)]
    longest = max(rows, key=len, default=nn.Sequential())
    return [block for block in longest if any(True for _ in block.parameters())]


def local(tensor: Tensor) -> Tensor:
    """This worker's part of a tensor, sharing its memory: all of it where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(part: Tensor, like: Tensor) -> Tensor:
    """The tensor of which every worker has its ``part``, spread as ``like``."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements,
        run_check=False, shape=like.shape, stride=like.stride(),
    )  # fmt: skip


def spread(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on every worker, spread as ``like`` and laid out in memory as it.

    Fused optimizers go through weights and moments in the order of memory, so the layout must be the same.
    """
    if not isinstance(like, DTensor):
        return torch.empty_like(like).copy_(tensor)
    moved = tensor.to(like.device, like.dtype).contiguous()
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


def gathered(value: Any) -> Any:
    """The nested value with every tensor whole and as its own CPU tensor; of shards every worker has to ask."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: gathered(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [gathered(item) for item in value]
    return value


def load_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load whole tensors into a network, sharded or not."""
    mine = model.state_dict()
    model.load_state_dict({k: spread(v, mine[k]) if k in mine else v for k, v in state.items()})


def load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load whole tensors into an optimizer, sharded or not."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    copy = gathered(state)
    for index, moments in copy["state"].items():
        like = parameters[int(index)]
        for key, value in moments.items():
            if isinstance(value, Tensor) and value.shape == like.shape:
                moments[key] = spread(value, like)
    optimizer.load_state_dict(copy)


def _shard(model: nn.Module, device: torch.device, world: int) -> nn.Module:
    """FSDP2: each worker keeps a part of weights, gradients and moments; a block is whole while it is computed."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world,))
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _recompute(block: nn.Module, forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``forward``, whose intermediate results are computed again in the backward pass instead of being kept."""
    if not torch.is_grad_enabled():
        return forward(*inputs)
    contexts = lambda: (nullcontext(), _statistics_kept(block))  # noqa: E731
    result: Tensor = checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)
    return result


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Running statistics of batch normalisation saw these values in the first pass: once is enough."""
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
