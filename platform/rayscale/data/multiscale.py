"""Training on several scales: each step has one of them, drawn alike on every worker, or some patches of each."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rayscale.data.cache import ShardCache
from rayscale.data.dataset import Dataset
from rayscale.data.sampler import scale_at
from rayscale.data.stream import PatchStream
from rayscale.degradations import Degradation
from rayscale.errors import ConfigError
from rayscale.resampling import exact_scale, shrink

if TYPE_CHECKING:
    from torch import Tensor

    from rayscale.data.manifest import Manifest

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Patches of one scale s: LR ``(n, C, p, p)``, HR ``(n, C, sp, sp)``, integers; s may be left out for a network of one."""

    lr: Tensor
    hr: Tensor
    scale: float | None = None


class _Source(Protocol):
    def batch(self, step: int) -> tuple[Tensor, Tensor]: ...


class ScaleStream:
    """Patches of a dataset at one of ``scales`` per step (MDSR: Lim et al. 2017, section 4.2), or ``mixed``: at all.

    A pure function of ``(seed, step)``, like ``PatchStream``, whose arguments it takes: ``patch`` is the LR side
    at every scale. Integer scales read the LR images of the dataset. When any of the scales is a fraction, LR patches
    of all are made from the HR ones as they are needed; then ``patch`` times every scale has to be whole.

    Mixed, a step has ``batch / len(scales)`` patches of each scale (VDSR: Kim et al. 2016, section 3.3), all of one HR
    side: ``patch`` is then the LR side at the smallest scale.

    A dataset of pairs has integer scales only, and so has any degradation but bicubic; ``degradation`` as in
    ``PatchStream``.

    ``neighbours`` are the workers that share the cache, each of which gets an equal part of it.

    Raises ``ConfigError`` like ``Dataset`` and ``PatchStream``, for a patch that is not whole at a scale, and for a mixed
    batch that scales and workers cannot share.
    """

    def __init__(
        self,
        uri: str | Path,
        scales: Sequence[float],
        *,
        patch: int,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        mixed: bool = False,
        cache: ShardCache | None = None,
        degradation: Degradation | None = None,
        neighbours: int = 1,
    ) -> None:
        self.scales, self.seed, self.mixed = tuple(scales), seed, mixed
        self.neighbours = neighbours
        if mixed and (batch % len(scales) or batch < len(scales) * world):
            raise ConfigError(
                f"a batch of {batch} patches cannot be shared by {len(scales)} scales and {world} workers; make data.batch a "
                f"multiple of {len(scales)} and at least {len(scales) * world}, or data.mixed false"
            )
        sides = lr_sides(patch, self.scales, mixed=mixed)
        cache = cache or ShardCache()
        whole = all(float(scale).is_integer() for scale in scales)
        hr = None if whole else Dataset(uri, 1, cache)
        if hr is not None and hr.manifest.lr == "pairs":
            raise ConfigError(
                f"{hr.uri} has LR images of its own, at x{', x'.join(map(str, hr.manifest.scales))}; for fractional scales LR is "
                "made of HR: prepare the HR images with lr=made"
            )
        if hr is not None and not (degradation or hr.manifest.degradation).is_bicubic:
            raise ConfigError(
                f"LR images of fractional scales are made by bicubic, not by {degradation or hr.manifest.degradation}; take "
                "integer scales, or data.degradation=bicubic"
            )
        self._sources: dict[float, _Source] = {}
        self._datasets: list[Dataset] = []
        files: dict[str, int] = {}
        for index, (scale, lr_side) in enumerate(sides.items()):
            dataset = hr or _open(uri, int(scale), cache, degradation)
            self._datasets.append(dataset)
            stream = PatchStream(
                dataset,
                patch=lr_side if hr is None else _whole_side(lr_side, scale, self.scales),
                batch=batch // len(scales) if mixed else batch,
                seed=seed + index if mixed else seed,  # or all scales would see the same places
                rank=rank,
                world=world,
                degradation=degradation,
            )
            self._sources[scale] = stream if hr is None else _Shrunk(stream, lr_side)
            files |= stream.shards()
        self.manifest: Manifest = dataset.manifest
        self.degradation = str(degradation or self.manifest.degradation_name)
        if dataset.cached:
            self._fit(files, cache.limit // neighbours)

    def _fit(self, files: Mapping[str, int], budget: int) -> None:
        """Let rows of the files that do not fit into this worker's share of the cache be read one by one."""
        held, ranged = 0, []
        for key, size in files.items():
            if held + size <= budget:
                held += size
            else:
                ranged.append(key)
        if not ranged:
            return
        logger.warning(
            "this worker's shards hold %d bytes, its share of the cache only %d: rows of %d of the %d files are read from "
            "storage at every use; raise RAYSCALE_CACHE_BYTES or train with more nodes",
            sum(files.values()),
            budget,
            len(ranged),
            len(files),
        )
        for dataset in self._datasets:
            dataset.read_by_range(ranged)

    @property
    def left_out(self) -> dict[str, int]:
        """Sub-images that cannot be read, by the name of their damaged shard, as far as this worker knows."""
        found: dict[str, int] = {}
        for dataset in self._datasets:
            found |= dataset.left_out
        return found

    def close(self) -> None:
        """Give up what is fetched ahead."""
        for dataset in self._datasets:
            dataset.close()

    def batches(self, step: int) -> list[Batch]:
        """This worker's part of the batch of ``step`` (from 0): of the scale that was drawn, or of each."""
        drawn = self.scales if self.mixed else (scale_at(self.seed, step, self.scales),)
        return [Batch(*self._sources[scale].batch(step), scale) for scale in drawn]


def _open(uri: str | Path, scale: int, cache: ShardCache, wanted: Degradation | None) -> Dataset:
    """The dataset at a scale; without its LR images where others are wanted."""
    dataset = Dataset(uri, scale, cache)
    if wanted is None or str(wanted) == dataset.manifest.degradation_name:
        return dataset
    return Dataset(uri, scale, cache, lr=False)


class _Shrunk:
    """HR patches of a stream, and their LR patches as MATLAB's ``imresize`` makes them of the patch alone."""

    def __init__(self, hr: PatchStream, patch: int) -> None:
        self._hr, self._patch = hr, patch

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        _, hr = self._hr.batch(step)
        return shrink(hr, (self._patch, self._patch)), hr


def lr_sides(patch: int, scales: Sequence[float], *, mixed: bool) -> dict[float, int]:
    """The LR side of patches at each scale: ``patch``, or where they are mixed what has the HR side of the smallest scale.

    Raises ``ConfigError`` for mixed patches that are not whole at a scale.
    """
    if not mixed:
        return dict.fromkeys(scales, patch)
    hr = patch * exact_scale(min(scales))
    sides = {scale: hr / exact_scale(scale) for scale in scales}
    if any(side.denominator != 1 for side in sides.values()):
        raise ConfigError(
            f"data.patch {patch} is {float(hr):g} HR pixels at x{min(scales):g}, which is not a whole number of LR pixels "
            f"at every scale; with data.mixed make it a multiple of {_mixed_grain(scales)}"
        )
    return {scale: int(side) for scale, side in sides.items()}


def _mixed_grain(scales: Sequence[float]) -> int:
    """The smallest patch at the smallest scale whose HR side is whole patches of every scale."""
    least = exact_scale(min(scales))
    return math.lcm(*((least / exact_scale(scale)).denominator for scale in scales))


def _whole_side(patch: int, scale: float, scales: Sequence[float]) -> int:
    side = patch * exact_scale(scale)
    if side.denominator != 1:
        raise ConfigError(
            f"a patch of {patch} LR pixels is {float(side):g} HR pixels at x{scale:g}, which is not a whole number; make "
            f"data.patch a multiple of {_grain(scales)}"
        )
    return int(side)


def _grain(scales: Sequence[float]) -> int:
    """The smallest patch that is whole at every scale; all others are its multiples."""
    return math.lcm(*(exact_scale(scale).denominator for scale in scales))
