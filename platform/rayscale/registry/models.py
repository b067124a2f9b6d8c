"""Publish weights under a name and a version, and turn a reference back into verified weights.

A reference is ``name``, ``name@alias`` or ``name/version``, never a URI. What is trusted is the sha256 in the
version's tags: weights that do not match it are refused before they are parsed.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayscale import __version__, strictjson
from rayscale.errors import (
    ConfigError,
    InputError,
    NotFoundError,
    RayscaleError,
    StorageError,
    UnsupportedError,
    closest_first,
)
from rayscale.models.builtin import builtin_names
from rayscale.models.spec import SPEC_KEY
from rayscale.registry.client import asking, connect, is_missing, status_of, tracking_uri
from rayscale.registry.flavor import WEIGHTS, write_folder
from rayscale.registry.reference import FORMS, is_alias, is_name, parse_reference
from rayscale.settings import get_settings

if TYPE_CHECKING:
    from rayscale.models.network import SuperResolver
    from rayscale.models.spec import ModelSpec

log = logging.getLogger(__name__)

DEFAULT_ALIAS = "default"
EXPERIMENT = "rayscale-models"
"""Where the runs of models go that were published without a training run."""

SCORES = "rayscale.scores"
"""The tag of a version with the figures of its benchmarks, as JSON."""

FORMAT = "1"
"""Of what the tags of a version say; versions without a number are of format 1."""

FORMAT_KEY = "rayscale.format"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PAGE = 200


@dataclass(frozen=True)
class ModelVersion:
    """One published model.

    Attributes:
        digest: sha256 of the weights file, hexadecimal.
        scores: benchmark name to ``{"protocol", "scale", "psnr", "ssim", ...}``.
        dataset_digest: the digest in the manifest of the training data, if known.
        run_id: the MLflow run that holds the files.
        uri: the folder of the files in MLflow's artifact store.
        created: milliseconds since 1970, as the registry says.
    """

    name: str
    version: int
    digest: str
    spec: ModelSpec
    uri: str
    aliases: tuple[str, ...] = ()
    scores: Mapping[str, Any] | None = None
    dataset_digest: str | None = None
    run_id: str | None = None
    description: str = ""
    created: int = 0

    @property
    def ref(self) -> str:
        """``name/version``: the reference that means the same for ever."""
        return f"{self.name}/{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """The version as JSON would show it."""
        return {
            "name": self.name,
            "version": self.version,
            "aliases": list(self.aliases),
            "digest": self.digest,
            "spec": json.loads(self.spec.to_json()),
            "scores": dict(self.scores or {}),
            "dataset_digest": self.dataset_digest,
            "run_id": self.run_id,
            "uri": self.uri,
            "description": self.description,
            "created": self.created,
        }


def publish(
    weights: str | Path,
    name: str,
    *,
    scores: Mapping[str, Any] | None = None,
    dataset_digest: str | None = None,
    alias: str | None = None,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    description: str | None = None,
) -> ModelVersion:
    """Register a safetensors file written by ``rayscale.models.save_model`` as the next version of ``name``.

    Weights that are a version of ``name`` already stay that version: its files are written again, scores, tags and
    description that are given take the place of those it has by the same name, and its run stays.

    Args:
        weights: a local path or ``s3://`` URI.
        scores: figures of the model, each with the name of its protocol: a report of ``evaluate`` or several
            by the name of their benchmark.
        alias: moved to the version once that is complete.
        run_id: the MLflow run that trained it; without one a run is made to hold the files.

    Raises:
        InputError, NotFoundError: the weights are not a model of rayscale, or not there.
        ConfigError: a name or alias that cannot be referred to, or a figure without protocol.
        RegistryError: the server is gone or refuses.
    """
    check_name(name, alias)
    figures = _checked_scores(scores)
    client = connect()
    from rayscale.files import sha256_of
    from rayscale.models.weights import load_model

    with _local(weights) as path, tempfile.TemporaryDirectory() as scratch:
        digest = sha256_of(path)
        spec = load_model(path).spec  # proves that it can be loaded before anyone is offered it
        folder = Path(scratch, "model")
        write_folder(folder, path, spec)
        # Named by content: a second model of the same run never replaces the files of the first.
        place = f"model-{digest[:16]}"
        labels = {
            **(tags or {}),
            "rayscale.sha256": digest,
            SPEC_KEY: spec.to_json(),
            "rayscale.version": __version__,
            FORMAT_KEY: FORMAT,
            **({"rayscale.dataset": dataset_digest} if dataset_digest else {}),
        }
        with asking(f"publish {name!r}"):
            version = _published(client, name, digest)
            if version is not None:
                client.log_artifacts(version.run_id, str(folder), place)
                figures = strictjson.loads(version.tags.get(SCORES, "{}")) | figures
                for key, value in {
                    **labels,
                    SCORES: strictjson.dumps(figures, sort_keys=True),
                }.items():
                    client.set_model_version_tag(name, version.version, key, value)
                if description is not None:
                    client.update_model_version(name, version.version, description)
            else:
                run, own = _run(client, name, run_id)
                try:
                    client.log_artifacts(run.info.run_id, str(folder), place)
                    _ensure_name(client, name)
                    version = client.create_model_version(
                        name,
                        source=f"{run.info.artifact_uri}/{place}",
                        run_id=run.info.run_id,
                        description=description,
                        tags={**labels, SCORES: strictjson.dumps(figures, sort_keys=True)},
                    )
                except BaseException:
                    if own:
                        client.set_terminated(run.info.run_id, "FAILED")
                    raise
                if own:
                    client.set_terminated(run.info.run_id, "FINISHED")
            if alias is not None:
                client.set_registered_model_alias(name, alias, version.version)
    return resolve(f"{name}/{version.version}")


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
                    f"model {name!r} has no alias {alias!r}; it has {_listed(aliases)}; use {FORMS}"
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
            known = client.search_model_versions(f"name='{name}'", max_results=_PAGE)
            numbers = sorted(int(one.version) for one in known)
            raise NotFoundError(
                f"model {name!r} has no version {version}; it has {_listed(numbers)}"
            ) from error
    return _read(found, aliases)


def fetch(ref: str | ModelVersion) -> Path:
    """A local copy of the weights in ``RAYSCALE_CACHE_DIR``, its sha256 verified at every call.

    Raises StorageError for weights that differ from what was published, besides the errors of ``resolve``.
    """
    version = resolve(ref) if isinstance(ref, str) else ref
    from rayscale.files import sha256_of

    folder = get_settings().cache_dir / "models"
    target = folder / f"{version.digest}.safetensors"
    if target.is_file():
        if sha256_of(target) == version.digest:
            return target
        target.unlink(missing_ok=True)  # damaged here: the registry may still have the true one
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        connect()  # sets the bounds on waiting
        with asking(f"download the weights of {version.ref}"):
            from mlflow.artifacts import download_artifacts

            path = Path(
                download_artifacts(
                    artifact_uri=f"{version.uri}/{WEIGHTS}",
                    dst_path=scratch,
                    tracking_uri=tracking_uri(),
                )
            )
        found = sha256_of(path)
        if found != version.digest:
            raise StorageError(
                f"the weights of {version.ref} have sha256 {found}, but {version.digest} was published: they "
                "were damaged or replaced, and are not loaded; publish the model again"
            )
        path.replace(target)
    return target


def load(ref: str | ModelVersion) -> SuperResolver:
    """The network that ``ref`` means, in evaluation mode on the CPU.

    Raises InputError where weights and registered specification disagree, and the errors of ``fetch``.
    """
    version = resolve(ref) if isinstance(ref, str) else ref
    from rayscale.models.weights import load_model

    model = load_model(fetch(version))
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
            model.name: dict(model.aliases) for model in _pages(client.search_registered_models)
        }
        for one in _pages(client.search_model_versions):
            if "rayscale.sha256" in one.tags:
                try:
                    found.append(_read(one, aliases.get(one.name, {})))
                except (RayscaleError, ValueError) as error:
                    log.warning("%s/%s is left out: %s", one.name, one.version, error)
    return sorted(found, key=lambda one: (one.name, -one.version))


def set_alias(name: str, alias: str, version: int) -> ModelVersion:
    """Move ``alias`` to a version, at once for everyone who resolves it afterwards."""
    _check_alias(alias)
    target = resolve(f"{check_name(name)}/{version}")
    client = connect()
    with asking(f"set the alias {alias!r} of {target.ref}"):
        client.set_registered_model_alias(name, alias, str(version))
    return resolve(target.ref)


def _read(found: Any, aliases: Mapping[str, str]) -> ModelVersion:
    from rayscale.models.spec import ModelSpec

    tags = found.tags
    if (format := tags.get(FORMAT_KEY, FORMAT)) != FORMAT:
        raise UnsupportedError(
            f"{found.name}/{found.version} was registered in format {format}, this version reads {FORMAT}; use rayscale "
            f"{tags.get('rayscale.version', 'as it was registered with')} or later, or register its weights again"
        )
    digest = tags.get("rayscale.sha256", "")
    # The digest becomes a file name, and tags are free text that anyone with the registry may write.
    if not _SHA256.fullmatch(digest) or SPEC_KEY not in tags:
        raise InputError(
            f"{found.name}/{found.version} was not published by rayscale (no weights digest or specification "
            "in its tags); publish its weights with `rayscale register`"
        )
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        digest=digest,
        spec=ModelSpec.from_json(tags[SPEC_KEY]),
        uri=found.source,
        aliases=tuple(sorted(key for key, at in aliases.items() if str(at) == str(found.version))),
        scores=strictjson.loads(tags.get(SCORES, "{}")),
        dataset_digest=tags.get("rayscale.dataset"),
        run_id=found.run_id or None,
        description=found.description or "",
        created=int(found.creation_timestamp or 0),
    )


@contextmanager
def _local(weights: str | Path) -> Iterator[Path]:
    """The weights as a local file, fetched when they are in a bucket."""
    if not str(weights).startswith("s3://"):
        if not Path(weights).is_file():
            raise NotFoundError(f"{weights} does not exist")
        yield Path(weights)
        return
    from rayscale import storage

    parent, key = storage.split(str(weights))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, WEIGHTS)
        storage.connect(parent).fetch(key, path)
        yield path


def _published(client: Any, name: str, digest: str) -> Any:
    """The newest version of ``name`` with these weights whose run is still there, or None."""
    versions = _pages(functools.partial(client.search_model_versions, f"name='{name}'"))
    same = [one for one in versions if one.tags.get("rayscale.sha256") == digest and one.run_id]
    for version in sorted(same, key=lambda one: -int(one.version)):
        try:
            client.get_run(version.run_id)
            return version
        except Exception as error:
            if not is_missing(error):
                raise
    return None


def _run(client: Any, name: str, run_id: str | None) -> tuple[Any, bool]:
    """The run that holds the files, and whether it was made for them."""
    if run_id is not None:
        return client.get_run(run_id), False
    experiment = ensure_experiment(client, EXPERIMENT)
    return client.create_run(experiment, run_name=f"publish {name}"), True


def ensure_experiment(client: Any, name: str) -> str:
    """The id of the experiment ``name``, made when it is not there."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except Exception as error:
            found = client.get_experiment_by_name(name)  # another process was first
            if found is None:
                raise error
    return str(found.experiment_id)


def _ensure_name(client: Any, name: str) -> None:
    try:
        client.create_registered_model(name)
    except Exception as error:
        if status_of(error) not in {400, 409}:
            raise
        client.get_registered_model(name)  # it exists, or this tells why not


def _unknown_name(client: Any, name: str) -> NotFoundError:
    known = [model.name for model in _pages(client.search_registered_models)]
    names = _listed(closest_first(name, known))
    return NotFoundError(f"no model {name!r} in the registry; it has {names}")


def _pages(search: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _listed(values: Any, most: int = 20) -> str:
    texts = [str(value) for value in values]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more if texts else "none"


def check_name(name: str, alias: str | None = None) -> str:
    """``name`` when a model can be published under it and with ``alias``, else ConfigError; no server is asked.

    Jobs call it before they train, so that hours do not end in a refusal.
    """
    if not is_name(name):
        raise ConfigError(
            f"{name!r} is not a model name; use up to 100 letters, digits, '.', '_' and '-'"
        )
    if name in builtin_names():
        raise ConfigError(f"{name!r} is built in; publish under another name, such as my-{name}")
    if alias is not None:
        _check_alias(alias)
    return name


def _check_alias(alias: str) -> None:
    if not is_alias(alias):
        raise ConfigError(
            f"{alias!r} is not an alias; use up to 64 letters, digits, '.', '_' and '-', beginning with a letter, "
            "and neither 'latest' nor 'v' with a number"
        )


def _checked_scores(scores: Mapping[str, Any] | None) -> dict[str, Any]:
    """Scores fit to store: every figure with its protocol, without the list of single images."""

    def check(value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            return value
        if {"psnr", "ssim"} & set(value) and not value.get("protocol"):
            raise ConfigError(f"the figures of {path or 'the scores'} name no protocol")
        return {
            str(key): check(inner, f"{path}.{key}".strip("."))
            for key, inner in value.items()
            if key != "images"
        }

    checked: dict[str, Any] = check(scores or {}, "")
    return checked
