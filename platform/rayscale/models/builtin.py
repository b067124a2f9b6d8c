"""The models that come with rayscale and need no registry: the interpolations, and the bundled weights.

A bundled model is ``bundled/NAME.safetensors``, trained by the commands of this repository, with its model card
``bundled/NAME.json`` beside it. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.errors import ConfigError, NotFoundError
from rayscale.models.spec import INTERPOLATIONS, SPEC_KEY, ModelSpec

if TYPE_CHECKING:
    from rayscale.models.network import SuperResolver

BUNDLED = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class OpenedModel:
    """A network on the CPU in evaluation mode.

    ``digest`` is the sha256 of its weights file, or ``built-in:NAME`` where there is none; ``label`` what results
    are named after (``name`` or ``name/version``).
    """

    network: SuperResolver
    digest: str
    label: str


DEFAULT_SYSTEMS = ("edsr-baseline", "aplus")
"""The systems of ``default_models``: the second takes any number of channels."""


def bundled_names() -> tuple[str, ...]:
    """Names of the bundled models, sorted."""
    return tuple(sorted(path.stem for path in BUNDLED.glob("*.safetensors")))


def builtin_names() -> tuple[str, ...]:
    """Names of all models that are always at hand."""
    return (*INTERPOLATIONS, *bundled_names())


def find_bundled(system: str, scale: float | None) -> str | None:
    """The bundled model of a system at a scale, or None: ``edsr-baseline`` at 2 is ``edsr-baseline-x2``.

    A network of several scales has them all in its name: ``mdsr-baseline`` at 3 is ``mdsr-baseline-x234``, and ``vdsr`` at
    2.5, which it serves without having been trained for it, is ``vdsr-x234``. Models for
    certain images, whose names go on, are found by their whole names only. A registered model of that name comes
    before it: see ``rayscale.registry.open_model``.
    """
    if scale is None:  # as of a network that serves several
        return next(filter(None, (find_bundled(system, each) for each in (2, 3, 4))), None)
    for name in (f"{system}-x{scale:g}", f"{system}-x234"):
        if name not in bundled_names():
            continue
        # Most often the first is enough, and builds no network.
        if scale in read_spec(name)[0].scales or _serves(name, scale):
            return name
    return None


def serving(scale: float) -> list[str]:
    """Names of the built-in models that enlarge by ``scale``."""
    return [name for name in builtin_names() if _serves(name, scale)]


def _serves(name: str, scale: float) -> bool:
    try:
        _without_weights(name).resolve_scale(scale)
    except ConfigError:
        return False
    return True


@cache
def _without_weights(name: str) -> SuperResolver:
    """The built-in model ``name`` as far as its specification goes: the service asks for its scales at every request."""
    import torch

    from rayscale.models.systems import build, create_model

    with torch.device("meta"):
        return create_model(name) if name in INTERPOLATIONS else build(read_spec(name)[0])


def default_models(scale: float | None) -> tuple[str, str]:
    """The models for users who name none: for images of three channels, and for those of any other number.

    Raises ConfigError, which names what there is, at a scale where one of the two is not bundled.
    """
    scale = scale or 2
    photograph, other = (find_bundled(system, scale) for system in DEFAULT_SYSTEMS)
    if photograph is None or other is None:
        raise ConfigError(
            f"there is no default model for x{scale:g}; name a model: "
            f"{', '.join(serving(scale)) or 'no built-in model enlarges that much'}"
        )
    return photograph, other


def open_builtin(name: str) -> OpenedModel:
    """The built-in model ``name``."""
    if name in INTERPOLATIONS:
        from rayscale.models.systems import create_model

        return OpenedModel(create_model(name).eval(), builtin_digest(name), name)
    from rayscale.models.weights import read_weights

    read = read_weights(_weights(name))
    return OpenedModel(read.model, read.sha256, name)


def builtin_digest(name: str) -> str:
    """What stands for the weights of the built-in model ``name``: their sha256, ``built-in:NAME`` without any."""
    return f"built-in:{name}" if name in INTERPOLATIONS else read_spec(name)[1]


@cache
def read_spec(name: str) -> tuple[ModelSpec, str]:
    """Specification and sha256 of a bundled model, without reading its weights into tensors."""
    data = _weights(name).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # of safetensors
    spec = ModelSpec.from_json(header["__metadata__"][SPEC_KEY])
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
