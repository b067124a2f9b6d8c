"""Strips against the network on the whole image, in float64: what rounding could excuse is 1e-13, a seam is not."""

from __future__ import annotations

import gc
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from rayscale.inference.strips import Strips
from rayscale.models.network import SuperResolver
from rayscale.models.path import Skip, reach
from rayscale.models.systems import SYSTEMS, create_model

pytestmark = pytest.mark.usefixtures("one_thread")

ZOO = [
    (system.name, scale)
    for system in SYSTEMS.values()
    for scale in (2, 3, 4, 1.5, 2.5, 3.33)
    if scale in system.scales or system.network.scale_range is not None
]
TILED = {"nearest", "bilinear", "bicubic", "aplus", "meta-edsr", "meta-srgan"}
"""Systems that are no sequence of stages."""


def _model(name: str, scale: float, channels: int = 3) -> SuperResolver:
    """A narrow network whose weights and statistics carry the signal through every layer."""
    torch.manual_seed(1)
    system = SYSTEMS[name]
    sizes = {"filters": 4, "blocks": 3, "residual_scaling": 0.7}
    options = {key: value for key, value in sizes.items() if key in system.options}
    if system.channels == 3:
        options["channels"] = channels
    model = create_model(name, scale=scale if scale in system.scales else 2, **options).double()
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif key.endswith(("running_mean", "bias")) and "_mean." not in key:
            value.normal_(std=0.1)
        elif value.ndim == 4 and "_mean." not in key:
            nn.init.kaiming_normal_(value, a=1)
    return model.eval()


def _run(path: nn.Module, x: Tensor, heights: Iterable[int], most: int) -> list[Tensor]:
    strips, made = Strips(path, most), []
    pieces = torch.split(x, list(heights), dim=2)
    for number, piece in enumerate(pieces, start=1):
        made += strips.push(piece, number == len(pieces))
    return made


def _heights(height: int, strip: int) -> list[int]:
    return [min(strip, height - top) for top in range(0, height, strip)]


@torch.inference_mode()
@pytest.mark.parametrize(("name", "scale"), ZOO)
def test_strips_equal_the_whole_for_every_system_and_scale(name, scale):
    model = _model(name, scale)
    if name in TILED:
        assert model.path(scale, model.channels) is None
        return
    for channels in {model.channels, 3} if model.any_channels else {model.channels}:
        for height, width, strip, most in (
            (1, 1, 1, 1),
            (7, 5, 2, 40),
            (50, 9, 1, 30),
            (43, 6, 32, 64),
        ):
            x = torch.rand(1, channels, height, width, dtype=torch.float64) * model.spec.value_range
            whole = model(x, scale)
            made = torch.cat(
                _run(model.path(scale, channels), x, _heights(height, strip), most), dim=2
            )
            assert made.shape == whole.shape
            assert (made - whole).abs().max() <= 1e-9 * whole.abs().max()


PATHS = {
    (name, scale): _model(name, scale, 1)
    for name, scale in (("mdsr-baseline", 3), ("vdsr", 2.5), ("srcnn-955", 2.5), ("srresnet", 4))
}


@settings(max_examples=40)
@given(
    case=st.sampled_from(list(PATHS)),
    heights=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    width=st.integers(1, 12),
    most=st.integers(1, 500),
)
def test_strips_of_any_heights_equal_the_whole(case, heights, width, most):
    model = PATHS[case]
    x = torch.rand(1, 1, sum(heights), width, dtype=torch.float64) * model.spec.value_range
    with torch.inference_mode():
        whole = model(x, case[1])
        made = torch.cat(_run(model.path(case[1], 1), x, heights, most), dim=2)
    assert made.shape == whole.shape
    assert (made - whole).abs().max() <= 1e-9 * whole.abs().max()


@torch.inference_mode()
def test_a_strip_that_forgets_would_show():
    """The comparisons above can fail: without what is kept between strips they do."""
    model = _model("edsr-baseline", 2)
    x = torch.rand(1, 3, 40, 8, dtype=torch.float64) * 255
    path = model.path(2, 3)
    apart = [torch.cat(_run(path, part, [20], 10**6), dim=2) for part in x.split(20, dim=2)]
    difference = (torch.cat(apart, dim=2) - model(x, 2)).abs()
    assert difference[:, :, 38:42].max() > 1e-2
    assert difference[:, :, :10].max() < 1e-9


@torch.inference_mode()
def test_every_row_of_every_layer_is_computed_once(monkeypatch):
    work, convolve = [0], functional.conv2d

    def counted(x: Tensor, weight: Tensor, *rest: object, **options: object) -> Tensor:
        y = convolve(x, weight, *rest, **options)
        work[-1] += y.shape[2] * y.shape[3] * weight.numel()
        return y

    monkeypatch.setattr(functional, "conv2d", counted)
    model = _model("edsr-baseline", 4)
    x = torch.rand(1, 3, 70, 8, dtype=torch.float64)
    model(x, 4)
    work.append(0)
    _run(model.path(4, 3), x, _heights(70, 8), 64)
    assert work[0] == work[1] > 0


@torch.inference_mode()
def test_memory_is_for_rows_only():
    """What is held does not grow with the rows that went through."""

    def held() -> int:
        gc.collect()
        # Not isinstance, which makes lazily imported modules load themselves. What other tests left behind may have no
        # storage: sparse tensors, and the subclasses by which torch exports.
        tensors = (item for item in gc.get_objects() if type(item) is Tensor)
        dense = (item.untyped_storage() for item in tensors if item.layout == torch.strided)
        storages = {storage.data_ptr(): storage for storage in dense}
        return sum(storage.nbytes() for storage in storages.values())

    strips = Strips(_model("mdsr-baseline", 2).path(2, 3), 64)
    sizes = []
    for count in (1, 5, 6):
        for _ in range(count):
            for _ in strips.push(torch.rand(1, 3, 8, 8, dtype=torch.float64), last=False):
                pass
        sizes.append(held())
    assert sizes[0] < sizes[1] == sizes[2]


@torch.inference_mode()
def test_strips_stay_small_on_finer_grids_and_at_the_bottom():
    model = _model("mdsr-baseline", 4)
    x = torch.rand(1, 3, 64, 8, dtype=torch.float64)
    made = _run(model.path(4, 3), x, _heights(64, 8), 64)
    assert sum(rows.shape[2] for rows in made) == 256
    assert max(rows.shape[2] * rows.shape[3] for rows in made) == 64


@torch.inference_mode()
def test_under_autocast_strips_are_as_near_as_the_whole():
    model = _model("edsr-baseline", 2).float()
    x = torch.rand(1, 3, 40, 24) * 255
    exact = model(x, 2)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = model(x, 2)
        made = torch.cat(_run(model.path(2, 3), x, _heights(40, 8), 128), dim=2)
    assert made.dtype == narrow.dtype == torch.float32
    error = (narrow - exact).abs().mean()
    assert (made - exact).abs().mean() <= 1.2 * error
    assert 0 < error < 3


@pytest.mark.parametrize(
    "stage",
    [
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(3, 3, 3),
        nn.Conv2d(3, 3, 3, padding=1, stride=2),
        nn.Conv2d(3, 3, 3, padding=2, dilation=2),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(3, 3, 4),
    ],
)
def test_a_stage_of_unknown_reach_is_refused(stage):
    with pytest.raises(TypeError, match=type(stage).__name__ + "|padding"):
        Strips(nn.Sequential(nn.ReLU(), Skip(nn.Sequential(stage))), 64)


def test_a_skip_reaches_as_far_as_its_body():
    first, second, third = (nn.Conv2d(1, 1, size, padding=size // 2) for size in (5, 7, 3))
    assert reach([nn.Sequential(first, Skip(nn.Sequential(second, Skip(third))))]) == 2 + 3 + 1
