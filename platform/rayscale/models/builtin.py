"""The models that come with rayscale and need no registry: the interpolations, and the bundled weights.

A bundled model is ``bundled/NAME.safetensors``, trained by the commands of this repository, with its model card
``bundled/NAME.json`` beside it. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.errors import NotFoundError
from rayscale.models.spec import INTERPOLATIONS, ModelSpec

if TYPE_CHECKING:
    from rayscale.models.network import SuperResolver

BUNDLED = Path(__file__).parent / "bundled"


def bundled_names() -> tuple[str, ...]:
    """Names of the bundled models, sorted."""
    return tuple(sorted(path.stem for path in BUNDLED.glob("*.safetensors")))


def builtin_names() -> tuple[str, ...]:
    """Names of all models that are always at hand."""
    return (*INTERPOLATIONS, *bundled_names())


def find_builtin(name: str, scale: float | None = None) -> str | None:
    """The built-in model that ``name`` means, or None: ``edsr-baseline`` at 2 is ``edsr-baseline-x2``."""
    wanted = [name] if scale is None else [name, f"{name}-x{scale:g}"]
    return next((one for one in wanted if one in builtin_names()), None)


def open_builtin(name: str) -> tuple[SuperResolver, str]:
    """The network ``name`` in evaluation mode and the sha256 of its weights (``built-in:NAME`` without any)."""
    if name in INTERPOLATIONS:
        from rayscale.models.registry import create_model

        return create_model(name).eval(), f"built-in:{name}"
    from rayscale.models.weights import read_weights

    read = read_weights(_weights(name))
    return read.model, read.sha256


@cache
def read_spec(name: str) -> tuple[ModelSpec, str]:
    """Specification and sha256 of a bundled model, without reading its weights into tensors."""
    data = _weights(name).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # of safetensors
    spec = ModelSpec.from_json(header["__metadata__"]["rayscale.spec"])
    return spec, hashlib.sha256(data).hexdigest()


def read_card(name: str) -> dict[str, Any]:
    """The model card of a bundled model: data, recipe, steps, command and figures with their protocol."""
    card: dict[str, Any] = json.loads(_weights(name).with_suffix(".json").read_text())
    return card


def _weights(name: str) -> Path:
    if name not in bundled_names():
        raise NotFoundError(
            f"there is no bundled model {name!r}; there are {', '.join(bundled_names())}"
        )
    return BUNDLED / f"{name}.safetensors"
