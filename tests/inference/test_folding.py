"""Folded layers against the layers themselves, in float64: rounding excuses 1e-12, a wrong border does not."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from rayscale.inference import Upscaler
from rayscale.inference.folding import Folded, fold
from rayscale.inference.strips import Strips
from rayscale.models.network import SuperResolver
from rayscale.models.systems import SYSTEMS, create_model
from rayscale.options import Options

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDED = [(name, scale) for name in ("edsr-baseline", "mdsr-baseline") for scale in (2, 3, 4)]


def _model(name: str, scale: int, filters: int = 12) -> SuperResolver:
    torch.manual_seed(1)
    model = create_model(name, scale=scale, filters=filters, blocks=1).double()
    for key, value in model.state_dict().items():
        if key.endswith("bias") and "_mean." not in key:
            value.normal_(std=0.1)  # fresh ones are small, and a border is where they tell
    return model.eval()


def _folds(path: nn.Sequential) -> list[Folded]:
    return [stage for stage in path if isinstance(stage, Folded)]


def _apart(made: Tensor, whole: Tensor) -> float:
    return float((made - whole).abs().max() / whole.abs().max())


@torch.inference_mode()
@pytest.mark.parametrize(("name", "scale"), FOLDED)
def test_folded_is_the_same_function_up_to_the_border(name, scale):
    model = _model(name, scale)
    path = fold(model.path(scale, 3))
    (one,) = _folds(path)
    assert one.weight.shape == (3 * scale**2, 12, 5, 5)
    for height, width in ((1, 1), (1, 7), (6, 1), (2, 3), (5, 5), (20, 33)):
        x = torch.rand(2, 3, height, width, dtype=torch.float64) * 255
        assert _apart(path(x), model(x, scale)) < 1e-12


@torch.inference_mode()
def test_without_its_border_a_fold_would_be_wrong():
    """What the layers see at a border is not what one convolution sees there: the comparison above can fail."""
    model = _model("edsr-baseline", 2)
    x = torch.rand(1, 3, 9, 9, dtype=torch.float64) * 255
    path = fold(model.path(2, 3))
    (one,) = _folds(path)
    one.margin = 0
    apart = (path(x) - model(x, 2)).abs()
    assert apart[..., 2:-2, 2:-2].max() < 1e-9
    assert apart.max() > 1e-3


LAYERS = {
    "x2": [nn.Conv2d(6, 24, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(6, 2, 3, padding=1)],
    "x4": [
        *(nn.Conv2d(6, 24, 3, padding=1), nn.PixelShuffle(2)),
        *(nn.Conv2d(6, 24, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(6, 1, 5, padding=2)),
    ],
    "shuffle last": [
        nn.Conv2d(6, 90, 3, padding=1),
        nn.Conv2d(90, 9, 3, padding=1),
        nn.PixelShuffle(3),
    ],
    "pointwise": [nn.Conv2d(6, 90, 3, padding=1), nn.Conv2d(90, 1, 1, bias=False)],
    "wide": [nn.Conv2d(6, 90, 5, padding=2), nn.PixelShuffle(3), nn.Conv2d(10, 1, 3, padding=1)],
}


@settings(max_examples=60)
@given(
    name=st.sampled_from(list(LAYERS)),
    heights=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    width=st.integers(1, 9),
    most=st.integers(1, 300),
)
def test_strips_of_any_heights_equal_the_layers(name, heights, width, most):
    torch.manual_seed(2)
    layers = nn.Sequential(*LAYERS[name]).double()
    path = fold(layers)
    assert len(_folds(path)) == 1
    x = torch.rand(1, 6, sum(heights), width, dtype=torch.float64)
    strips, made = Strips(path, most), []
    with torch.inference_mode():
        for number, rows in enumerate(x.split(heights, dim=2), start=1):
            made += strips.push(rows, number == len(heights))
        assert _apart(torch.cat(made, dim=2), layers(x)) < 1e-12


@pytest.mark.parametrize(
    "layers",
    [
        [
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
        ],  # 5x5 is more than two of 3x3
        [nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)],
        [
            nn.Conv2d(8, 32, 3, padding=1),
            nn.PixelShuffle(2),
            nn.PReLU(),
            nn.Conv2d(8, 3, 3, padding=1),
        ],
        [nn.Conv2d(8, 99, 3, padding=1), nn.Conv2d(99, 1, 3, padding=1, padding_mode="replicate")],
        [nn.PixelShuffle(2), nn.Conv2d(8, 99, 3, padding=1), nn.Conv2d(99, 1, 3, padding=1)],
    ],
)
def test_what_is_not_linear_or_would_not_pay_stays(layers):
    path = fold(nn.Sequential(*layers))
    assert list(path) == layers


@torch.inference_mode()
@pytest.mark.parametrize(("scale", "less"), [(2, 0.902), (3, 0.806), (4, 0.653)])
def test_the_work_that_is_saved(scale, less, monkeypatch):
    """Multiplications of EDSR-baseline on a large image, against those of its layers; the border is the tolerance."""
    model = create_model("edsr-baseline", scale=scale).eval()
    work, convolve = [0], functional.conv2d

    def counted(x: Tensor, weight: Tensor, *rest: object, **options: object) -> Tensor:
        y = convolve(x, weight, *rest, **options)
        work[-1] += prod(y.shape[2:]) * weight.numel()
        return y

    path = fold(model.path(scale, 3))
    x = torch.zeros(1, 3, 2048, 2048, device="meta")
    monkeypatch.setattr(functional, "conv2d", counted)
    model.to("meta")(x, scale)
    work.append(0)
    path.to("meta")(x)
    assert work[1] / work[0] == pytest.approx(less, abs=0.003)


@torch.inference_mode()
@pytest.mark.parametrize("scale", [2, 4])
def test_in_bfloat16_it_is_nearer_to_the_truth(scale):
    """One rounding takes the place of two or three."""
    model = _model("edsr-baseline", scale, 32).float()
    x = torch.rand(1, 3, 40, 40) * 255
    exact = model(x, scale)
    path = fold(model.path(scale, 3))
    with torch.autocast("cpu", torch.bfloat16):
        narrow, made = model(x, scale), path(x)
    assert made.dtype == torch.float32
    error = (narrow - exact).abs().mean()
    assert 0 < (made - exact).abs().mean() <= 1.02 * error


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_upscales_as_its_network_does(name):
    """Through the Upscaler, which folds: once per number of channels."""
    scale = 2
    model = create_model(name, scale=scale).double()
    upscaler = Upscaler(model, Options(scale=scale), device="cpu")
    x = torch.rand(1, model.channels, 17, 30, dtype=torch.float64) * model.spec.value_range
    with torch.inference_mode():
        whole = model(x, scale)
        made = upscaler.predictor.predict(x)
    assert _apart(made.double(), whole) < 1e-6  # what leaves the Upscaler is float32
