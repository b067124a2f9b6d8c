"""A+ against a loop over patches that is written from the paper, and the properties of its tiles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from rayscale.errors import ConfigError
from rayscale.inference import Upscaler
from rayscale.models import aplus
from rayscale.models.aplus import APlus
from rayscale.models.facts import describe
from rayscale.models.systems import create_model
from rayscale.models.weights import load_model, save_model
from rayscale.options import Options
from rayscale.resampling import upsample

FEATURES, ATOMS = 6, 20


def random_model(scale: int, **options: int) -> APlus:
    model = create_model("aplus", scale=scale, **{"filters": FEATURES, "blocks": ATOMS, **options})
    assert isinstance(model, APlus)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter))
    model.features.sub_(model.features.mean(dim=1, keepdim=True))  # as gradients have it
    return model.eval()


def by_patches(model: APlus, y: Tensor, scale: int) -> Tensor:
    """One patch after the other, each added where it lies, divided by how often a pixel was met."""
    height, width = y.shape
    ground = np.pad(y.numpy(), 5, mode="edge")
    total = np.zeros((scale * (height + 10), scale * (width + 10)))
    met = np.zeros_like(total)
    features, atoms = model.features.numpy(), model.atoms.numpy()
    for row, column in itertools.product(range(4, height + 6), range(4, width + 6)):
        feature = features @ ground[row - 4 : row + 5, column - 4 : column + 5].ravel()
        best = max(range(len(atoms)), key=lambda k: abs(float(atoms[k] @ feature)))
        patch = model.patches.numpy().T @ (model.regressors[best].numpy() @ feature)
        place = (
            slice(scale * (row - 1), scale * (row + 2)),
            slice(scale * (column - 1), scale * (column + 2)),
        )
        total[place] += patch.reshape(3 * scale, 3 * scale)
        met[place] += 1
    inner = slice(5 * scale, -5 * scale)
    assert (met[inner, inner] == 9).all()
    return upsample(y, scale) + torch.from_numpy(total[inner, inner] / 9)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_it_equals_a_loop_over_patches(scale):
    model = random_model(scale).double()
    y = torch.rand(2, 1, 7, 11, dtype=torch.float64)
    expected = torch.stack([by_patches(model, image, scale) for image in y[:, 0]])
    assert (model(y)[:, 0] - expected).abs().max() < 1e-9


def test_bands_of_rows_change_nothing(monkeypatch):
    model = random_model(3)
    y = torch.rand(1, 1, 23, 9)
    whole = model(y)
    monkeypatch.setattr(aplus, "_AT_ONCE", 40)  # 4 rows at a time, 3 at the end
    assert (model(y) - whole).abs().max() < 1e-5


def test_fresh_weights_are_bicubic():
    model, x = create_model("aplus", scale=3), torch.rand(1, 3, 6, 8)
    assert torch.allclose(model(x), create_model("bicubic")(x, 3), atol=1e-6)


def test_an_image_of_one_pixel_stays_flat():
    pixel = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)
    assert torch.allclose(random_model(2).double()(pixel), pixel, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_halo_is_the_receptive_field(scale):
    model = random_model(scale).double()
    x = torch.rand(1, 1, 15, 15, dtype=torch.float64, requires_grad=True)
    block = slice(7 * scale, 8 * scale)
    model(x)[..., block, block].abs().sum().backward()
    touched = torch.nonzero(x.grad[0, 0])
    assert int((touched - 7).abs().max()) == model.halo(scale) == 5


@pytest.mark.parametrize("scale", [2, 4])
def test_tiles_equal_the_whole_up_to_the_borders_of_the_image(scale):
    model = random_model(scale)
    x = torch.rand(1, 3, 50, 37)
    tiled = Upscaler(
        model, Options(scale=scale, precision="float32", tile=16), device="cpu"
    ).predictor.predict(x)
    assert (tiled - model(x)).abs().max() < 1e-4


def test_bfloat16_leaves_the_features_exact():
    model, x = random_model(2), torch.rand(1, 1, 12, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(x)
    assert torch.equal(mixed, model(x))


def test_brightness_and_contrast_pass_through():
    """Detail does not depend on brightness and is proportional to contrast, at any value range."""
    model, x = random_model(2).double(), torch.rand(1, 1, 9, 9, dtype=torch.float64)
    assert torch.allclose(model(255 * x + 10), 255 * model(x) + 10)


def test_parameters_are_what_the_file_stores():
    # features, atoms, regressors and patches: 30 x 81, 1024 x 30, 1024 x c x 30, c x 9 s^2
    counts = {
        str(scale): 30 * 81 + 1024 * 30 + 1024 * c * 30 + c * 9 * scale**2
        for scale, c in ((2, 36), (3, 81), (4, 81))
    }
    assert describe("aplus")["parameters"] == counts
    assert describe("aplus")["halo"] == {"2": 5, "3": 5, "4": 5}


def test_a_file_in_half_precision_is_small_and_close(tmp_path):
    model = create_model("aplus", scale=4)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) / 10)
    save_model(model, tmp_path / "model.safetensors", dtype=torch.float16)
    assert (tmp_path / "model.safetensors").stat().st_size < 6_000_000
    read = load_model(tmp_path / "model.safetensors")
    assert read.spec == model.spec
    for key, value in model.state_dict().items():
        found = read.state_dict()[key]
        assert found.dtype == torch.float32
        exact = value.numel() < 65536
        assert torch.equal(found, value.half().float() if not exact else value)
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_what_it_cannot_be():
    with pytest.raises(ConfigError, match="one channel"):
        create_model("aplus", scale=2, channels=3)
    with pytest.raises(ConfigError, match="at least 1 block"):
        create_model("aplus", scale=2, blocks=0)
    with pytest.raises(ConfigError, match="give one of 2, 3, 4"):
        create_model("aplus")
