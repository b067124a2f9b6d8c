"""From whatever names a model (a built-in, a registered reference, a system, a file) to the model.

The one place that decides what a name means: :func:`find_model` decides and loads nothing, :func:`load_model` loads
what was found, :func:`open_model` is both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from rayscale.errors import ConfigError, InputError, NotFoundError, expect
from rayscale.models.builtin import (
    OpenedModel,
    builtin_digest,
    builtin_names,
    find_bundled,
    open_builtin,
    read_spec,
)
from rayscale.models.spec import INTERPOLATIONS, ModelSpec
from rayscale.registry import models
from rayscale.registry.client import NoRegistryError
from rayscale.registry.version import ModelVersion


@dataclass(frozen=True)
class Found:
    """Which model exactly a name means at the moment. Two are equal when both label and weights are.

    Attributes:
        label: the reference that always means this model: a built-in name, or ``NAME/VERSION``.
        digest: sha256 of the weights in hexadecimal, ``built-in:NAME`` for an interpolation.
        version: what the registry says of it; None for a built-in model.
        file: where it lies, of one that is named by its file.
        spec: None for an interpolation.
        scale: the only one of an exported network.
    """

    label: str
    digest: str
    version: ModelVersion | None = field(default=None, compare=False)
    file: Path | None = field(default=None, compare=False)
    spec: ModelSpec | None = field(default=None, compare=False)
    scale: float | None = field(default=None, compare=False)


def find_model(name: str, scale: float | None = None) -> Found:
    """What ``name`` means now.

    A name is looked for among the built-in models, then in the registry (where ``MLFLOW_TRACKING_URI`` names one),
    and last as a system that a model is bundled of at ``scale``: ``edsr-baseline`` is what was published under that name,
    or ``edsr-baseline-x2``.

    Raises:
        NotFoundError: no model has that name. NoRegistryError: there is no registry that could have it.
        ConfigError, RegistryError: see ``rayscale.registry.resolve``.
    """
    if name in builtin_names():
        return _built_in(name)
    try:
        return _registered(models.resolve(name))
    except (NotFoundError, NoRegistryError):
        bundled = find_bundled(name, scale)
        if bundled is None:
            raise
        return _built_in(bundled)


def find_file(name: str, path: Path) -> Found:
    """The model of a file of weights or an exported one, under the name of its system; the errors of :func:`open_model`."""
    from rayscale.inference.compiled import Compiled

    opened = open_model(name, weights=path)
    network = opened.network
    scale = network.scale if isinstance(network, Compiled) else None
    return Found(name, opened.digest, file=path, spec=network.spec, scale=scale)


def load_model(found: Found) -> OpenedModel:
    """The model that was found, its digest checked; the errors of ``rayscale.registry.load``."""
    if found.file is not None:
        opened = open_model(found.label, weights=found.file)
        if opened.digest != found.digest:
            raise InputError(f"{found.file} was replaced while it was in use; start again with it")
        return opened
    if found.version is None:
        return open_builtin(found.label)
    return OpenedModel(models.load(found.version), found.digest, found.label)


def builtin_models() -> list[Found]:
    """Every built-in model."""
    return [_built_in(name) for name in builtin_names()]


def registered_models() -> list[Found]:
    """Every model of the registry; NoRegistryError without one, and the errors of ``rayscale.registry.list_models``."""
    return [_registered(version) for version in models.list_models()]


def open_model(
    name: str, *, weights: str | Path | None = None, scale: float | None = None
) -> OpenedModel:
    """The model called ``name``, found as :func:`find_model` does and loaded.

    Args:
        name: a built-in model; ``NAME``, ``NAME@ALIAS`` or ``NAME/VERSION`` of the registry; a system; with
            ``weights``, the system that the file holds.
        weights: a local file, rayscale's own, one of the foreign layouts, or what ``rayscale export`` wrote for ONNX or
            OpenVINO; no other place is asked.
        scale: chooses among the bundled models of a system; needed by foreign files that do not say theirs.

    Raises:
        ConfigError: a system without weights; and the errors of ``read_weights`` and of the registry.
    """
    check_named(name)
    if weights is not None:
        expect(weights, (str, PathLike), "the path of a file of weights")
        from rayscale.inference.exported import is_export, open_export
        from rayscale.models.weights import read_weights

        if is_export(weights):
            return open_export(weights, name=name)
        read = read_weights(weights, name=name, scale=scale)
        return OpenedModel(read.model, read.sha256, name)
    try:
        found = find_model(name, scale)
    except (NotFoundError, NoRegistryError) as error:
        if {"@", "/"}.intersection(name):
            raise
        raise _explain(error, name, scale) from error
    return load_model(found)


def check_named(name: str) -> None:
    """Raise ConfigError where a model is not named by a text."""
    expect(name, str, "the name of a model, such as 'edsr-baseline'")


def _explain(error: NotFoundError | NoRegistryError, name: str, scale: float | None) -> Exception:
    """The error for a person, who may give a file of weights or another name."""
    from rayscale.models.systems import model_names

    if name in model_names():
        return ConfigError(
            f"{name} has no weights here{'' if scale is None else f' for x{scale:g}'}; give a file of weights, a "
            f"built-in model ({', '.join(builtin_names())}) or a registered one ({error})"
        )
    return type(error)(
        f"{name!r} is not a built-in model ({', '.join(builtin_names())}), and {error}"
    )


def _built_in(name: str) -> Found:
    spec = None if name in INTERPOLATIONS else read_spec(name)[0]
    return Found(name, builtin_digest(name), spec=spec)


def _registered(version: ModelVersion) -> Found:
    return Found(version.ref, version.digest, version, spec=version.spec, scale=version.scale)
