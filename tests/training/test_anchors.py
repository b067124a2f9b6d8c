from __future__ import annotations

import numpy as np
import pytest
import torch

from rayscale.errors import InputError
from rayscale.training.anchors import anchor_regressors, shared_patches


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_each_regressor_is_the_ridge_solution_over_its_nearest_samples():
    atoms = torch.nn.functional.normalize(normal(11, 5))
    features = torch.nn.functional.normalize(normal(200, 5))
    details = normal(200, 9)
    done: list[int] = []
    regressors = anchor_regressors(
        atoms,
        features,
        details,
        neighbours=30,
        ridge=0.1,
        progress=lambda count, total: done.append(count),
    )
    assert done[-1] == 11
    for atom, regressor in zip(atoms.numpy(), regressors.numpy(), strict=True):
        distance = np.linalg.norm(features.numpy() - atom, axis=1)
        nearest = np.argsort(distance)[:30]
        # Ridge is least squares with rows sqrt(0.1) I below, whose targets are 0.
        left = np.vstack([features.numpy()[nearest], np.sqrt(0.1) * np.eye(5)])
        right = np.vstack([details.numpy()[nearest], np.zeros((5, 9))])
        expected = np.linalg.lstsq(left, right, rcond=None)[0].T
        assert np.allclose(regressor, expected, atol=1e-5)


def test_shared_patches_are_the_best_of_their_number():
    regressors = normal(6, 9, 4)
    stacked = regressors.permute(1, 0, 2).reshape(9, -1).numpy()
    singular = np.linalg.svd(stacked, compute_uv=False)
    for count in (9, 5):
        patches, components = shared_patches(regressors, count)
        assert torch.allclose(patches @ patches.T, torch.eye(count), atol=1e-5)
        lost = (patches.T @ components - regressors).square().sum().item()
        assert lost == pytest.approx((singular[count:] ** 2).sum(), abs=1e-3)  # Eckart and Young


def test_too_few_samples_say_so():
    with pytest.raises(InputError, match="4 patches are fewer than the 5 neighbours"):
        anchor_regressors(normal(2, 3), normal(4, 3), normal(4, 2), neighbours=5, ridge=0.1)
