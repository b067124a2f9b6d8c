from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from scipy.signal import convolve2d

from rayscale.data import Dataset, PrepareConfig, prepare
from rayscale.errors import ConfigError, InputError
from rayscale.models.systems import create_model
from rayscale.resampling import degrade, upsample
from rayscale.training.patches import Source, cut, gradient_operator, principal_features


def gradients_of_the_paper(lr: np.ndarray, scale: int) -> np.ndarray:
    """Four gradient maps of the interpolated image; MATLAB's conv2(..., 'same') is scipy's up to its centre."""
    midway = upsample(torch.from_numpy(lr), scale).numpy()
    gap = [0.0] * (scale - 1)
    first = np.array([[1.0, *gap, -1.0]])
    second = np.array([[1.0, *gap, -2.0, *gap, 1.0]]) / 2
    maps = []
    for kernel in (first, first.T, second, second.T):
        full = convolve2d(midway, kernel, mode="full")
        top, left = kernel.shape[0] // 2, kernel.shape[1] // 2  # where conv2 begins
        maps.append(full[top : top + midway.shape[0], left : left + midway.shape[1]])
    return np.stack(maps)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_windows_times_the_operator_are_the_gradients_of_the_paper(scale):
    lr = np.random.default_rng(0).random((10, 12))
    hr = np.random.default_rng(1).random((10 * scale, 12 * scale))
    windows, details = cut(*(torch.from_numpy(x)[None, None] for x in (lr, hr)), scale)
    found = windows @ gradient_operator(scale).T
    maps = gradients_of_the_paper(lr, scale)
    lost = hr - upsample(torch.from_numpy(lr), scale).numpy()
    assert len(windows) == len(details) == 8 * 10
    for index, (row, column) in enumerate(itertools.product(range(8), range(10))):
        area = tuple(slice(scale * start, scale * (start + 3)) for start in (row, column))
        assert np.allclose(details[index], lost[area].ravel())
        if 0 < row < 7 and 0 < column < 9:  # conv2 fills the outermost gradients with zeros
            expected = maps[(slice(None), *area)].ravel()
            assert np.allclose(found[index], expected, atol=1e-12)


def test_principal_features_are_those_of_a_singular_value_decomposition():
    windows = torch.rand(400, 81, generator=torch.Generator().manual_seed(0)).double()
    features, kept = principal_features(windows.T @ windows, 2, 7)
    gradients = (windows @ gradient_operator(2).T).numpy()
    _, singular, components = np.linalg.svd(gradients, full_matrices=False)
    assert kept == pytest.approx((singular[:7] ** 2).sum() / (singular**2).sum())
    projected = gradients @ components[:7].T
    assert np.allclose(np.abs(windows.numpy() @ features.T.numpy()), np.abs(projected), atol=1e-8)


def test_flat_windows_have_no_features():
    windows = torch.rand(100, 81, generator=torch.Generator().manual_seed(0)).double()
    features, _ = principal_features(windows.T @ windows, 3, 10)
    assert (features @ torch.ones(81, dtype=torch.float64)).abs().max() < 1e-12


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grey")
    (root / "source").mkdir()
    random = np.random.default_rng(0)
    for index, size in enumerate([(24, 30), (16, 20), (12, 12)]):
        pixels = random.integers(0, 256, size, np.uint8)
        PIL.Image.fromarray(pixels).save(root / "source" / f"{index}.png")
    config = PrepareConfig(scales=(2,), size=48, step=48, minimum=12)
    prepare(str(root / "source"), str(root / "dataset"), config)
    return root / "dataset"


def test_a_source_gives_what_it_says_is_available(grey):
    dataset = Dataset(grey, 2)
    source = Source(dataset, create_model("aplus", scale=2), (1.0, 0.5), seed=1)
    total = int(source.available(np.arange(3)).sum())
    # Sides in LR pixels less the two of a patch's border, at full and at half size.
    assert total == 10 * 13 + 6 * 8 + 4 * 4 + 4 * 5 + 2 * 3 + 1 * 1
    every = list(source.patches(10_000))
    assert sum(len(windows) for windows, _ in every) == total
    assert all(w.shape[1] == 81 and d.shape[1] == 36 for w, d in every)
    some = [windows for windows, _ in source.patches(100)]
    assert abs(sum(map(len, some)) - 100) <= 3
    again = [windows for windows, _ in source.patches(100)]
    assert all(torch.equal(a, b) for a, b in zip(some, again, strict=True))
    pixels = torch.from_numpy(dataset.pair(0)[0].copy()) / 255
    assert any((windows[:, 40, None] == pixels.flatten()).any(dim=1).all() for windows, _ in every)


def test_a_few_patches_do_not_read_a_whole_dataset(grey):
    dataset = Dataset(grey, 2)
    source = Source(dataset, create_model("aplus", scale=2), (1.0,), seed=1)
    assert len(list(source.patches(1))) < 3


def test_images_that_are_too_small(grey):
    source = Source(Dataset(grey, 2), create_model("aplus", scale=2), (0.1,), seed=1)
    with pytest.raises(InputError, match="no image of 6 pixels a side"):
        list(source.patches(10))


def test_pairs_give_their_own_lr_images(tmp_path: Path):
    random = np.random.default_rng(0)
    hr = random.integers(0, 256, (24, 30), np.uint8)
    lr = 200 - degrade(hr[:, :, None], 2)[:, :, 0] // 2
    for name, pixels in (("HR", hr), ("LR", lr)):
        (tmp_path / name).mkdir()
        PIL.Image.fromarray(pixels).save(tmp_path / name / "a.png")
    config = PrepareConfig(size=48, step=48, minimum=12, registration="trust")
    prepare(tmp_path, tmp_path / "dataset", config)
    dataset, model = Dataset(tmp_path / "dataset", 2), create_model("aplus", scale=2)
    ((windows, _),) = Source(dataset, model, (1.0,), seed=1).patches(10_000)
    centres = set((windows[:, 40] * 255).round().int().tolist())
    assert centres == set(lr[1:-1, 1:-1].ravel().tolist())
    with pytest.raises(ConfigError, match=r"data\.sizes=1"):
        Source(dataset, model, (1.0, 0.5), seed=1)
