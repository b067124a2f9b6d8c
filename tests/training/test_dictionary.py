from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rayscale.errors import InputError
from rayscale.training.dictionary import learn, matching_pursuit


def units(count: int, size: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, size, generator=random).double())


def test_the_pursuit_equals_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    atoms, samples = units(40, 12), units(200, 12, seed=1) * 3
    chosen, code = matching_pursuit(atoms, samples, 4)
    dense = torch.zeros(200, 40, dtype=torch.float64).scatter_(1, chosen, code)
    expected = linear_model.orthogonal_mp(atoms.T.numpy(), samples.T.numpy(), n_nonzero_coefs=4).T
    assert torch.allclose(dense, torch.from_numpy(expected), atol=1e-5)


def test_what_atoms_made_is_found_again():
    # Of orthogonal atoms greedy choice is exact, whatever the signs.
    atoms = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    samples = 2 * atoms[[1, 4]] - 0.5 * atoms[[6, 0]]
    chosen, code = matching_pursuit(atoms, samples, 2)
    assert chosen.tolist() == [[1, 6], [4, 0]]
    assert torch.allclose(code, torch.tensor([[2.0, -0.5]] * 2), atol=1e-5)


def test_zeros_and_equal_atoms_do_no_harm():
    atoms = units(5, 4)[[0, 0, 1, 2, 3]]
    chosen, code = matching_pursuit(atoms, torch.zeros(1, 4, dtype=torch.float64), 3)
    assert len(set(chosen[0].tolist())) == 3
    assert code.abs().max() == 0
    samples = units(20, 4, seed=2)
    chosen, code = matching_pursuit(atoms, samples, 4)
    assert torch.isfinite(code).all()


def test_learning_recovers_the_atoms_that_made_the_data():
    random = torch.Generator().manual_seed(3)
    truth = units(12, 10).float()
    pairs = torch.tensor(list(itertools.combinations(range(12), 2)))
    chosen = pairs[torch.randint(len(pairs), (1500,), generator=random)]
    code = torch.randn(1500, 2, generator=random)
    samples = torch.einsum("nt,ntd->nd", code, truth[chosen])
    errors: list[float] = []
    atoms = learn(
        samples,
        12,
        sparsity=2,
        iterations=25,
        generator=random,
        progress=lambda iteration, error: errors.append(error),
    )
    assert torch.allclose(atoms.norm(dim=1), torch.ones(12), atol=1e-5)
    found = (truth @ atoms.T).abs().max(dim=1).values
    assert (found > 0.99).sum() >= 9  # the start has none of them
    assert errors[-1] < 0.6 * errors[0]


def test_the_same_seed_gives_the_same_atoms():
    samples = units(300, 6).float()

    def make(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return learn(samples, 20, sparsity=2, iterations=2, generator=generator)

    assert torch.equal(make(1), make(1))
    assert not torch.equal(make(1), make(2))


def test_too_few_samples_say_so():
    samples = torch.cat([units(5, 4).float(), torch.zeros(100, 4)])
    with pytest.raises(InputError, match="5 patches with any structure are too few for 6 atoms"):
        learn(samples, 6, sparsity=1, iterations=1, generator=torch.Generator())
