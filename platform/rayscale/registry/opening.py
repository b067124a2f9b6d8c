"""Opening a model by whatever names it: a built-in interpolation, a registered reference, or a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rayscale.errors import ConfigError, RayscaleError

if TYPE_CHECKING:
    from rayscale.models.network import SuperResolver


@dataclass(frozen=True)
class OpenedModel:
    """A network on the CPU in evaluation mode.

    ``digest`` is the sha256 of its weights file, or ``built-in:NAME`` where there is none; ``label`` what results
    are named after (``name`` or ``name/version``).
    """

    network: SuperResolver
    digest: str
    label: str


def open_model(
    name: str, *, weights: str | Path | None = None, scale: int | None = None
) -> OpenedModel:
    """The model called ``name``.

    Args:
        name: ``bicubic`` or ``bilinear``; ``NAME``, ``NAME@ALIAS`` or ``NAME/VERSION`` of the registry; with
            ``weights``, the system that the file holds.
        weights: a local file, rayscale's own or one of the foreign layouts; the registry is not asked.
        scale: needed by foreign files that do not say theirs.

    Raises:
        ConfigError: a system without weights; and the errors of ``read_weights`` and of the registry.
    """
    from rayscale.models.registry import create_model, model_names
    from rayscale.models.spec import INTERPOLATIONS
    from rayscale.models.weights import read_weights

    if weights is not None:
        read = read_weights(weights, name=name, scale=scale)
        return OpenedModel(read.model, read.sha256, name)
    if name in INTERPOLATIONS:
        return OpenedModel(create_model(name, scale=scale).eval(), f"built-in:{name}", name)
    from rayscale.registry.models import load, resolve

    try:
        version = resolve(name)
    except RayscaleError as error:
        if name in model_names():
            raise ConfigError(
                f"{name} is a system without weights here; give --weights FILE, or the name of a "
                f"registered model ({error})"
            ) from error
        raise
    return OpenedModel(load(version), version.digest, version.ref)
