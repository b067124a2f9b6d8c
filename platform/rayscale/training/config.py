"""The configuration of a training run: defaults, then the recipe of the system, then a file, then overrides.

Files (YAML, JSON, TOML) and ``section.key=value`` overrides become one ``TrainConfig``; a key that does not
exist is an error that names the closest ones. The sections are ``rayscale.training.sections``, the recipes
``rayscale.training.recipes``.
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
from pydantic import Field, ValidationError, model_validator

from rayscale import strictjson
from rayscale.errors import ConfigError, NotFoundError, without_passwords
from rayscale.storage import connect, split
from rayscale.training.recipes import recipe_of
from rayscale.training.sections import (
    AdversarialSection,
    BenchmarkSection,
    CheckpointSection,
    DataSection,
    DatasetSection,
    GuardSection,
    LoggingSection,
    ModelSection,
    OptimizerSection,
    RunSection,
    Section,
    TrackingSection,
    ValidationSection,
    WorkersSection,
)


class RunConfig(Section):
    """What every kind of training is configured by: where it reads and writes, and what determines its weights."""

    run: RunSection = RunSection()
    data: DatasetSection = DatasetSection()
    validation: BenchmarkSection = BenchmarkSection()
    logging: TrackingSection = TrackingSection()

    @classmethod
    def load(cls, file: str | Path | None = None, overrides: Iterable[str] = ()) -> Self:
        """The configuration of a file (``.yaml``, ``.yml``, ``.json``, ``.toml``; a path or ``s3://``) with overrides.

        ``overrides`` are ``section.key=value`` texts with values as in YAML; the last one wins.

        Raises:
            ConfigError: an unknown key (named, with close ones), a value out of its limits, a file that is damaged.
            NotFoundError: no such file.
        """
        return cls.parse(merge(file, overrides))

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
    def own_name(self) -> str:
        """The name of a run that is given none; another configuration has another."""
        return f"{self.title}-{self.digest[:8]}"

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
                "there is no dataset to train on: set data.uri=s3://bucket/dataset, or RAYSCALE_DATASET, to what "
                "`rayscale prepare SOURCE TARGET` made"
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
            run = resolved.run.model_copy(update={"name": resolved.own_name})
            resolved = resolved.model_copy(update={"run": run})
        return resolved

    def identified(self) -> Self:
        """``resolved``, with the digest of the dataset, which names the run wherever the dataset lies.

        Reads its manifest. Raises ConfigError where ``data.digest`` asks for another dataset, and what
        ``Manifest.load`` does.
        """
        from rayscale.data.manifest import Manifest

        uri = self.resolved().data.uri or ""
        digest = Manifest.load(uri).digest
        if self.data.digest not in (None, digest):
            raise ConfigError(
                f"the dataset {uri} has the digest {digest}, but data.digest is {self.data.digest}; correct data.uri, "
                "or train on this one with data.digest=null"
            )
        data = self.data.model_copy(update={"digest": digest})
        return self.model_copy(update={"data": data}).resolved()

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

    recipe: Literal["paper", "short"] = Field(
        default="paper",
        description="defaults of the system: as published, or for some hours on a CPU",
    )
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    optimizer: OptimizerSection = OptimizerSection()
    adversarial: AdversarialSection = AdversarialSection()
    guard: GuardSection = GuardSection()
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
        least = self.workers.count * self.workers.gradient_accumulation
        least *= len(self.model.drawn) if self.data.mixed else 1
        if self.data.batch < least:
            raise ValueError(
                f"data.batch {self.data.batch} cannot be shared by workers.count {self.workers.count} (with "
                f"workers.gradient_accumulation {self.workers.gradient_accumulation}); make the batch at least {least}"
            )
        if self.workers.strategy == "fsdp" and self.is_adversarial:
            raise ValueError(
                f"workers.strategy fsdp: {self.model.name} trains two networks, which are replicated; use ddp"
            )
        return self

    @property
    def digest(self) -> str:
        """sha256 of everything that determines the weights after a given step.

        A dataset counts by its digest, and by its address while that is not known. Workers, logging, validation, checkpoint intervals and the place of the run are left out; so is the
        number of steps under the step schedule, where training longer only continues the same curve. With the guard
        on, the interval of checkpoints counts. Those of logging and validation do not, though on a GPU a spike is
        noticed at the next of them: after a spike, runs that differ in them part.
        """
        sections = {"model", "data", "optimizer", "precision"}
        parts = self.model_dump(mode="json", include=sections) | {"seed": self.run.seed}
        parts["data"]["uri"] = self.data.identity
        del parts["data"]["digest"]
        if parts["data"]["degradation"] is None:  # runs of before keep their digest
            del parts["data"]["degradation"]
        if self.optimizer.schedule == "step":
            del parts["optimizer"]["steps"]
        else:
            del parts["optimizer"]["decay_every"], parts["optimizer"]["decay"]
        if self.is_adversarial:
            parts["adversarial"] = self.adversarial.model_dump(mode="json")
        if self.guard.spike:  # what a spike goes back to depends on when checkpoints are made
            parts["guard"] = [self.guard.spike, self.checkpoint.every]
        return hashlib.sha256(strictjson.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def is_adversarial(self) -> bool:
        """Whether a discriminator is trained beside the network."""
        from rayscale.models.systems import systems

        system = systems().get(self.model.name)
        return system is not None and system.is_adversarial and self.adversarial.weight > 0

    def resolved(self) -> Self:
        """As in ``RunConfig``; the files of weights are absolute too, for workers that start in another folder."""
        model, gan = self.model, self.adversarial
        update = {
            "model": model.model_copy(update={"warm_start": _absolute(model.warm_start)}),
            "adversarial": gan.model_copy(update={"vgg": _absolute(gan.vgg)}),
        }
        return super(TrainConfig, self.model_copy(update=update)).resolved()

    @property
    def title(self) -> str:
        """System and scale, as ``edsr-baseline-x2``; the system alone for a network of several scales."""
        return (
            self.model.name
            if self.model.scale is None
            else f"{self.model.name}-x{self.model.scale}"
        )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The configuration of nested plain values over the recipe of their system; errors as in ``load``."""
        recipe = recipe_of(system_of(values), values.get("recipe", "paper"))
        return super().parse(_merge(recipe, values))


def load_config(
    file: str | Path | None = None, overrides: Iterable[str] = (), system: str | None = None
) -> TrainConfig:
    """``TrainConfig.load``; ``system`` is the ``model.name`` where neither the file nor the overrides give one."""
    values = merge(file, overrides)
    if system and isinstance(model := values.setdefault("model", {}), dict):
        model.setdefault("name", system)
    return TrainConfig.parse(values)


def system_of(values: Mapping[str, Any]) -> Any:
    """``model.name`` of nested plain values that may hold anything; the default where they give none."""
    model = values.get("model")
    return (model.get("name") if isinstance(model, Mapping) else None) or ModelSection().name


def options_table(config: RunConfig) -> str:
    """Every key, its value in ``config``, and what it means, one a line."""
    lines = []
    values = config.flat()
    for section, field in type(config).model_fields.items():
        fields = getattr(field.annotation, "model_fields", {section: field})
        for key, item in fields.items():
            name = section if key == section else f"{section}.{key}"
            lines.append(f"{name}={values[name]}".ljust(38) + (item.description or ""))
    return "\n".join(lines)


def merge(file: str | Path | None, overrides: Iterable[str]) -> dict[str, Any]:
    """The nested plain values of a file with overrides, not validated; errors as in ``RunConfig.load``."""
    values = _read(str(file)) if file else {}
    for override in overrides:
        _apply(values, override)
    return values


def _merge(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values over a recipe of ``section.key`` or ``key``; what is not a section is left to the validation."""
    whole = dict(values)
    for name, value in recipe.items():
        section, _, key = name.partition(".")
        own = whole.get(section, {} if key else value)
        if key and isinstance(own, Mapping):
            own = {key: value, **own}
        whole[section] = own
    return whole


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
        value = without_passwords(repr(item["input"]))
        given = "" if isinstance(item["input"], dict) else f" (given: {value})"
        return f"{place or 'configuration'}: {item['msg'].removeprefix('Value error, ')}{given}"
    keys = [*kind().flat(), *kind.model_fields]
    last = place.rpartition(".")[2]
    close = difflib.get_close_matches(place, keys, n=3, cutoff=0.6)
    close += [key for key in keys if key.rpartition(".")[2] == last and key not in close]
    hint = f"did you mean {' or '.join(close)}?" if close else f"known keys: {', '.join(keys)}"
    return f"unknown key {place!r}; {hint}"


def _absolute(uri: str | None) -> str | None:
    """The address of a file, independent of the working directory; None and ``none`` stay."""
    if uri in (None, "none"):
        return uri
    folder, key = split(str(uri))
    return connect(folder).locate(key)


def _sibling(uri: str, name: str) -> str:
    if uri.startswith("s3://"):
        return f"s3://{uri.removeprefix('s3://').split('/')[0]}/{name}"
    return str(Path(uri).parent / name)
