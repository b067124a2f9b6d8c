"""How a full memory shows itself, on the CPU and on the GPU."""

from __future__ import annotations

import torch

# The CPU allocator of torch has no class of its own for it, nor have the libraries below torch.
_SIGNS = ("can't allocate memory", "out of memory", "bad_alloc", "could not create a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory was asked for which is not there, so that less work at once may succeed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
