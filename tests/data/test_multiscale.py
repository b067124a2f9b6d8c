"""Streams over several scales: one per step, alike on every worker, LR made of the very HR patch."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from rayscale.data import Dataset, PatchStream, PrepareConfig, ScaleStream, ShardCache, prepare
from rayscale.data.sampler import scale_at
from rayscale.errors import ConfigError
from rayscale.resampling import degrade, enlarge

Noise = Callable[..., np.ndarray]


@pytest.fixture
def uri(prepared: Path) -> Path:
    return prepared


def stream(uri: Path, scales: tuple[float, ...], **options: Any) -> ScaleStream:
    return ScaleStream(uri, scales, **{"patch": 8, "batch": 4, "seed": 3, **options})


def test_a_step_has_the_patches_of_its_scale(uri: Path) -> None:
    several = stream(uri, (2, 3, 4))
    alone = {s: PatchStream(Dataset(uri, s), patch=8, batch=4, seed=3) for s in (2, 3, 4)}
    seen = Counter()
    for step in range(30):
        [(lr, hr, scale)] = several.batches(step)
        assert scale == scale_at(3, step, (2, 3, 4))
        for mine, expected in zip((lr, hr), alone[int(scale)].batch(step), strict=True):
            assert torch.equal(mine, expected)
        seen[scale] += 1
    assert set(seen) == {2, 3, 4}


@pytest.mark.parametrize("scales", [(2, 3, 4), (1.5, 2, 2.5)])
def test_workers_share_the_batch_and_its_scale(uri: Path, scales: tuple[float, ...]) -> None:
    whole = stream(uri, scales)
    parts = [stream(uri, scales, rank=rank, world=2) for rank in range(2)]
    for step in (0, 5, 1000):
        [(lr, hr, scale)] = whole.batches(step)
        halves = [part.batches(step)[0] for part in parts]
        assert [half.scale for half in halves] == [scale, scale]
        assert torch.equal(torch.cat([half.lr for half in halves]), lr)
        assert torch.equal(torch.cat([half.hr for half in halves]), hr)


@pytest.mark.parametrize(
    ("scales", "sides"), [((2, 3, 4), (12, 8, 6)), ((1.5, 2, 2.5), (20, 15, 12))]
)
def test_a_mixed_step_has_patches_of_every_scale_and_one_size(
    uri: Path, scales: tuple[float, ...], sides: tuple[int, ...]
) -> None:
    options = {"mixed": True, "patch": sides[0], "batch": 12}
    parts = [stream(uri, scales, rank=rank, world=2, **options) for rank in range(2)]
    for step in (0, 7):
        batches = stream(uri, scales, **options).batches(step)
        assert [batch.scale for batch in batches] == list(scales)
        assert [batch.lr.shape[-1] for batch in batches] == list(sides)
        assert len({batch.hr.shape for batch in batches}) == 1
        assert batches[0].hr.shape[0] == 4
        first, second = batches[0].hr, batches[1].hr
        assert not torch.equal(first, second)  # other places of the dataset
        for whole, *halves in zip(batches, *(part.batches(step) for part in parts), strict=True):
            assert torch.equal(torch.cat([half.lr for half in halves]), whole.lr)
            assert torch.equal(torch.cat([half.hr for half in halves]), whole.hr)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 8, "patch": 12}, "batch of 8 patches .* 3 scales and 1 workers.*multiple of 3"),
        ({"batch": 6, "patch": 8}, "patch 8 is 16 HR pixels at x2.*multiple of 6"),
    ],
)
def test_a_mixed_step_is_shared_equally(uri: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stream(uri, (2, 3, 4), mixed=True, **options)


@pytest.mark.parametrize("scale", [1.1, 1.5, 2.5, 2, 3.9, 4])
def test_lr_of_any_scale_is_the_shrunken_hr_patch(uri: Path, scale: float) -> None:
    step = next(step for step in range(99) if scale_at(3, step, (0, 1)) == 0)
    [(lr, hr, drawn)] = stream(uri, (scale, 1.7), patch=10).batches(step)
    assert drawn == scale
    assert lr.shape[-2:] == (10, 10)
    assert hr.shape[-2:] == (round(10 * scale),) * 2
    assert lr.dtype == hr.dtype == torch.uint8
    if scale in (2, 4):  # independent of this path: bit-exact with the benchmark's LR files
        for low, high in zip(lr.numpy(), hr.numpy(), strict=True):
            expected = degrade(high.transpose(1, 2, 0), int(scale)).transpose(2, 0, 1)
            # That one rounds between its two passes, too.
            assert np.abs(expected.astype(int) - low).max() <= 2


@pytest.mark.parametrize("scale", [1.3, 2.5, 3.7])
def test_lr_lies_under_hr(images: Callable[..., Path], tmp_path: Path, scale: float) -> None:
    """A smooth image that is enlarged again lands where it was: no shift, no other size."""
    y, x = np.mgrid[0:96, 0:96] / 96
    smooth = np.stack([255 * y, 255 * x, 127 + 120 * np.sin(5 * x + 3 * y)], -1).astype(np.uint8)
    prepare(images({"a.png": smooth}), tmp_path / "set", PrepareConfig(size=96, step=96))
    [(lr, hr, _)] = stream(tmp_path / "set", (scale,), patch=20).batches(0)
    for low, high in zip(lr.numpy(), hr.numpy(), strict=True):
        back = enlarge(low.transpose(1, 2, 0), scale)
        assert peak_signal_noise_ratio(high.transpose(1, 2, 0)[3:-3, 3:-3], back[3:-3, 3:-3]) > 45


def test_a_patch_must_be_whole_at_every_scale(uri: Path) -> None:
    with pytest.raises(ConfigError, match=r"8\.8 HR pixels at x1\.1.*multiple of 10"):
        stream(uri, (1.1, 1.5))


def test_a_scale_that_was_not_prepared_is_made_when_others_are_fractions(uri: Path) -> None:
    with pytest.raises(ConfigError, match="prepared for the scales"):
        stream(uri, (2, 5))
    assert stream(uri, (5, 1.5), patch=4).batches(0)[0].lr.shape[-1] == 4


def test_a_cache_too_small_for_all_scales_is_told_once(
    uri: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Dataset, "cached", True)  # as if it lay in a bucket
    columns = [c for shard in Dataset(uri, 2).manifest.shards for c in shard.columns.values()]
    needed = sum(column.bytes for column in columns)
    with caplog.at_level(logging.WARNING):
        stream(uri, (2, 3, 4), cache=ShardCache(tmp_path, needed))
        assert not caplog.records
        stream(uri, (2, 3, 4), cache=ShardCache(tmp_path, needed - 1))
    assert len(caplog.records) == 1
    assert str(needed) in caplog.text
