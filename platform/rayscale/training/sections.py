"""The typed sections of a training configuration, each with its default from the EDSR paper.

How they are read and put together is ``rayscale.training.config``; what they *do* lives beside it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rayscale.degradations import Degradation


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
    scale: int | None = Field(
        default=2, ge=2, description="enlargement to train for, for networks with one scale"
    )
    scales: tuple[float, ...] = Field(
        default=(),
        description="enlargements to train for, for networks with several scales (instead of scale): each step draws one",
    )
    channels: int | None = Field(
        default=None, ge=1, description="channels; the dataset's by default"
    )
    filters: int | None = Field(default=None, ge=1, description="feature maps of the trunk")
    blocks: int | None = Field(default=None, ge=1, description="residual blocks of the trunk")
    residual_scaling: float | None = Field(
        default=None, gt=0, description="factor on each residual branch"
    )
    value_range: float | None = Field(
        default=None,
        gt=0,
        description="number that stands for white inside the network; more where the data use little of their type: 1671 makes "
        "255 of a reflectance of 10000 in 16 bit",
    )
    warm_start: str | None = Field(
        default=None,
        description="safetensors (URI) whose weights start this network: x2 for x4 (the tail stays fresh), EDSR for "
        "MDSR, RGB for other channels; `none` starts a GAN from fresh weights",
    )

    @model_validator(mode="after")
    def _check_scales(self) -> ModelSection:
        if (self.scale is None) == (not self.scales):
            raise ValueError(
                f"scale {self.scale} and scales {list(self.scales)}: give scale for a network of one scale, scales for "
                f"a network of several, such as {self.name}"
                if self.scales
                else "give scale or scales"
            )
        if any(not 1 < scale <= 8 for scale in self.scales):
            raise ValueError(f"scales {list(self.scales)}: each must be above 1 and at most 8")
        return self

    @property
    def drawn(self) -> tuple[float, ...]:
        """The scales that steps are drawn from."""
        if self.scale is not None:
            return (self.scale,)
        return tuple(int(scale) if scale.is_integer() else scale for scale in self.scales)


class DatasetSection(Section):
    """Where the images come from."""

    uri: str | None = Field(
        default=None, description="a dataset made by `rayscale prepare` (RAYSCALE_DATASET)"
    )
    digest: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="digest of that dataset, as its manifest tells; any other dataset at uri is refused",
    )

    @property
    def identity(self) -> str | None:
        """What tells this dataset from others: its digest, or its address while that is not known."""
        return self.digest or self.uri


class DataSection(DatasetSection):
    """What the patches are cut from."""

    patch: int = Field(default=48, ge=4, description="side of a patch in LR pixels")
    batch: int = Field(default=16, ge=1, description="patches per step, over all workers together")
    degradation: Degradation | None = Field(
        default=None,
        description="makes the LR patches of the HR images anew, whatever the dataset has: bicubic, mtf:sensor=sentinel-2, "
        "blur_noise_jpeg, ... (docs/degradations.md)",
    )
    mixed: bool = Field(
        default=False,
        description="every step has patches of all scales, all with the HR side that patch has at the smallest scale (VDSR); "
        "otherwise each step draws one scale (MDSR)",
    )


class OptimizerSection(Section):
    """The update, its schedule, the loss, and how long."""

    algorithm: Literal["adam", "sgd"] = "adam"
    lr: float = Field(default=1e-4, gt=0, description="initial learning rate")
    last_layer_lr: float = Field(
        default=1.0, gt=0, description="factor on the learning rate of the last layer (SRCNN: 0.1)"
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="of adam")
    eps: float = Field(default=1e-8, gt=0, description="of adam")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(default=0.0, ge=0, description="L2 penalty on the weights")
    schedule: Literal["step", "cosine"] = Field(
        default="step", description="fall by decay every decay_every steps, or to 0 over all steps"
    )
    decay_every: int = Field(default=200_000, ge=1, description="steps between falls")
    decay: float = Field(default=0.5, gt=0, le=1, description="factor of a fall; 1 is constant")
    clip: Literal["none", "value", "norm", "adjustable"] = Field(
        default="none",
        description="bound each gradient (value), their norm, or each by clip_at / learning rate (VDSR)",
    )
    clip_at: float = Field(
        default=0.4, gt=0, description="the bound, in units of the loss per weight"
    )
    steps: int = Field(default=300_000, ge=1, description="updates in all")
    loss: Literal["l1", "mse", "euclidean"] = Field(
        default="l1",
        description="mean over pixels; euclidean: half the squared error of a patch, summed, white being 1",
    )
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay of the running mean of the weights, less in the first steps; 0 is off",
    )


class GuardSection(Section):
    """When a run goes back or is searched for faults: off by default, because patches of uneven images make uneven losses."""

    spike: float = Field(
        default=0.0,
        ge=0,
        description="a loss above this many times its running mean rolls back to the weights of the last "
        "checkpoint, and training continues with the next step; 0 turns it off",
    )
    max_rollbacks: int = Field(
        default=5,
        ge=0,
        description="rollbacks after which a run gives up, unless a checkpoint was reached from the one before without any",
    )
    anomaly: bool = Field(
        default=False,
        description="check every gradient of every operation and name the one that is not finite (torch's anomaly "
        "detection, slow)",
    )


class AdversarialSection(Section):
    """The GAN stage of srgan and meta-srgan; other systems leave it alone."""

    weight: float = Field(
        default=1e-3,
        ge=0,
        description="of the adversarial loss beside the content loss; 0 trains without one",
    )
    content: Literal["vgg54", "vgg22", "mse", "l1"] = Field(
        default="vgg54", description="content loss: features of VGG19 (conv5_4, conv2_2) or pixels"
    )
    vgg: str | None = Field(
        default=None,
        description="weights of VGG19 in torchvision's layout (.pth or .safetensors, a path or s3://)",
    )


class BenchmarkSection(Section):
    """Full images, upscaled and scored."""

    uri: str | None = Field(
        default=None,
        description="folder or bucket with HR/ and LR/ of the scale; {scale} in it stands for each of several",
    )
    degradation: Degradation | None = Field(
        default=None, description="makes their LR images of HR, as data.degradation does"
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
    """How many processes train together, and how each computes; changes speed and memory, not the result."""

    count: int = Field(
        default=1, ge=1, description="workers of Ray Train; the most, with a minimum"
    )
    minimum: int | None = Field(
        default=None,
        ge=1,
        description="elastic: train with as many workers as the cluster has room for, from this number up to count",
    )
    resize_every_s: float = Field(
        default=60.0, gt=0, description="elastic: seconds between looks for room for more workers"
    )
    gpu: Literal["auto"] | bool = Field(default="auto", description="one GPU for each worker")
    gpu_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="part of a GPU that a worker takes; trials of a sweep that have one worker each can share one",
    )
    cpus: float | None = Field(
        default=None, gt=0, description="CPUs reserved in Ray for each worker; 1 by default"
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="torch threads of a worker; an equal share of the node by default",
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="what each worker holds: the whole network (ddp), or a shard of weights, gradients and moments (fsdp)",
    )
    gradient_accumulation: int = Field(
        default=1,
        ge=1,
        description="micro-batches in which a worker computes its share of a step: less memory, the same gradient",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="compute what is inside the blocks again in the backward pass: less memory, more time",
    )
    compile: bool = Field(
        default=False, description="torch.compile of the blocks; needs a C++ compiler on CPUs"
    )
    channels_last: bool = Field(
        default=True, description="NHWC in memory: faster convolutions on most hardware"
    )
    wait: bool = Field(
        default=False,
        description="wait for nodes that an autoscaler adds, instead of failing when the cluster has no room",
    )
    max_failures: int = Field(
        default=3,
        ge=0,
        description="lost workers after which the run gives up; each resumes by itself",
    )

    @property
    def grows(self) -> bool:
        """Whether hosts may join later: what all share cannot lie on one of them."""
        return self.minimum is not None or self.wait

    @model_validator(mode="after")
    def _check_counts(self) -> WorkersSection:
        if self.gpu_share < 1 and self.count > 1:
            raise ValueError(
                f"workers.gpu_share {self.gpu_share:g}: {self.count} workers of one training need a GPU each, as NCCL does not "
                "let two share one; set workers.count=1 or workers.gpu_share=1"
            )
        if self.minimum is not None and self.minimum > self.count:
            raise ValueError(
                f"workers.minimum {self.minimum} is above workers.count {self.count}, the most"
            )
        return self


class TrackingSection(Section):
    """Where the figures go."""

    tracking_uri: str | None = Field(
        default=None, description="MLflow server; MLFLOW_TRACKING_URI by default"
    )
    experiment: str = Field(default="rayscale", min_length=1, description="MLflow experiment")

    @field_validator("tracking_uri")
    @classmethod
    def _holds_no_password(cls, uri: str | None) -> str | None:
        if uri and "@" in uri.partition("://")[2].partition("/")[0]:
            raise ValueError(
                "it holds a password, and settings are printed and kept with the run; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI"
            )
        return uri


class LoggingSection(TrackingSection):
    """Where the figures go, and how many."""

    every: int = Field(default=100, ge=1, description="steps between logged means")
    profile: int = Field(
        default=0,
        ge=0,
        description="steps of which rank 0 keeps a trace, after three others, in profile/ of the run; 0 is none",
    )
