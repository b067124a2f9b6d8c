"""Training on several scales: each step has one of them, drawn alike on every worker."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rayscale.data.cache import ShardCache
from rayscale.data.dataset import Dataset
from rayscale.data.sampler import scale_at
from rayscale.data.stream import PatchStream
from rayscale.errors import ConfigError
from rayscale.resampling import exact_scale, shrink

if TYPE_CHECKING:
    from torch import Tensor

    from rayscale.data.manifest import Manifest

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """A worker's part of one step: LR ``(n, C, p, p)``, HR ``(n, C, sp, sp)``, integers, and their scale s."""

    lr: Tensor
    hr: Tensor
    scale: float


class _Source(Protocol):
    def batch(self, step: int) -> tuple[Tensor, Tensor]: ...


class ScaleStream:
    """Patches of a dataset at one of ``scales`` per step (MDSR: Lim et al. 2017, section 4.2).

    A pure function of ``(seed, step)``, like ``PatchStream``, whose arguments it takes: ``patch`` is the LR side
    at every scale. Integer scales read the LR images of the dataset. When any of the scales is a fraction, LR patches
    of all are made from the HR ones as they are needed; then ``patch`` times every scale has to be whole.

    Raises ``ConfigError`` like ``Dataset`` and ``PatchStream``, and for a patch that is not whole at a scale.
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
        cache: ShardCache | None = None,
    ) -> None:
        self.scales, self.seed = tuple(scales), seed
        cache = cache or ShardCache()
        whole = all(float(scale).is_integer() for scale in scales)
        hr = None if whole else Dataset(uri, 1, cache)
        self._sources: dict[float, _Source] = {}
        files: dict[str, int] = {}
        for scale in self.scales:
            dataset = hr or Dataset(uri, int(scale), cache)
            side = patch if hr is None else _whole_side(patch, scale, self.scales)
            stream = PatchStream(
                dataset, patch=side, batch=batch, seed=seed, rank=rank, world=world
            )
            self._sources[scale] = stream if hr is None else _Shrunk(stream, patch)
            files |= stream.shards()
        self.manifest: Manifest = dataset.manifest
        if dataset.cached and sum(files.values()) > cache.limit:
            logger.warning(
                "this worker's shards hold %d bytes, the cache only %d: they will be fetched again and again; "
                "raise RAYSCALE_CACHE_BYTES or train with more workers",
                sum(files.values()),
                cache.limit,
            )

    def batch(self, step: int) -> Batch:
        """This worker's part of the batch of ``step`` (from 0)."""
        scale = scale_at(self.seed, step, self.scales)
        return Batch(*self._sources[scale].batch(step), scale)


class _Shrunk:
    """HR patches of a stream, and their LR patches as MATLAB's ``imresize`` makes them of the patch alone."""

    def __init__(self, hr: PatchStream, patch: int) -> None:
        self._hr, self._patch = hr, patch

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        _, hr = self._hr.batch(step)
        return shrink(hr, (self._patch, self._patch)), hr


def _whole_side(patch: int, scale: float, scales: Sequence[float]) -> int:
    side = patch * exact_scale(scale)
    if side.denominator != 1:
        raise ConfigError(
            f"a patch of {patch} LR pixels is {float(side):g} HR pixels at x{scale:g}, which is no whole number; make "
            f"data.patch a multiple of {_grain(scales)}"
        )
    return int(side)


def _grain(scales: Sequence[float]) -> int:
    """The smallest patch that is whole at every scale; all others are its multiples."""
    return math.lcm(*(exact_scale(scale).denominator for scale in scales))
