"""Training A+ (Timofte et al. 2014) from a dataset: features, dictionary, regressors. One process on CPUs.

The steps are ``patches`` (what is learned from), ``dictionary`` (the atoms) and ``anchors`` (their regressors);
here are the configuration and the order. It takes minutes, so that a killed run is simply started again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from rayscale import strictjson
from rayscale.data import Dataset
from rayscale.errors import ConfigError, NotFoundError
from rayscale.models.aplus import APlus
from rayscale.models.spec import ModelSpec
from rayscale.models.systems import build
from rayscale.storage import connect
from rayscale.training.anchors import anchor_regressors, shared_patches
from rayscale.training.config import RunConfig
from rayscale.training.dictionary import learn
from rayscale.training.metrics import Loggers, MetricLogger
from rayscale.training.patches import Source, principal_features
from rayscale.training.run import CONFIG, TrainResult, commit, erase, lease_of, read_result
from rayscale.training.sections import DatasetSection, Section
from rayscale.training.validation import Validator, is_scored

Say = Callable[[str], None]

SAMPLES = {"paper": 5_000_000, "short": 500_000}
_SMALLEST_NORM = (
    0.1  # below it a patch is nearly flat, and its detail is not scaled up with its features
)
_DTYPES = {"float16": torch.float16, "float32": torch.float32}


class APlusModelSection(Section):
    """The size of the model."""

    name: Literal["aplus"] = Field(default="aplus", description="the system of this job")
    scale: Literal[2, 3, 4] = Field(default=2, description="enlargement to train for")
    features: int = Field(
        default=30, ge=1, le=81, description="principal components; 28 to 30 keep 99.9 % of the energy"
    )  # fmt: skip
    atoms: int = Field(default=1024, ge=1, le=1024, description="anchors, each with its regressor")
    storage: Literal["float16", "float32"] = Field(
        default="float16", description="numbers of the file; half precision costs less than a hundredth of a dB"
    )  # fmt: skip


class PatchesSection(DatasetSection):
    """Where the samples come from."""

    samples: int | None = Field(
        default=None, ge=1, description="pairs of patches for the regressors; the recipe's by default"
    )  # fmt: skip
    sizes: int = Field(default=12, ge=1, description="sizes at which every image is used")
    shrink: float = Field(default=0.98, gt=0, lt=1, description="each size as a part of the last")


class DictionarySection(Section):
    """K-SVD."""

    samples: int = Field(default=130_000, ge=1, description="patches, of images at full size")
    sparsity: int = Field(default=3, ge=1, description="atoms that make up a patch")
    iterations: int = Field(default=20, ge=1)


class RegressorsSection(Section):
    """Ridge regression at each anchor."""

    neighbours: int = Field(default=2048, ge=1, description="samples of an anchor")
    ridge: float = Field(default=0.1, gt=0, description="weight of the penalty")


class ProcessSection(Section):
    """The one process that computes."""

    cpus: float = Field(default=1, gt=0, description="CPUs reserved in Ray")
    threads: int | None = Field(
        default=None,
        ge=1,
        description="torch threads; by default as many as there are reserved CPUs",
    )


class APlusConfig(RunConfig):
    """A whole training of A+; the defaults are the paper's."""

    recipe: Literal["paper", "short"] = Field(
        default="paper", description="5 million samples, or half a million: less memory and time, 0.2 dB less at x2"
    )  # fmt: skip
    model: APlusModelSection = APlusModelSection()
    data: PatchesSection = PatchesSection()
    dictionary: DictionarySection = DictionarySection()
    regressors: RegressorsSection = RegressorsSection()
    workers: ProcessSection = ProcessSection()

    @property
    def title(self) -> str:
        return f"aplus-x{self.model.scale}"

    @property
    def samples(self) -> int:
        """Pairs of patches for the regressors."""
        return self.data.samples or SAMPLES[self.recipe]

    @property
    def spec(self) -> ModelSpec:
        """The model that is trained."""
        return ModelSpec(
            system="aplus",
            scales=(self.model.scale,),
            channels=1,
            filters=self.model.features,
            blocks=self.model.atoms,
            value_range=1.0,
        )

    @property
    def digest(self) -> str:
        parts = self.model_dump(mode="json", include={"model", "data", "dictionary", "regressors"})
        del parts["model"]["name"]  # always the same
        parts["data"] |= {"uri": self.data.identity, "samples": self.samples}
        del parts["data"]["digest"]
        text = strictjson.dumps(parts | {"seed": self.run.seed}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Pool(NamedTuple):
    """What the regressors are fitted to: unit features ``(n, d)`` and details ``(n, p)`` in float16."""

    features: Tensor
    details: Tensor


def train(
    config: APlusConfig,
    *,
    fresh: bool = False,
    metrics: MetricLogger | None = None,
    say: Say = lambda line: None,
) -> TrainResult:
    """Train as ``config`` says and return the result that the run wrote to storage.

    A run that is complete is not trained again, unless ``fresh`` deletes it first; it is scored again where the benchmark is
    another. ``metrics`` gets the progress of the dictionary and the final
    figures; the caller closes it. ``say`` gets a line for each step. Memory: 4 bytes per sample and feature and
    2 per sample and HR pixel of a patch (1 GB at x2, 2 GB at x4 for 5 million samples), and 0.8 GB.

    Raises:
        ConfigError: the run was trained with another configuration.
        BusyError: another process trains it.
        InputError: the dataset has too few patches.
    """
    config = config.identified()
    finished = None if fresh else _find_finished(config)
    if finished is not None and is_scored(finished, config.validation, [config.model.scale]):
        return finished
    with lease_of(config.uri):
        if finished is not None:
            say(f"{config.uri} is complete; scoring it on {config.validation.uri}")
            return _validator(config).score_again(finished, metrics or Loggers())
        if fresh:
            erase(config.uri)
        connect(config.uri).write(CONFIG, config.to_yaml().encode())
        return _train(config, metrics or Loggers(), say)


def _validator(config: APlusConfig) -> Validator:
    return Validator(
        config.validation.uri or "",
        [config.model.scale],
        device="cpu",
        precision="float32",
        degradation=config.validation.degradation,
    )


def _train(config: APlusConfig, metrics: MetricLogger, say: Say) -> TrainResult:
    validator = _validator(config) if config.validation.uri else None
    metrics.log_params(config.flat() | (validator.params if validator else {}))
    started = time.monotonic()

    def stamped(line: str) -> None:
        say(f"{time.monotonic() - started:6.0f} s  {line}")

    dataset = Dataset(config.data.uri or "", config.model.scale)
    model, figures, history = fit(config, dataset, metrics, stamped)
    figures["seconds"] = time.monotonic() - started
    steps = config.dictionary.iterations
    metrics.log_metrics(figures, steps)
    if validator is not None:
        figures |= validator.log(validator.score(model), steps, metrics)
    result = {
        "steps": steps,
        "metrics": figures,
        "protocol": validator.protocol.name if validator else None,
        "benchmark": validator.benchmark if validator else {},
        "history": history,
        "dataset": {
            "uri": dataset.uri,
            "digest": dataset.manifest.digest,
            "degradation": dataset.manifest.degradation_name,
        },
        "precision": "float32",
    }
    extra = {"samples": str(int(figures["samples"]))}
    return commit(config, model, result, extra, _DTYPES[config.model.storage])


def fit(
    config: APlusConfig, dataset: Dataset, metrics: MetricLogger, say: Say
) -> tuple[APlus, dict[str, float], list[dict[str, float]]]:
    """The trained model, figures of the training, and the error of the dictionary over its iterations."""
    model = build(config.spec)
    assert isinstance(model, APlus)
    seed, scale = config.run.seed, config.model.scale
    history: list[dict[str, float]] = []
    sizes = tuple(config.data.shrink**i for i in range(config.data.sizes))
    source = Source(dataset, model, sizes, seed)

    windows = [
        w for w, _ in Source(dataset, model, (1.0,), seed).patches(config.dictionary.samples)
    ]
    moment = sum(((w.T @ w).double() for w in windows), torch.zeros(()))
    features, kept = principal_features(moment, scale, config.model.features)
    model.features.copy_(features)
    say(f"{config.model.features} features keep {100 * kept:.2f} % of the energy of the gradients")

    def heard(iteration: int, error: float) -> None:
        history.append({"step": iteration, "dictionary_error": error})
        metrics.log_metrics({"dictionary_error": error}, iteration)
        say(f"dictionary {iteration}/{config.dictionary.iterations}: error {error:.5f}")

    atoms = learn(
        torch.cat(windows) @ model.features.T,
        config.model.atoms,
        sparsity=config.dictionary.sparsity,
        iterations=config.dictionary.iterations,
        generator=torch.Generator().manual_seed(seed),
        progress=heard,
    )
    del windows
    model.atoms.copy_(atoms)

    pool = collect(source, model.features, config.samples)
    say(f"{len(pool.features)} samples of {config.data.sizes} sizes of the images")

    def regressed(done: int, total: int) -> None:
        if done % 128 == 0 or done == total:
            say(f"regressors {done}/{total}")

    regressors = anchor_regressors(
        atoms,
        pool.features,
        pool.details,
        neighbours=config.regressors.neighbours,
        ridge=config.regressors.ridge,
        progress=regressed,
    )
    patches, components = shared_patches(regressors, model.patches.shape[0])
    model.patches.copy_(patches)
    model.regressors.copy_(components)
    figures = {
        "samples": float(len(pool.features)),
        "energy": kept,
        "dictionary_error": history[-1]["dictionary_error"],
    }
    return model.eval(), figures, history


def collect(source: Source, features: Tensor, samples: int) -> Pool:
    """About ``samples`` patches of ``source``: features of unit norm, details divided by the same norm.

    As in the authors' code, the details of nearly flat patches are left as they are.
    """
    pixels = (3 * source.dataset.scale) ** 2
    capacity = min(samples, source.total(samples))
    pool = Pool(
        torch.empty(capacity, len(features)), torch.empty(capacity, pixels, dtype=torch.float16)
    )
    filled = 0
    for windows, details in source.patches(samples):
        raw = windows @ features.T
        norm = raw.norm(dim=1, keepdim=True)
        count = min(len(raw), capacity - filled)  # shares are rounded per image
        part = slice(filled, filled + count)
        pool.features[part] = functional.normalize(raw)[:count]
        divisor = torch.where(norm < _SMALLEST_NORM, torch.ones(()), norm)
        pool.details[part] = (details / divisor)[:count].half()
        filled += count
    return Pool(pool.features[:filled], pool.details[:filled])


def _find_finished(config: APlusConfig) -> TrainResult | None:
    """The result of an earlier run of this configuration; ConfigError when it was another one."""
    try:
        result = read_result(config.uri)
    except NotFoundError:
        return None
    if result.config_digest != config.digest:
        raise ConfigError(
            f"{config.uri} holds a run with another configuration; choose another run.name, or train "
            "with fresh=true, which deletes that run"
        )
    return result
