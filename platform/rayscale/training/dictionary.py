"""Sparse coding: orthogonal matching pursuit, and dictionaries learned by K-SVD.

Rubinstein, Zibulevsky and Elad 2008, "Efficient Implementation of the K-SVD Algorithm using Batch Orthogonal
Matching Pursuit": atoms are updated by one step of the power iteration in place of a singular value
decomposition.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rayscale.errors import InputError

_AT_ONCE = 1 << 13  # samples whose products with all atoms are in memory together
_JITTER = 1e-7  # keeps the system of two equal atoms solvable


def matching_pursuit(atoms: Tensor, samples: Tensor, sparsity: int) -> tuple[Tensor, Tensor]:
    """Write each sample as a combination of ``sparsity`` atoms, chosen greedily and fitted together.

    Args:
        atoms: ``(K, d)`` of unit norm.
        samples: ``(n, d)``.

    Returns the numbers of the atoms ``(n, sparsity)``, all different in a row, and their coefficients.
    """
    parts = [_pursue(atoms, part, sparsity) for part in samples.split(_AT_ONCE)]  # type: ignore[no-untyped-call]
    return torch.cat([chosen for chosen, _ in parts]), torch.cat([code for _, code in parts])


def _pursue(atoms: Tensor, samples: Tensor, sparsity: int) -> tuple[Tensor, Tensor]:
    residual = samples
    chosen = torch.empty(len(samples), 0, dtype=torch.long)
    code = samples.new_empty(len(samples), 0)
    for count in range(1, sparsity + 1):
        match = (residual @ atoms.T).abs_().scatter_(1, chosen, -1.0)
        chosen = torch.cat([chosen, match.argmax(dim=1, keepdim=True)], dim=1)
        used = atoms[chosen]
        gram = used @ used.transpose(1, 2) + _JITTER * torch.eye(count, dtype=atoms.dtype)
        code = torch.linalg.solve(gram, used @ samples[:, :, None])[..., 0]
        residual = samples - torch.einsum("nt,ntd->nd", code, used)
    return chosen, code


def learn(
    samples: Tensor,
    count: int,
    *,
    sparsity: int,
    iterations: int,
    generator: torch.Generator,
    progress: Callable[[int, float], None] = lambda iteration, error: None,
) -> Tensor:
    """Unit atoms ``(count, d)`` in which ``samples (n, d)`` are sparse, by K-SVD from randomly chosen samples.

    ``progress(iteration, error)`` gets the root mean square of what the codes of an iteration leave unexplained.
    Raises InputError for fewer samples other than zero than atoms.
    """
    usable = samples[samples.norm(dim=1) > 0]
    if len(usable) < count:
        raise InputError(
            f"{len(usable)} patches with any structure are too few for {count} atoms; give more or larger images, "
            "or learn fewer atoms"
        )
    start = torch.randperm(len(usable), generator=generator)[:count]
    atoms = torch.nn.functional.normalize(usable[start])
    for iteration in range(1, iterations + 1):
        chosen, code = matching_pursuit(atoms, usable, sparsity)
        residual = usable - torch.einsum("nt,ntd->nd", code, atoms[chosen])
        progress(iteration, residual.square().mean().sqrt().item())
        _update(atoms, usable, residual, chosen, code)
    return atoms


def _update(atoms: Tensor, samples: Tensor, residual: Tensor, chosen: Tensor, code: Tensor) -> None:
    """One round over the atoms, each fitted with its coefficients to what the others leave; all in place."""
    order = chosen.flatten().argsort(stable=True)
    counts = chosen.flatten().bincount(minlength=len(atoms)).tolist()
    places = torch.split(order, counts)
    sparsity = chosen.shape[1]
    for atom, place in zip(atoms, places, strict=True):
        if not len(place):
            # Nobody uses it: it becomes what is explained worst, which then counts as explained.
            worst = residual.square().sum(dim=1).argmax()
            atom.copy_(torch.nn.functional.normalize(samples[worst], dim=0))
            residual[worst] = 0
            continue
        rows = place // sparsity
        weights = code.view(-1)[place]
        left = residual[rows] + weights[:, None] * atom
        fitted = weights @ left
        if fitted.norm() > 0:
            atom.copy_(fitted / fitted.norm())
        weights = left @ atom
        code.view(-1)[place] = weights
        residual[rows] = left - weights[:, None] * atom
