"""Opening a model by whatever names it: a built-in, a registered reference, a system, or a file."""

from __future__ import annotations

from pathlib import Path

from rayscale.errors import ConfigError, NotFoundError
from rayscale.models.builtin import OpenedModel, builtin_names, find_bundled, open_builtin


def open_model(
    name: str, *, weights: str | Path | None = None, scale: float | None = None
) -> OpenedModel:
    """The model called ``name``.

    A name is looked for among the built-in models, then in the registry (where ``MLFLOW_TRACKING_URI`` names one),
    and last as a system that a model is bundled of at ``scale``: ``edsr-baseline`` is what was published under that name,
    or ``edsr-baseline-x2``.

    Args:
        name: a built-in model; ``NAME``, ``NAME@ALIAS`` or ``NAME/VERSION`` of the registry; a system; with
            ``weights``, the system that the file holds.
        weights: a local file, rayscale's own or one of the foreign layouts; no other place is asked.
        scale: chooses among the bundled models of a system; needed by foreign files that do not say theirs.

    Raises:
        ConfigError: a system without weights; and the errors of ``read_weights`` and of the registry.
    """
    from rayscale.models.registry import model_names
    from rayscale.models.weights import read_weights

    if weights is not None:
        read = read_weights(weights, name=name, scale=scale)
        return OpenedModel(read.model, read.sha256, name)
    if name in builtin_names():
        return open_builtin(name)
    from rayscale.registry.client import NoRegistryError
    from rayscale.registry.models import load, resolve

    try:
        version = resolve(name)
    except (NotFoundError, NoRegistryError) as error:
        bundled = find_bundled(name, scale)
        if bundled is not None:
            return open_builtin(bundled)
        if name in model_names():
            raise ConfigError(
                f"{name} has no weights here{'' if scale is None else f' for x{scale:g}'}; give --weights FILE, a "
                f"built-in model ({', '.join(builtin_names())}) or a registered one ({error})"
            ) from error
        if {"@", "/"}.intersection(name):
            raise
        raise type(error)(
            f"{name!r} is not a built-in model ({', '.join(builtin_names())}), and {error}"
        ) from error
    return OpenedModel(load(version), version.digest, version.ref)
