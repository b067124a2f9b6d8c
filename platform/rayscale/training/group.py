"""What the workers of a process group tell each other beside gradients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

_turns = itertools.count()
_LOOK = timedelta(seconds=10)


def agree(value: int, world: int, device: torch.device) -> int:
    """The value of rank 0, on every rank."""
    if world == 1:
        return value
    shared = torch.tensor(int(value), device=device)
    dist.broadcast(shared, 0)
    return int(shared)


def join(flags: list[bool], world: int, device: torch.device) -> list[bool]:
    """Each flag that is set on any rank, on every rank."""
    if world == 1:
        return flags
    shared = torch.tensor(flags, dtype=torch.uint8, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return [bool(flag) for flag in shared.tolist()]


@contextmanager
def alone(rank: int, world: int) -> Iterator[None]:
    """Around what rank 0 does alone, such as validation: the others wait at the end of the block, for as long as it takes.

    They wait at the store of the process group and not in a collective. So the time limit of collectives, which finds
    workers that hang, may be far below the time of a validation. Every rank must come to the same blocks. Where rank 0
    fails in the block, the others go on and fail at their next collective; where it dies, its store goes with it and
    the wait raises.
    """
    if world == 1:
        yield
        return
    store = dist.distributed_c10d._get_default_store()
    key = f"rayscale/alone/{next(_turns)}"
    if rank == 0:
        try:
            yield
        finally:
            store.set(key, "done")
        return
    yield
    while True:
        try:
            store.wait([key], _LOOK)
            return
        except dist.DistNetworkError:
            raise
        except dist.DistStoreError:  # not yet
            continue
