"""An export from start to end: write beside the target, open, compare with the network itself, and only then take its place."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rayscale.errors import ConfigError, InputError
from rayscale.evaluation import evaluate, read_pairs
from rayscale.export import kinds
from rayscale.export.kinds import ENDINGS, QUANTISED, Kind, Source
from rayscale.export.quantisation import read_tiles
from rayscale.inference import Upscaler
from rayscale.inference.compiled import core_of
from rayscale.inference.exported import describe
from rayscale.models.builtin import OpenedModel
from rayscale.models.network import SuperResolver
from rayscale.options import Options
from rayscale.resampling import upsample

_ODD = ((1, 37, 53), (2, 24, 31))  # images, height, width on which the two are compared
_SIDE, _ROUNDS = 128, 3  # of the image that is timed, and how often


class LossError(InputError):
    """An export that lost more than it may."""

    code = "export_loss"


@dataclass(frozen=True)
class Loss:
    """What a benchmark lost: PSNR in dB of the network in float32 by PyTorch, and of the export."""

    data: str
    float32: float
    exported: float

    @property
    def db(self) -> float:
        """What the export lost, in dB."""
        return self.float32 - self.exported


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        parity: the largest difference from the network in float32 by PyTorch, in grey levels of 8 bits, on smooth random images.
        losses: on the benchmarks that were given.
        rates: source megapixels per second of the export, of PyTorch in float32, and of PyTorch as 8-bit pictures are
            enlarged, all with exact halo; medians of interleaved rounds.
        halo: pixels, of the input of the file, of the margin of a tile.
    """

    path: str
    kind: Kind
    precision: str
    bytes: int
    halo: int
    parity: float
    losses: tuple[Loss, ...]
    rates: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        losses = [{**asdict(each), "loss_db": each.db} for each in self.losses]
        return {**asdict(self), "losses": losses}


def export_model(
    opened: OpenedModel,
    kind: Kind,
    target: Path,
    scale: float | None = None,
    *,
    calibration: Path | None = None,
    data: Sequence[str] = (),
    most_loss: float = 0.05,
) -> Exported:
    """Write the model for another library.

    Args:
        target: the file, or for ``triton`` the model repository and for ``mlflow`` the folder of the model.
        scale: that of the file, for a network that serves several.
        calibration: folder of low-resolution images; with it the trunk is written in int8.
        data: benchmarks on which the loss is measured, at least one for int8; ``{scale}`` stands for the scale.
        most_loss: dB of PSNR that may be lost on any of them.

    Raises:
        LossError: it loses more; nothing is written.
        ConfigError: another ending than that of the kind, or int8 without a benchmark or for a kind without.
        UnsupportedError: a network that is not layers alone, or a library that is not installed.
    """
    _check(kind, target, calibration, data)
    model = opened.network.eval()
    scale = model.resolve_scale(model.default_scale if scale is None else scale)
    core = core_of(model, scale, f"export to {kind}")
    facts = describe(model, scale, core, opened.digest)
    tiles = None
    if calibration is not None:
        tiles = read_tiles(calibration, model, scale)
        facts["rayscale.precision"] = "int8"
    source = Source(_name(opened.label, scale), model, scale, core, facts, tiles)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rayscale-", dir=target.parent) as scratch:
        made = Path(scratch, target.name)
        network = kinds.write(kind, source, made)
        losses = tuple(_compare(model, network, scale, each) for each in data)
        worst = max(losses, key=lambda each: each.db, default=None)
        if worst is not None and not worst.db <= most_loss:
            raise LossError(
                f"the export loses {worst.db:.3f} dB on {worst.data} ({worst.float32:.3f} to {worst.exported:.3f}), over the "
                f"{most_loss:g} dB that it may; nothing was written. Calibrate on more images, export float32, or raise the limit"
            )
        exported = Exported(
            str(target),
            kind,
            facts["rayscale.precision"],
            kinds.size_of(made),
            int(facts["rayscale.halo"]),
            _parity(model, network, scale),
            losses,
            _rates(model, network, scale),
        )
        del network  # which may hold the file
        kinds.move(kind, made, target)
    return exported


def _check(kind: Kind, target: Path, calibration: Path | None, data: Sequence[str]) -> None:
    ending = ENDINGS.get(kind)
    if ending is not None and target.suffix != ending:
        raise ConfigError(f"{target} is for {kind}; name a file that ends in {ending}")
    if ending is None and target.is_file():
        raise ConfigError(f"{target} is a file; {kind} writes a folder")
    if calibration is not None and kind not in QUANTISED:
        raise ConfigError(f"{kind} has no int8; use {', '.join(QUANTISED)}")
    if calibration is not None and not data:
        raise ConfigError("int8 needs a benchmark to measure its loss on; name one as data")


def _name(label: str, scale: float) -> str:
    """A name for Triton: that of the model and its scale."""
    name = label.replace("/", "-").replace("@", "-")
    return name if name.endswith(f"-x{scale:g}") else f"{name}-x{scale:g}"


def _compare(model: SuperResolver, network: SuperResolver, scale: float, data: str) -> Loss:
    """Both in float32, as published figures are."""
    place = data.replace("{scale}", f"{scale:g}")
    found = [
        evaluate(
            Upscaler(
                each, Options(scale=scale, precision="float32"), device="cpu", calibrate=False
            ),
            read_pairs(place, scale),
        ).psnr
        for each in (model, network)
    ]
    return Loss(place, *found)


@torch.inference_mode()
def _parity(model: SuperResolver, network: SuperResolver, scale: float) -> float:
    random = torch.Generator().manual_seed(0)
    most = 0.0
    for count, height, width in _ODD:
        # Smooth, as pictures are: of noise, int8 clips what it never saw when it was calibrated.
        coarse = torch.rand(
            count, model.channels, height // 8 + 2, width // 8 + 2, generator=random
        )
        x = upsample(coarse, 8)[..., :height, :width].clamp(0, 1) * model.spec.value_range
        difference = (model(x, scale) - network(x, scale)).abs().max().item()
        most = max(most, difference / model.spec.value_range * 255)
    return most


def _rates(model: SuperResolver, network: SuperResolver, scale: float) -> dict[str, float]:
    x = torch.rand(1, model.channels, _SIDE, _SIDE) * model.spec.value_range
    contenders = {
        "exported": (network, "auto"),
        "torch float32": (model, "float32"),
        "torch": (model, "auto"),
    }
    predictors = {
        name: Upscaler(
            each, Options.of({"scale": scale, "precision": precision}), device="cpu"
        ).predictor
        for name, (each, precision) in contenders.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    for number in range(_ROUNDS + 1):
        for name, predictor in predictors.items():
            start = time.perf_counter()
            predictor.predict(x, bits=8)
            if number:  # after a warm-up
                seconds[name].append(time.perf_counter() - start)
    return {name: _SIDE**2 / 1e6 / statistics.median(taken) for name, taken in seconds.items()}
