"""What a training run is made of: typed sections, each with its default from the EDSR paper.

Files (YAML, JSON, TOML) and ``section.key=value`` overrides become one ``TrainConfig``; a key that does not
exist is an error that names the closest ones. What the sections *do* lives beside this module.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rayscale.errors import ConfigError, NotFoundError
from rayscale.storage import connect, split


class Section(BaseModel):
    """A part of the configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class RunSection(Section):
    """Where a run lives and what makes it repeatable."""

    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="folder of the run below uri; made of the model and a hash of the configuration by default",
    )
    uri: str | None = Field(
        default=None,
        description="s3://bucket/prefix or folder of all runs; `runs` in the bucket (or beside the folder) "
        "of the dataset by default",
    )
    seed: int = Field(default=1, ge=0, description="seed of the initial weights and the patches")


class ModelSection(Section):
    """Which network; values left empty are those of the system's own definition."""

    name: str = Field(default="edsr-baseline", description="a system of `rayscale models`")
    scale: int = Field(default=2, ge=2, description="enlargement to train for")
    channels: int | None = Field(
        default=None, ge=1, description="channels; the dataset's by default"
    )
    filters: int | None = Field(default=None, ge=1, description="feature maps of the trunk")
    blocks: int | None = Field(default=None, ge=1, description="residual blocks of the trunk")
    residual_scaling: float | None = Field(
        default=None, gt=0, description="factor on each residual branch"
    )
    warm_start: str | None = Field(
        default=None,
        description="safetensors (URI) whose weights start this network, such as x2 for x4; only its tail "
        "stays fresh when the scale differs",
    )


class DatasetSection(Section):
    """Where the images come from."""

    uri: str | None = Field(
        default=None, description="a dataset made by jobs/prepare_dataset.py (RAYSCALE_DATASET)"
    )


class DataSection(DatasetSection):
    """What the patches are cut from."""

    patch: int = Field(default=48, ge=4, description="side of a patch in LR pixels")
    batch: int = Field(default=16, ge=1, description="patches per step, over all workers together")


class OptimizerSection(Section):
    """Adam, its schedule, the loss, and how long."""

    lr: float = Field(default=1e-4, gt=0, description="initial learning rate")
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    schedule: Literal["step", "cosine"] = Field(
        default="step", description="halve every halve_every steps, or fall to 0 over all steps"
    )
    halve_every: int = Field(default=200_000, ge=1, description="steps between halvings")
    steps: int = Field(default=300_000, ge=1, description="updates in all")
    loss: Literal["l1", "mse"] = Field(default="l1")
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="decay of the running mean of the weights; 0 is off"
    )


class BenchmarkSection(Section):
    """Full images, upscaled and scored."""

    uri: str | None = Field(
        default=None, description="folder or bucket with HR/ and LR/ of the scale"
    )


class ValidationSection(BenchmarkSection):
    """Full images, upscaled and scored while training."""

    every: int = Field(default=1000, ge=1, description="steps between validations and reports")
    images: int = Field(default=3, ge=0, description="images that are also logged as pictures")


class CheckpointSection(Section):
    """What survives a kill."""

    every: int = Field(default=1000, ge=1, description="steps between checkpoints")
    keep: int = Field(default=3, ge=1, description="newest checkpoints that stay")


class WorkersSection(Section):
    """How many processes train together; changes the speed, not the result."""

    count: int = Field(default=1, ge=1, description="workers of Ray Train")
    gpu: Literal["auto"] | bool = Field(default="auto", description="one GPU for each worker")
    cpus: float | None = Field(
        default=None, gt=0, description="CPUs reserved in Ray for each worker; 1 by default"
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="torch threads of a worker; an equal share of the node by default",
    )
    max_failures: int = Field(
        default=3,
        ge=0,
        description="lost workers after which the run gives up; each resumes by itself",
    )


class TrackingSection(Section):
    """Where the figures go."""

    tracking_uri: str | None = Field(
        default=None, description="MLflow server; MLFLOW_TRACKING_URI by default"
    )
    experiment: str = Field(default="rayscale", min_length=1, description="MLflow experiment")


class LoggingSection(TrackingSection):
    """Where the figures go, and how many."""

    every: int = Field(default=100, ge=1, description="steps between logged means")


class RunConfig(Section):
    """What every kind of training is configured by: where it reads and writes, and what determines its weights."""

    run: RunSection = RunSection()
    data: DatasetSection = DatasetSection()
    validation: BenchmarkSection = BenchmarkSection()

    @classmethod
    def load(cls, file: str | Path | None = None, overrides: Iterable[str] = ()) -> Self:
        """The configuration of a file (``.yaml``, ``.yml``, ``.json``, ``.toml``; a path or ``s3://``) with overrides.

        ``overrides`` are ``section.key=value`` texts with values as in YAML; the last one wins.

        Raises:
            ConfigError: an unknown key (named, with close ones), a value out of its limits, a file that is damaged.
            NotFoundError: no such file.
        """
        values = _read(str(file)) if file else {}
        for override in overrides:
            _apply(values, override)
        return cls.parse(values)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The configuration of nested plain values; errors as in ``load``."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError("; ".join(_explain(item, cls) for item in error.errors())) from None

    @property
    def uri(self) -> str:
        """Where this run lives; the configuration must be resolved."""
        return f"{self.run.uri}/{self.run.name}"

    @property
    def digest(self) -> str:
        """sha256 of everything that determines the weights."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """What is trained, as the beginning of a run's name."""
        raise NotImplementedError

    def resolved(self) -> Self:
        """With the name and every place filled in and local paths absolute; ConfigError without a dataset."""
        dataset = self.data.uri or os.environ.get("RAYSCALE_DATASET")
        if not dataset:
            raise ConfigError(
                "there is no dataset to train on: set data.uri (--set data.uri=s3://bucket/dataset, a "
                "configuration file, or RAYSCALE_DATASET) to what "
                "`python jobs/prepare_dataset.py SOURCE TARGET` made"
            )
        data_uri = connect(dataset).uri
        run_uri = connect(self.run.uri or _sibling(data_uri, "runs")).uri
        update: dict[str, Any] = {
            "data": self.data.model_copy(update={"uri": data_uri}),
            "run": self.run.model_copy(update={"uri": run_uri}),
        }
        if self.validation.uri:
            uri = connect(self.validation.uri).uri
            update["validation"] = self.validation.model_copy(update={"uri": uri})
        resolved = self.model_copy(update=update)
        if resolved.run.name is None:
            name = f"{self.title}-{resolved.digest[:8]}"
            run = resolved.run.model_copy(update={"name": name})
            resolved = resolved.model_copy(update={"run": run})
        return resolved

    def to_yaml(self) -> str:
        """The configuration as YAML that ``load_config`` reads back."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text

    def flat(self) -> dict[str, Any]:
        """``{"optimizer.lr": 0.0001, ...}``: what a tracker stores as parameters."""
        values: dict[str, Any] = {}
        for name, value in self.model_dump(mode="json").items():
            if isinstance(value, dict):
                values.update({f"{name}.{key}": item for key, item in value.items()})
            else:
                values[name] = value
        return values


class TrainConfig(RunConfig):
    """A whole training run. The defaults are the recipe of Lim et al. 2017 for EDSR."""

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    optimizer: OptimizerSection = OptimizerSection()
    validation: ValidationSection = ValidationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    workers: WorkersSection = WorkersSection()
    logging: LoggingSection = LoggingSection()
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="auto: bfloat16 where the hardware computes it, float32 elsewhere",
    )

    @model_validator(mode="after")
    def _check_shares(self) -> TrainConfig:
        if self.data.batch % self.workers.count:
            raise ValueError(
                f"data.batch {self.data.batch} cannot be shared equally by workers.count "
                f"{self.workers.count}; make the batch a multiple of the workers"
            )
        return self

    @property
    def digest(self) -> str:
        """sha256 of everything that determines the weights after a given step.

        Workers, logging, validation, checkpoint intervals and the place of the run are left out; so is the
        number of steps under the step schedule, where training longer only continues the same curve.
        """
        parts = self.model_dump(
            mode="json", include={"model", "data", "optimizer", "precision"}
        ) | {"seed": self.run.seed}
        if self.optimizer.schedule == "step":
            del parts["optimizer"]["steps"]
        else:
            del parts["optimizer"]["halve_every"]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def title(self) -> str:
        return f"{self.model.name}-x{self.model.scale}"


def load_config(file: str | Path | None = None, overrides: Iterable[str] = ()) -> TrainConfig:
    """``TrainConfig.load``."""
    return TrainConfig.load(file, overrides)


def parse_config(values: Mapping[str, Any]) -> TrainConfig:
    """``TrainConfig.parse``."""
    return TrainConfig.parse(values)


def known_keys(kind: type[RunConfig] = TrainConfig) -> list[str]:
    """All keys as ``section.key``, in the order of the sections."""
    return list(kind().flat())


def options_table(kind: type[RunConfig] = TrainConfig) -> str:
    """Every key, its default, and what it means, one a line."""
    lines = []
    for section, field in kind.model_fields.items():
        fields = getattr(field.annotation, "model_fields", {section: field})
        for key, item in fields.items():
            name = section if key == section else f"{section}.{key}"
            lines.append(f"{name}={item.default}".ljust(38) + (item.description or ""))
    return "\n".join(lines)


def _read(file: str) -> dict[str, Any]:
    folder, key = split(file)
    try:
        text = connect(folder).read(key).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not a text file") from None
    except NotFoundError:
        raise NotFoundError(f"there is no configuration file {file}") from None
    suffix = Path(key).suffix.lower()
    try:
        if suffix == ".toml":
            values: Any = tomllib.loads(text)
        elif suffix == ".json":
            values = json.loads(text)
        elif suffix in (".yaml", ".yml"):
            values = yaml.safe_load(text)
        else:
            raise ConfigError(f"{file}: expected a .yaml, .json or .toml file, not {suffix!r}")
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds a {type(values).__name__}, expected sections with keys")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    path = name.strip().split(".")
    if not separator or not all(path):
        raise ConfigError(
            f"override {override!r} is not of the form section.key=value, such as optimizer.lr=1e-3"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r} has an unreadable value: {error}") from None
    target = values
    for part in path[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise ConfigError(f"override {override!r}: {part!r} is a value, not a section")
    target[path[-1]] = value


def _explain(item: Any, kind: type[RunConfig]) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        given = "" if isinstance(item["input"], dict) else f" (given: {item['input']!r})"
        return f"{place or 'configuration'}: {item['msg'].removeprefix('Value error, ')}{given}"
    keys = known_keys(kind) + list(kind.model_fields)
    last = place.rpartition(".")[2]
    close = difflib.get_close_matches(place, keys, n=3, cutoff=0.6)
    close += [key for key in keys if key.rpartition(".")[2] == last and key not in close]
    hint = f"did you mean {' or '.join(close)}?" if close else f"known keys: {', '.join(keys)}"
    return f"unknown key {place!r}; {hint}"


def _sibling(uri: str, name: str) -> str:
    if uri.startswith("s3://"):
        return f"s3://{uri.removeprefix('s3://').split('/')[0]}/{name}"
    return str(Path(uri).parent / name)
