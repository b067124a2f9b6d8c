from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rayscale.data import Dataset, PatchStream, Prefetch, PrepareConfig, prepare
from rayscale.data.sampler import steps_per_epoch
from rayscale.errors import ConfigError, StorageError
from rayscale.resampling import degrade

Noise = Callable[..., np.ndarray]


@pytest.fixture
def dataset(prepared: Path) -> Dataset:
    return Dataset(prepared, 2)


def together(dataset: Dataset, step: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [
        PatchStream(dataset, patch=8, batch=8, seed=3, rank=rank, world=world).batch(step)
        for rank in range(world)
    ]
    return torch.cat([lr for lr, _ in parts]), torch.cat([hr for _, hr in parts])


def test_the_global_batch_is_the_same_for_any_number_of_workers(dataset: Dataset) -> None:
    for step in (0, 1, 17, 100_000):
        lr, hr = together(dataset, step, 1)
        assert lr.shape == (8, 3, 8, 8)
        assert hr.shape == (8, 3, 16, 16)
        assert lr.dtype == hr.dtype == torch.uint8
        assert lr.is_contiguous()
        assert hr.is_contiguous()
        for world in (2, 4, 8):
            for one, other in zip((lr, hr), together(dataset, step, world), strict=True):
                assert torch.equal(one, other)


def test_any_step_can_be_asked_for_at_once(dataset: Dataset) -> None:
    walked = PatchStream(dataset, patch=8, batch=4, seed=1)
    batches = [walked.batch(step) for step in range(40)]
    for step in (39, 7, 23, 0):
        for one, other in zip(
            PatchStream(dataset, patch=8, batch=4, seed=1).batch(step), batches[step], strict=True
        ):
            assert torch.equal(one, other)
    assert not torch.equal(batches[0][0], batches[1][0])


def test_every_sub_image_once_per_epoch_over_all_workers(dataset: Dataset) -> None:
    streams = [
        PatchStream(dataset, patch=8, batch=4, seed=5, rank=rank, world=2) for rank in range(2)
    ]
    steps = steps_per_epoch(len(dataset), 4)
    for epoch in range(3):
        drawn = Counter(
            row
            for step in range(epoch * steps, (epoch + 1) * steps)
            for stream in streams
            for row in stream.rows_at(step)
        )
        assert set(drawn) == set(range(len(dataset)))
        assert sum(drawn.values()) - len(dataset) < 4


def test_a_worker_touches_its_share_only(dataset: Dataset) -> None:
    rows = [
        {
            row
            for step in range(50)
            for row in PatchStream(dataset, patch=8, batch=4, rank=rank, world=4).rows_at(step)
        }
        for rank in range(4)
    ]
    assert sum(map(len, rows)) == len(set().union(*rows)) == len(dataset)
    assert all(max(part) - min(part) == len(part) - 1 for part in rows)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lr_and_hr_show_the_same_place_turned_alike(
    images: Callable[..., Path], tmp_path: Path, scale: int
) -> None:
    """Each LR pixel carries a number that its whole HR block carries too."""
    y, x = np.mgrid[0:96, 0:96] // 12
    mark = np.stack([y * 8 + x, y * 30, x * 30], axis=-1).astype(np.uint8)
    prepare(
        images({"mark.png": mark}),
        tmp_path / "set",
        PrepareConfig(size=96, step=96, images_per_shard=1),
    )
    stream = PatchStream(Dataset(tmp_path / "set", scale), patch=96 // scale, batch=8)
    for step in range(4):
        lr, hr = stream.batch(step)
        assert len({sample.numpy().tobytes() for sample in hr}) > 1
        block = 12 // scale
        middle = slice(block // 2, None, block)
        np.testing.assert_allclose(  # the middle of a constant block keeps its value but for overshoot
            lr[:, :, middle, middle].numpy().astype(int),
            hr[:, :, 6::12, 6::12].numpy().astype(int),
            atol=14,
        )


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_patches_are_degraded_hr_up_to_their_border(dataset: Dataset, scale: int) -> None:
    other = Dataset(dataset.uri, scale)
    lr, hr = PatchStream(other, patch=12, batch=8, seed=2).batch(5)
    for low, high in zip(lr.numpy(), hr.numpy(), strict=True):
        own = degrade(high.transpose(1, 2, 0), scale).transpose(2, 0, 1)
        # A transposed patch was resized columns first: rounding may differ by one.
        difference = np.abs(own[:, 3:-3, 3:-3].astype(int) - low[:, 3:-3, 3:-3])
        assert difference.max() <= 1


def test_sixteen_bits_and_bands(
    images: Callable[..., Path], make_noise: Noise, make_file: Callable[..., bytes], tmp_path: Path
) -> None:
    folder = images({"a.tif": make_file(make_noise(60, 60, 3, 16))})
    prepare(folder, tmp_path / "set", PrepareConfig(scales=(2,), size=48, step=48, minimum=24))
    lr, hr = PatchStream(Dataset(tmp_path / "set", 2), patch=8, batch=2).batch(0)
    assert lr.dtype == hr.dtype == torch.uint16
    assert hr.to(torch.float32).max() > 256


def test_fewer_sub_images_than_slots(dataset: Dataset) -> None:
    count = 4 * len(dataset)
    stream = PatchStream(dataset, patch=8, batch=count)
    assert set(stream.rows_at(0)) == set(range(len(dataset)))
    assert len(stream.batch(0)[0]) == count


def test_small_sub_images_are_left_out(
    images: Callable[..., Path], make_noise: Noise, tmp_path: Path
) -> None:
    folder = images({"a.png": make_noise(48, 48), "b.png": make_noise(24, 48)})
    prepare(folder, tmp_path / "set", PrepareConfig(scales=(2,), size=48, step=48, minimum=24))
    dataset = Dataset(tmp_path / "set", 2)
    stream = PatchStream(dataset, patch=24, batch=2)
    assert stream.rows == 1
    with pytest.raises(ConfigError, match=r"none of the 2 sub-images .* is 50 HR pixels"):
        PatchStream(dataset, patch=25, batch=2)


def test_wrong_use_is_named(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"batch of 2 .* 3 workers"):
        PatchStream(dataset, batch=2, world=3)
    with pytest.raises(ConfigError, match="rank 2"):
        PatchStream(dataset, rank=2, world=2)
    with pytest.raises(ConfigError, match=r"\(2, 3, 4\), not for 8"):
        Dataset(dataset.uri, 8)


def test_batches_made_ahead_are_the_same(dataset: Dataset) -> None:
    stream = PatchStream(dataset, patch=8, batch=4)
    with Prefetch(stream.batch, start=3, stop=9) as batches:
        made = list(batches)
    assert len(made) == 6
    for step, (lr, hr) in enumerate(made, start=3):
        assert torch.equal(lr, stream.batch(step)[0])
        assert torch.equal(hr, stream.batch(step)[1])


def test_prefetch_stays_within_its_depth_and_ends() -> None:
    asked: list[int] = []

    def running() -> bool:
        return any(thread.name == "rayscale-prefetch" for thread in threading.enumerate())

    ahead = Prefetch(lambda step: asked.append(step) or step, depth=2)  # type: ignore[func-returns-value]
    assert next(ahead) == 0
    time.sleep(0.1)
    assert len(asked) <= 4
    ahead.close()
    ahead.close()
    assert not running()
    assert list(ahead) == []


def test_prefetch_raises_in_turn() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise StorageError("gone")
        return step

    with Prefetch(make, depth=4) as ahead:
        assert [next(ahead), next(ahead)] == [0, 1]
        with pytest.raises(StorageError, match="gone"):
            next(ahead)
        assert list(ahead) == []


def test_a_file_that_is_gone_is_let_go(dataset: Dataset) -> None:
    """A mapping would keep the disk space of what the cache has given up."""

    def mapped() -> bool:
        return any("shards/00000-" in line for line in Path("/proc/self/maps").open())

    dataset.pair(0)
    assert mapped()
    for path in Path(dataset.uri, "shards").glob("00000-*.arrow"):
        path.unlink()
    dataset.pair(len(dataset) - 1)
    while mapped():  # until the thread that opened it has gone on
        time.sleep(0.01)
