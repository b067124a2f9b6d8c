"""From a reference to verified weights; what is registered, and its aliases.

A reference is ``name``, ``name@alias`` or ``name/version``, never a URI. What is trusted is the sha256 in the
version's tags: weights that do not match it are refused before they are parsed.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale.errors import (
    ConfigError,
    InputError,
    NotFoundError,
    RayscaleError,
    StorageError,
    closest_first,
)
from rayscale.files import sha256_of
from rayscale.registry.client import PAGE, asking, connect, is_missing, pages, tracking_uri
from rayscale.registry.flavor import parts_of, read_model
from rayscale.registry.reference import FORMS, check_alias, check_name, parse_reference
from rayscale.registry.version import ModelVersion, read_version
from rayscale.settings import get_settings

if TYPE_CHECKING:
    from rayscale.models.network import SuperResolver

log = logging.getLogger(__name__)

DEFAULT_ALIAS = "default"


def resolve(ref: str) -> ModelVersion:
    """The version that ``ref`` means now.

    ``name`` alone means the version with the alias ``default``, or the newest where there is no such alias.

    Raises:
        ConfigError: not one of the three forms (URIs and paths are none).
        NotFoundError: no such name, alias or version; the message lists what there is.
        RegistryError: the server is gone or refuses.
    """
    parsed = parse_reference(ref)
    if parsed is None:
        raise ConfigError(f"{ref!r} is not a model reference; use {FORMS}")
    name, alias, version = parsed
    client = connect()
    with asking(f"resolve model {ref!r}"):
        try:
            registered = client.get_registered_model(name)
        except Exception as error:
            if is_missing(error):
                raise _unknown_name(client, name) from error
            raise
        aliases = {str(key): str(value) for key, value in registered.aliases.items()}
        if alias is None and version is None:
            version = aliases.get(DEFAULT_ALIAS)
        elif alias is not None:
            version = aliases.get(alias)
            if version is None:
                raise NotFoundError(
                    f"model {name!r} has no alias {alias!r}; it has {_list(aliases)}; use {FORMS}"
                )
        if version is None:
            newest = client.search_model_versions(
                f"name='{name}'", max_results=1, order_by=["version_number DESC"]
            )
            if not newest:
                raise NotFoundError(f"model {name!r} has no version yet")
            version = newest[0].version
        try:
            found = client.get_model_version(name, version)
        except Exception as error:
            if not is_missing(error):
                raise
            known = client.search_model_versions(f"name='{name}'", max_results=PAGE)
            numbers = sorted(int(one.version) for one in known)
            raise NotFoundError(
                f"model {name!r} has no version {version}; it has {_list(numbers)}"
            ) from error
    return read_version(found, aliases)


def fetch(ref: str | ModelVersion) -> Path:
    """A local copy of the weights in ``RAYSCALE_CACHE_DIR``, its sha256 verified at every call; the first of several files.

    Raises StorageError for weights that differ from what was published, besides the errors of ``resolve``.
    """
    version = resolve(ref) if isinstance(ref, str) else ref
    folder = get_settings().cache_dir / "models"
    target = folder / f"{version.digest}{Path(version.file).suffix}"
    parts = parts_of(target)
    if all(part.is_file() for part in parts):
        if sha256_of(*parts) == version.digest:
            return target
        for part in parts:  # damaged here: the registry may still have the true one
            part.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        connect()  # sets the bounds on waiting
        with asking(f"download the weights of {version.ref}"):
            from mlflow.artifacts import download_artifacts

            paths = [
                Path(
                    download_artifacts(
                        artifact_uri=f"{version.uri}/{part}",
                        dst_path=scratch,
                        tracking_uri=tracking_uri(),
                    )
                )
                for part in parts_of(Path(version.file))
            ]
        found = sha256_of(*paths)
        if found != version.digest:
            raise StorageError(
                f"the weights of {version.ref} have sha256 {found}, but {version.digest} was published: they "
                "were damaged or replaced, and are not loaded; publish the model again"
            )
        for path, part in zip(reversed(paths), reversed(parts), strict=True):
            path.replace(part)  # the first last: it is complete for whoever finds it
    return target


def load(ref: str | ModelVersion) -> SuperResolver:
    """The network that ``ref`` means, in evaluation mode on the CPU.

    Raises InputError where weights and registered specification disagree, and the errors of ``fetch``.
    """
    version = resolve(ref) if isinstance(ref, str) else ref
    model = read_model(fetch(version))
    if model.spec != version.spec:
        raise InputError(
            f"{version.ref} is registered as {version.spec.to_json()}, but its weights are of "
            f"{model.spec.to_json()}; publish the model again"
        )
    return model.eval()


def list_models() -> list[ModelVersion]:
    """Every version that rayscale published, by name and then newest first.

    One whose tags were damaged is left out with a warning: it must not hide the others.
    """
    client = connect()
    found: list[ModelVersion] = []
    with asking("list the models"):
        aliases = {
            model.name: dict(model.aliases) for model in pages(client.search_registered_models)
        }
        for one in pages(client.search_model_versions):
            if "rayscale.sha256" in one.tags:
                try:
                    found.append(read_version(one, aliases.get(one.name, {})))
                except (RayscaleError, ValueError) as error:
                    log.warning("%s/%s is left out: %s", one.name, one.version, error)
    return sorted(found, key=lambda one: (one.name, -one.version))


def set_alias(name: str, alias: str, version: int) -> ModelVersion:
    """Move ``alias`` to a version, at once for everyone who resolves it afterwards."""
    check_alias(alias)
    target = resolve(f"{check_name(name)}/{version}")
    client = connect()
    with asking(f"set the alias {alias!r} of {target.ref}"):
        client.set_registered_model_alias(name, alias, str(version))
    return resolve(target.ref)


def _unknown_name(client: Any, name: str) -> NotFoundError:
    known = [model.name for model in pages(client.search_registered_models)]
    names = _list(closest_first(name, known))
    return NotFoundError(f"no model {name!r} in the registry; it has {names}")


def _list(values: Any, most: int = 20) -> str:
    texts = [str(value) for value in values]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more if texts else "none"
