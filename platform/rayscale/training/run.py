"""A run as a folder in storage: what it was configured to be, and what came of it.

``config.yaml``, ``checkpoints/``, ``failures/`` (batches whose loss was not finite), ``model.safetensors`` and, written last, ``result.json``; ``lease/`` says which process
trains there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml

from rayscale import strictjson
from rayscale.errors import ConfigError, NotFoundError, StorageError
from rayscale.files import check_format, sha256_of
from rayscale.models.network import SuperResolver
from rayscale.models.weights import load_model, save_model
from rayscale.storage import Store, connect
from rayscale.storage.lease import Lease
from rayscale.training.checkpoint import Checkpoints
from rayscale.training.config import RunConfig, TrainConfig

FORMAT = 1
"""Of ``result.json``; those without a number are of format 1."""

CONFIG = "config.yaml"
RESULT = "result.json"
MODEL = "model.safetensors"
CHECKPOINTS = "checkpoints"
LEASE = "lease/"
FAILURES = "failures"
PROFILES = "profile"


@dataclass(frozen=True)
class TrainResult:
    """What a run came to; ``result.json`` holds the same.

    ``metrics`` are the last training figures (``loss``, ``steps_per_s``, ...), what the run took in all (``Spent``) and,
    with validation data,
    ``psnr`` (dB) and ``ssim`` under ``protocol``; these and ``history`` are of ``benchmark``, with its ``uri`` and the
    ``digests`` of its scales (``x2``: as in ``rayscale.evaluation.identify``). ``best`` are the weights with the highest
    PSNR of all validations: ``step``, ``weights``, ``sha256`` and ``scores``; empty without validation. A run that was stopped before its last step is not
    ``complete`` and has no weights; starting it again resumes it. ``run_id`` is the tracker's name of the run,
    known to the process that has just trained it only.
    """

    name: str
    uri: str
    complete: bool
    steps: int
    metrics: dict[str, float]
    protocol: str | None = None
    benchmark: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    sha256: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    config_digest: str = ""
    precision: str = ""
    workers: int = 1
    run_id: str | None = None
    format: int = FORMAT


class Run:
    """The folder of one run; ``config`` must be identified. Whoever writes there holds the ``lease``."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.store: Store = connect(config.uri)
        self.lease = lease_of(config.uri)
        self.checkpoints = Checkpoints(self.store.child(CHECKPOINTS), config.checkpoint.keep)

    def claim(self) -> None:
        """Make the folder this run's, or find that it is.

        Raises ConfigError when another configuration has trained there.
        """
        found = self._find()
        if found is not None and found.digest != self.config.digest and self._has_work():
            raise ConfigError(
                f"{self.config.uri} holds a run with another configuration: {_changes(found, self.config)}. Choose "
                "another run.name, or train with fresh=true, which deletes that run"
            )
        if found != self.config:
            self.store.write(CONFIG, self.config.to_yaml().encode())

    def result(self) -> TrainResult | None:
        """The result of this run when it has trained as long as configured, else None."""
        try:
            result = read_result(self.config.uri)
        except NotFoundError:
            return None
        same = result.config_digest == self.config.digest
        return result if same and result.steps >= self.config.optimizer.steps else None

    def finish(self, model: SuperResolver, result: dict[str, Any]) -> TrainResult:
        """Write the model and then the result; the run is complete."""
        return commit(self.config, model, result, {"steps": str(result["steps"])})

    def _find(self) -> TrainConfig | None:
        try:
            text = self.store.read(CONFIG)
        except NotFoundError:
            return None
        try:
            return TrainConfig.parse(yaml.safe_load(text))
        except (ConfigError, yaml.YAMLError) as error:
            raise ConfigError(
                f"{self.store.locate(CONFIG)} cannot be read ({error}); choose another run.name, or train with "
                "fresh=true, which deletes that run"
            ) from None

    def _has_work(self) -> bool:
        return self.store.exists(RESULT) or bool(self.checkpoints.steps())


def lease_of(uri: str) -> Lease:
    """The lease of the run at ``uri``: entering it raises BusyError while another process trains there."""
    return Lease(connect(uri), LEASE)


def _changes(there: TrainConfig, here: TrainConfig) -> str:
    """What makes the run of one configuration another than that of the other."""
    old, new = there.flat(), here.flat()
    changed = [key for key in new if old[key] != new[key]]
    if there.data.identity == here.data.identity:  # it was moved
        changed = [key for key in changed if not key.startswith("data.")]
    return ", ".join(
        f"{key} ({old[key]} there, {new[key]} here)"
        for key in changed
        if not key.startswith(("workers.", "logging."))
    )


def erase(uri: str) -> None:
    """Delete the run at ``uri``: the result first, the checkpoints (each by its marker first) last."""
    store = connect(uri)
    for key in (RESULT, MODEL, CONFIG):
        store.delete(key)
    for folder in (FAILURES, PROFILES):
        for entry in list(store.list(folder + "/")):
            store.delete(entry.key)
    for entry in sorted(
        store.list(CHECKPOINTS + "/"), key=lambda entry: not entry.key.endswith("/COMMITTED")
    ):
        store.delete(entry.key)


def labels(config: RunConfig, dataset: Mapping[str, Any]) -> dict[str, str]:
    """What the header of weights says of the run and the dataset that they come from."""
    # Nothing of this place or time: the same training gives the same bytes.
    degradation = dataset.get("degradation", "bicubic")
    extra = {} if degradation == "bicubic" else {"degradation": degradation}
    return {"config": config.digest, **extra}


def commit(
    config: RunConfig,
    model: SuperResolver,
    result: Mapping[str, Any],
    extra: dict[str, str],
    dtype: torch.dtype = torch.float32,
) -> TrainResult:
    """Write the model of a run and then its result: from here on the run is complete.

    ``result`` are the fields of ``TrainResult`` that only the training knows; ``extra`` and ``dtype`` as in
    ``save_model``.
    """
    store = connect(config.uri)
    extra = extra | labels(config, result.get("dataset", {}))
    with tempfile.TemporaryDirectory(prefix="rayscale-") as temporary:
        path = Path(temporary, MODEL)
        digest = save_model(model, path, extra, dtype=dtype)
        store.write_file(MODEL, path)
    complete = TrainResult(
        name=config.run.name or "",
        uri=config.uri,
        complete=True,
        weights=store.locate(MODEL),
        sha256=digest,
        model=json.loads(model.spec.to_json()),
        config_digest=config.digest,
        **result,
    )
    record(complete)
    return complete


def record(result: TrainResult) -> None:
    """Write the result of a complete run."""
    connect(result.uri).write(RESULT, strictjson.dumps(asdict(result), indent=1).encode())


def fetch_model(result: TrainResult) -> SuperResolver:
    """The network of a complete run; StorageError where its weights are not those of the result."""
    store = connect(result.uri)
    with tempfile.TemporaryDirectory(prefix="rayscale-") as temporary:
        path = Path(temporary, MODEL)
        store.fetch(MODEL, path)
        if (found := sha256_of(path)) != result.sha256:
            raise StorageError(
                f"{store.locate(MODEL)} has sha256 {found}, its result {result.sha256}; it was damaged or replaced: train "
                "again with fresh=true"
            )
        return load_model(path)


def read_result(uri: str) -> TrainResult:
    """The result of the run at ``uri``; NotFoundError while it is not complete."""
    store = connect(uri)
    try:
        values = strictjson.loads(store.read(RESULT))
        way_out = (
            "use the rayscale that wrote it, or train again with fresh=true, which deletes that run"
        )
        check_format(store.locate(RESULT), values.get("format", FORMAT), FORMAT, way_out)
        known = {each.name for each in fields(TrainResult)}  # later versions may add others
        return TrainResult(**{key: value for key, value in values.items() if key in known})
    except NotFoundError:
        raise NotFoundError(f"{uri} has no {RESULT}: the run is not complete") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise StorageError(f"{store.locate(RESULT)} is damaged: {error}") from None


def describe(result: TrainResult) -> dict[str, str]:
    """The rows of the table that ends a run."""
    metrics = result.metrics
    rows = {"run": result.uri, "steps": str(result.steps)}
    if "loss" in metrics:
        rows["loss"] = f"{metrics['loss']:.4f}"
    if result.protocol:
        rows["benchmark"] = result.benchmark.get("uri", "not known")
        for suffix in ["", *scale_suffixes(metrics)]:
            label = f"{suffix.replace('_', ' ')} ({result.protocol})"
            rows[f"PSNR{label}"] = f"{metrics[f'psnr{suffix}']:.2f} dB"
            rows[f"SSIM{label}"] = f"{metrics[f'ssim{suffix}']:.4f}"
    if result.best:
        rows["best"] = f"{result.best['scores']['psnr']:.2f} dB at step {result.best['step']}"
    if metrics.get("rollbacks"):
        rows["rollbacks"] = f"{metrics['rollbacks']:.0f}"
    if "steps_per_s" in metrics:
        rows["speed"] = (
            f"{metrics['steps_per_s']:.2f} steps/s, {metrics['patches_per_s']:.1f} patches/s, "
            f"{100 * metrics['data_wait']:.1f} % waiting for data"
        )
    if "work_seconds" in metrics:
        energy = f", {metrics['joules']:.0f} J" if "joules" in metrics else ""
        rows["cost"] = (
            f"{metrics['work_seconds']:.1f} s of the workers, {metrics['megapixels']:.3g} megapixels, "
            f"{metrics['patch_bytes'] / 1e6:.3g} MB of patches{energy}"
        )
    if "degradation" in result.dataset:
        rows["degradation"] = result.dataset["degradation"]
    if metrics.get("left_out_shards"):
        rows["left out"] = (
            f"{metrics['left_out_shards']:.0f} damaged shards with "
            f"{metrics['left_out_sub_images']:.0f} sub-images"
        )
    rows["precision"] = result.precision
    rows["weights"] = result.weights or "none: the run is not complete; start it again to resume"
    return rows


def scale_suffixes(metrics: Mapping[str, float]) -> list[str]:
    """``_x2``, ``_x3``, ... of the scores of single scales; none where there is one scale."""
    return [key.removeprefix("psnr") for key in metrics if key.startswith("psnr_x")]
