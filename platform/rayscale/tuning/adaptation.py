"""A bundled model and somebody's own images to a model of these images: hold out, prepare, train, and compare on what was held out.

Self-supervised: the archive itself is degraded, so that the network learns to give it back. All figures are therefore at reduced
resolution: they say how well the images are found again from smaller ones, which is what can be known without a better instrument.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rayscale import pairs, strictjson
from rayscale.data import PrepareConfig, prepare
from rayscale.degradations import BICUBIC, Degradation
from rayscale.errors import ConfigError, InputError, NotFoundError, quantity
from rayscale.evaluation import SUITES, Report, evaluate, read_pairs
from rayscale.imaging import read_image
from rayscale.imaging.metrics import PROTOCOLS
from rayscale.inference import Options, Upscaler
from rayscale.models.builtin import OpenedModel, find_bundled, open_builtin
from rayscale.models.weights import load_model, save_model
from rayscale.storage import connect, split
from rayscale.training.config import TrainConfig, load_config
from rayscale.training.run import TrainResult

HELD_OUT, DATASET, RUNS, BASE, REPORT = (
    "held-out",
    "dataset",
    "runs",
    "base.safetensors",
    "adaptation.json",
)
"""What lies in the folder of an adaptation."""
_FEWEST = 2  # images on either side
_SMALLEST_LR = 12  # pixels of a patch
_SERIES = ("dicom",)  # whose neighbours are nearly the same picture


class NoGainError(InputError):
    """A model that is not better than what there was."""

    code = "no_gain"


@dataclass(frozen=True)
class Adaptation:
    """What came of it.

    Attributes:
        reports: scores on the held-out images: bicubic, what there was, and last the adapted model.
        weights: URI of the adapted weights.
        trained, held_out: numbers of images.
        base: the label of the model that it began with.
        dataset_digest: of the images that it was trained on.
    """

    reports: tuple[Report, ...]
    weights: str
    trained: int
    held_out: int
    base: str = ""
    dataset_digest: str | None = None

    @property
    def wins(self) -> bool:
        """Whether the adapted model has a higher mean PSNR than every other, and is ahead on most of the images."""
        *others, adapted = self.reports
        return all(self._is_ahead(adapted, other) for other in others)

    def _is_ahead(self, adapted: Report, other: Report) -> bool:
        pairs = zip(adapted.images, other.images, strict=True)
        better = sum(a.psnr > b.psnr for a, b in pairs)
        return adapted.psnr > other.psnr and 2 * better > len(adapted.images)

    def require_gain(self) -> None:
        """Raise NoGainError, with the figures, unless it wins."""
        if not self.wins:
            *others, adapted = self.reports
            best = max(others, key=lambda each: each.psnr)
            raise NoGainError(
                f"the adapted model has {adapted.psnr:.3f} dB on {quantity(self.held_out, 'held-out image')}, {best.model} "
                f"{best.psnr:.3f}; nothing was registered. Train longer (steps), give more images, or keep {best.model}"
            )

    @property
    def summary(self) -> str:
        """What it is and what it is worth, in a sentence or two."""
        *others, adapted = self.reports
        beside = ", ".join(f"{each.model} {each.psnr:.3f}" for each in others)
        return (
            f"{self.base} adapted to {quantity(self.trained, 'image')} by {adapted.degradation}. On "
            f"{quantity(self.held_out, 'held-out image')} at reduced resolution ({adapted.protocol}) it has {adapted.psnr:.3f} dB; "
            f"{beside}."
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "wins": self.wins,
            "weights": self.weights,
            "base": self.base,
            "dataset_digest": self.dataset_digest,
            "trained": self.trained,
            "held_out": self.held_out,
            "reports": [each.to_dict() for each in self.reports],
        }


def adapt(
    source: str,
    target: str,
    base: OpenedModel,
    fit: Callable[[TrainConfig], TrainResult],
    *,
    steps: int = 500,
    share: float = 0.2,
    degradation: Degradation = BICUBIC,
    overrides: Sequence[str] = (),
) -> Adaptation:
    """Train ``base`` on the images below ``source``, and compare it with what there was on those that were held out.

    Args:
        source, target: folders or ``s3://`` prefixes; all that is made lies in ``target``.
        base: a network of one scale whose layers are trained by gradients.
        fit: trains, such as ``rayscale.training.ray.fit``.
        share: of the images that is held out, at least two: chosen by their names' hash, of DICOM the last of each folder,
            as neighbours in a series are nearly the same picture.
        degradation: makes LR of HR, for training and for the figures.
        overrides: further ``key=value`` of the training.

    Raises:
        NotFoundError: no images. ConfigError: too few, a share that leaves none, or a model of several scales.
    """
    spec = base.network.spec
    if len(spec.scales) != 1 or base.network.core(spec.scales[0]) is None:
        raise ConfigError(
            f"{base.label} cannot be adapted; take a network of one scale, such as edsr-baseline-x2"
        )
    scale = spec.scales[0]
    held, rest = hold_out(source, share)
    side, channels, container = _look(source, rest[0])
    _copy(source, f"{target}/{HELD_OUT}", held)
    size = max(min(480, side // scale * scale), scale)
    config = PrepareConfig(
        scales=(scale,),
        size=size,
        step=min(288 // scale * scale, size),
        minimum=_SMALLEST_LR * scale,
        exclude=tuple(_literal(key) for key in held),
        lr="made",
        channels=channels,
        degradation=degradation,
    )
    manifest = prepare(source, f"{target}/{DATASET}", config)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, BASE)
        save_model(base.network, path)
        connect(target).write_file(BASE, path)
    settings = [
        "recipe=short",
        f"model.name={spec.system}",
        f"model.scale={scale}",
        f"model.filters={spec.filters}",
        f"model.blocks={spec.blocks}",
        f"model.warm_start={target}/{BASE}",
        f"data.uri={target}/{DATASET}",
        f"data.patch={max(min(24, size // scale), 1)}",
        "optimizer.lr=1e-4",
        "optimizer.ema=0.99",
        f"optimizer.steps={steps}",
        f"run.uri={target}/{RUNS}",
        *overrides,
    ]
    result = fit(load_config(None, settings))
    weights = str(result.weights)
    reports = _score(f"{target}/{HELD_OUT}", base, weights, scale, channels, container, degradation)
    adaptation = Adaptation(
        tuple(reports), weights, len(rest), len(held), base.label, manifest.digest
    )
    text = strictjson.dumps(adaptation.to_dict(), indent=1) + "\n"
    connect(target).write(REPORT, text.encode())
    return adaptation


def hold_out(source: str, share: float) -> tuple[list[str], list[str]]:
    """The keys of the images that are held out, and of the others; the same for the same names."""
    if not 0 < share < 1:
        raise ConfigError(f"the held-out share must lie between 0 and 1, not {share:g}")
    keys = sorted(entry.key for entry in connect(source).list() if pairs.is_image(entry.key))
    if not keys:
        raise NotFoundError(f"there are no images in {source}")
    count = max(round(share * len(keys)), _FEWEST)
    if len(keys) < count + _FEWEST:
        raise ConfigError(
            f"{source} has {quantity(len(keys), 'image')}, too few to hold out {count} and train on the rest; give at least "
            f"{2 * _FEWEST}"
        )
    if all(_is_slice(key) for key in keys):
        held = keys[-count:]
    else:
        held = sorted(keys, key=lambda key: hashlib.sha256(key.encode()).digest())[:count]
    taken = set(held)
    return sorted(held), [key for key in keys if key not in taken]


def _is_slice(key: str) -> bool:
    return PurePosixPath(key).suffix.lower() in ("", ".dcm", ".ima")


def _look(source: str, key: str) -> tuple[int, int, str]:
    """Smaller side, channels and container of an image, which those of an archive have in common."""
    image = read_image(connect(source).read(key))
    if image.pixels.ndim != 3:
        raise ConfigError(f"{key} is a volume; adapt takes pictures, scenes and single slices")
    return min(image.height, image.width), image.channels, image.container


def _copy(source: str, target: str, keys: Sequence[str]) -> None:
    """The images as they are into the ``HR/`` of a benchmark."""
    store, place = connect(source), connect(target)
    for key in keys:
        place.write(f"HR/{key}", store.read(key))


def _literal(key: str) -> str:
    """A pattern that matches this key alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in key)


def _score(
    place: str,
    base: OpenedModel,
    weights: str,
    scale: int,
    channels: int,
    container: str,
    degradation: Degradation,
) -> list[Report]:
    """Bicubic, what there was for images of these channels, and the adapted model; as users enlarge, in float32."""
    folder, key = split(weights)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, key)
        connect(folder).fetch(key, path)
        adapted = load_model(path)
    contenders = {"bicubic": open_builtin("bicubic").network}
    if channels in (1, base.network.channels):
        contenders[base.label] = base.network
    other = find_bundled("aplus", scale)
    if channels != base.network.channels and other is not None:
        contenders[other] = open_builtin(other).network
    contenders["adapted"] = adapted
    suite = SUITES["medical" if container in (*_SERIES, "nifti") else "satellite"]
    protocol = PROTOCOLS["edsr-paper-y" if container in ("png", "jpeg", "webp") else "rgb"]
    return [
        evaluate(
            Upscaler(network, Options(scale=scale, precision="float32")),
            read_pairs(place, scale, degradation=degradation),
            name=name,
            protocol=protocol,
            suite=suite if container not in ("png", "jpeg", "webp") else None,
        )
        for name, network in contenders.items()
    ]
