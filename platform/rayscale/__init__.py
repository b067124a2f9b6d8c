"""rayscale: distributed super-resolution on Ray, from object storage to HTTP.

>>> import rayscale
>>> rayscale.upscale("scene.tif", "larger.tif", scale=2)

The public names are those of ``__all__``; each is imported when it is first used, so that importing the package is free.
The rooms of the library are described in ``docs/architecture.md``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rayscale.api import (
        Model,
        evaluate,
        list_models,
        open_model,
        read_image,
        upscale,
        write_image,
    )
    from rayscale.batch import upscale_bucket
    from rayscale.client import AsyncClient, Client
    from rayscale.data import prepare as prepare_dataset
    from rayscale.errors import RayscaleError
    from rayscale.imaging import Image
    from rayscale.options import Options
    from rayscale.training.ray import fit as train

__all__ = [
    "AsyncClient",
    "Client",
    "Image",
    "Model",
    "Options",
    "RayscaleError",
    "evaluate",
    "list_models",
    "open_model",
    "prepare_dataset",
    "read_image",
    "train",
    "upscale",
    "upscale_bucket",
    "write_image",
]

_ELSEWHERE = {
    "AsyncClient": ("rayscale.client", "AsyncClient"),
    "Client": ("rayscale.client", "Client"),
    "Image": ("rayscale.imaging", "Image"),
    "Options": ("rayscale.options", "Options"),
    "RayscaleError": ("rayscale.errors", "RayscaleError"),
    "prepare_dataset": ("rayscale.data", "prepare"),
    "train": ("rayscale.training.ray", "fit"),
    "upscale_bucket": ("rayscale.batch", "upscale_bucket"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'rayscale' has no attribute {name!r}")
    module, attribute = _ELSEWHERE.get(name, ("rayscale.api", name))
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
