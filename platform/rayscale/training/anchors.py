"""The regressors of A+: for each atom of a dictionary, ridge regression over the samples nearest to it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rayscale.errors import InputError

_ANCHORS_AT_ONCE = 8  # their products with all samples are in memory together: 32 bytes per sample


def anchor_regressors(
    atoms: Tensor,
    features: Tensor,
    details: Tensor,
    *,
    neighbours: int,
    ridge: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """``P (K, p, d)``, for each atom that with ``P f`` closest to the details of its neighbours.

    ``P = H F' (F F' + ridge I)^-1`` over the ``neighbours`` samples nearest to the atom (A+, section 3). All norms
    are 1, so the nearest samples are those with the largest product.

    Args:
        atoms: ``(K, d)`` of unit norm.
        features: ``(n, d)`` of unit norm.
        details: ``(n, p)``, of any floating type.
        progress: called with the anchors done and their number.

    Raises InputError for fewer samples than neighbours.
    """
    if len(features) < neighbours:
        raise InputError(
            f"{len(features)} patches are fewer than the {neighbours} neighbours of an anchor; give more or larger "
            "images, or use fewer neighbours"
        )
    penalty = ridge * torch.eye(atoms.shape[1], dtype=torch.float64)
    regressors = atoms.new_empty(len(atoms), details.shape[1], atoms.shape[1])
    for first in range(0, len(atoms), _ANCHORS_AT_ONCE):
        some = slice(first, first + _ANCHORS_AT_ONCE)
        nearest = (atoms[some] @ features.T).topk(neighbours, dim=1, sorted=False).indices
        f = features[nearest].double()
        h = details[nearest].double()
        solved = torch.linalg.solve(f.mT @ f + penalty, f.mT @ h)
        regressors[some] = solved.mT.to(regressors.dtype)
        progress(min(first + _ANCHORS_AT_ONCE, len(atoms)), len(atoms))
    return regressors


def shared_patches(regressors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` orthonormal patches ``(count, p)`` in which ``regressors (K, p, d)`` lose least, and their components.

    The components ``(K, count, d)`` times the patches give the regressors again, exactly when ``count`` is ``p``.
    """
    wide = regressors.double()
    moment = torch.einsum("kpd,kqd->pq", wide, wide)
    patches = torch.linalg.eigh(moment).eigenvectors[:, -count:].flip(1).T
    patches = patches * patches.sum(dim=1, keepdim=True).sign()
    return patches.to(regressors.dtype), (patches @ wide).to(regressors.dtype)
