from __future__ import annotations

import itertools

import pytest
import torch

from rayscale.inference.ensemble import ensemble_moments, self_ensemble

FLIPS = [(), (-1,), (-2,), (-2, -1)]


def _transform(x: torch.Tensor, flip: tuple[int, ...], transpose: bool) -> torch.Tensor:
    x = torch.flip(x, flip) if flip else x
    return x.transpose(-2, -1) if transpose else x


@pytest.mark.parametrize(("flip", "transpose"), list(itertools.product(FLIPS, (False, True))))
def test_any_network_becomes_equivariant(flip, transpose):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 5, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(5, 2, 3, padding=1)
    ).double()
    x = torch.rand(1, 2, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        turned_after = _transform(self_ensemble(network, x), flip, transpose)
        turned_before = self_ensemble(network, _transform(x, flip, transpose))
    torch.testing.assert_close(turned_before, turned_after, atol=1e-12, rtol=0)


def test_eight_passes_and_an_equivariant_function_is_left_alone():
    calls = []

    def double(x: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape)
        return 2 * x

    x = torch.rand(1, 1, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(self_ensemble(double, x), 2 * x)
    assert len(calls) == 8


def test_moments_are_those_of_the_eight_outputs():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 2, 3, padding=1).double()
    x = torch.rand(1, 2, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        outputs = [
            _transform(_transform(network(_transform(x, flip, t)), (), t), flip, False)
            for flip, t in itertools.product(FLIPS, (False, True))
        ]
        mean, spread = ensemble_moments(network, x)
        torch.testing.assert_close(mean, self_ensemble(network, x))
    torch.testing.assert_close(spread, torch.stack(outputs).std(dim=0, correction=0))
