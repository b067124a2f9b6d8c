"""From source images to training batches: shards in object storage, and patches cut from them.

``preparation`` writes a dataset as its ``plan`` of a ``listing`` says, by ``tasks`` that make its ``shards``; ``manifest``, with its
lists in ``parts``, says what it holds;
``cache``, ``dataset``, ``sampler``, ``stream`` and ``multiscale`` read it. Decoding images is ``rayscale.imaging``, the
arithmetic of low resolution ``rayscale.resampling``; Ray runs the preparation for ``rayscale prepare``.
"""

from rayscale.data.cache import ShardCache
from rayscale.data.config import PrepareConfig
from rayscale.data.dataset import Dataset
from rayscale.data.manifest import Failure, Manifest
from rayscale.data.multiscale import Batch, ScaleStream
from rayscale.data.preparation import prepare
from rayscale.data.sampler import scale_at
from rayscale.data.stream import PatchStream, Prefetch

__all__ = [
    "Batch",
    "Dataset",
    "Failure",
    "Manifest",
    "PatchStream",
    "Prefetch",
    "PrepareConfig",
    "ScaleStream",
    "ShardCache",
    "prepare",
    "scale_at",
]
