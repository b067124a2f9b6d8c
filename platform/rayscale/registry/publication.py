"""Publish weights under a name, as its next version; weights that are there already stay the version that they are."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayscale import __version__, strictjson
from rayscale.errors import ConfigError, NotFoundError
from rayscale.files import sha256_of
from rayscale.models.spec import SPEC_KEY
from rayscale.registry.client import (
    asking,
    connect,
    ensure_experiment,
    is_missing,
    pages,
    status_of,
)
from rayscale.registry.flavor import EXPORTS, WEIGHTS, parts_of, read_model, write_folder
from rayscale.registry.models import resolve
from rayscale.registry.reference import check_name
from rayscale.registry.version import (
    FILE_KEY,
    FORMAT,
    FORMAT_KEY,
    SCALE_KEY,
    SCORES,
    ModelVersion,
)

EXPERIMENT = "rayscale-models"
"""Where the runs of models go that were published without a training run."""


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
    """Register what ``rayscale.models.weights.save_model`` wrote, or ``rayscale export`` for ONNX or OpenVINO, as the next
    version of ``name``.

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
    figures = _check_scores(scores)
    client = connect()
    with fetched(weights) as path, tempfile.TemporaryDirectory() as scratch:
        digest = sha256_of(*parts_of(path))
        network = read_model(path)  # proves that it can be loaded before anyone is offered it
        spec, exported = network.spec, path.suffix in EXPORTS
        folder = Path(scratch, "model")
        file = write_folder(folder, path, spec, network.default_scale if exported else None)
        # Named by content: a second model of the same run never replaces the files of the first.
        place = f"model-{digest[:16]}"
        labels = {
            **(tags or {}),
            "rayscale.sha256": digest,
            SPEC_KEY: spec.to_json(),
            "rayscale.version": __version__,
            FORMAT_KEY: FORMAT,
            **({FILE_KEY: file, SCALE_KEY: repr(network.default_scale)} if exported else {}),
            **({"rayscale.dataset": dataset_digest} if dataset_digest else {}),
        }
        with asking(f"publish {name!r}"):
            version = _find_version(client, name, digest)
            before = strictjson.loads(version.tags.get(SCORES, "{}")) if version else {}
            labels[SCORES] = strictjson.dumps(before | figures, sort_keys=True)
            if version is None:
                version = _create_version(
                    client, name, run_id, folder, place, tags=labels, description=description
                )
            else:
                client.log_artifacts(version.run_id, str(folder), place)
                for key, value in labels.items():
                    client.set_model_version_tag(name, version.version, key, value)
                if description is not None:
                    client.update_model_version(name, version.version, description)
            if alias is not None:
                client.set_registered_model_alias(name, alias, version.version)
    return resolve(f"{name}/{version.version}")


@contextmanager
def fetched(weights: str | Path) -> Iterator[Path]:
    """The weights as a local file, fetched when they are in a bucket."""
    if not str(weights).startswith("s3://"):
        if not Path(weights).is_file():
            raise NotFoundError(f"{weights} does not exist")
        yield Path(weights)
        return
    from rayscale import storage

    parent, key = storage.split(str(weights))
    with tempfile.TemporaryDirectory() as scratch:
        suffix = Path(key).suffix
        path = Path(scratch, EXPORTS.get(suffix, WEIGHTS))
        for part in parts_of(path):
            beside = key if part == path else f"{key.removesuffix(suffix)}{part.suffix}"
            storage.connect(parent).fetch(beside, part)
        yield path


def _find_version(client: Any, name: str, digest: str) -> Any:
    """The newest version of ``name`` with these weights whose run is still there, or None."""
    versions = pages(functools.partial(client.search_model_versions, f"name='{name}'"))
    same = [one for one in versions if one.tags.get("rayscale.sha256") == digest and one.run_id]
    for version in sorted(same, key=lambda one: -int(one.version)):
        try:
            client.get_run(version.run_id)
            return version
        except Exception as error:
            if not is_missing(error):
                raise
    return None


def _create_version(
    client: Any,
    name: str,
    run_id: str | None,
    folder: Path,
    place: str,
    *,
    tags: Mapping[str, str],
    description: str | None,
) -> Any:
    """A new version of ``name`` with the files of ``folder``, in the run that trained it or one of their own."""
    run, own = _run(client, name, run_id)
    status = "FAILED"
    try:
        client.log_artifacts(run.info.run_id, str(folder), place)
        _ensure_name(client, name)
        version = client.create_model_version(
            name,
            source=f"{run.info.artifact_uri}/{place}",
            run_id=run.info.run_id,
            description=description,
            tags=tags,
        )
        status = "FINISHED"
    finally:
        if own:
            client.set_terminated(run.info.run_id, status)
    return version


def _run(client: Any, name: str, run_id: str | None) -> tuple[Any, bool]:
    """The run that holds the files, and whether it was made for them."""
    if run_id is not None:
        return client.get_run(run_id), False
    experiment = ensure_experiment(client, EXPERIMENT)
    return client.create_run(experiment, run_name=f"publish {name}"), True


def _ensure_name(client: Any, name: str) -> None:
    try:
        client.create_registered_model(name)
    except Exception as error:
        if status_of(error) not in {400, 409}:
            raise
        client.get_registered_model(name)  # it exists, or this tells why not


def _check_scores(scores: Mapping[str, Any] | None) -> dict[str, Any]:
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
