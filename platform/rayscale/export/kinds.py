"""What a model can be written for, and how each file or folder comes to be."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from rayscale.export.quantisation import Tiles, quantise_onnx, quantise_openvino
from rayscale.inference.compiled import Compiled
from rayscale.inference.engines import to_onnx, to_openvino
from rayscale.inference.exported import (
    open_export,
    write_onnx,
    write_openvino,
    write_torch_export,
)
from rayscale.inference.flatfield import FlatField
from rayscale.models.network import SuperResolver
from rayscale.models.weights import save_model

Kind = Literal["onnx", "openvino", "torch-export", "triton", "mlflow"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ENDINGS: dict[Kind, str] = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
"""Of those that are a file; the others are folders."""
QUANTISED: tuple[Kind, ...] = ("onnx", "openvino", "triton")
"""Those that can hold int8."""


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        name: of the model, as Triton serves it.
        core: its layers (``SuperResolver.core``).
        facts: what the file says, see ``inference.exported``.
        tiles: what calibrates int8; None for float32.
    """

    name: str
    model: SuperResolver
    scale: float
    core: nn.Module
    facts: Mapping[str, str]
    tiles: Tiles | None


def write(kind: Kind, source: Source, target: Path) -> SuperResolver:
    """Write ``target``, a file or a folder, and return the network that it holds, read back."""
    if kind == "mlflow":
        return _write_mlflow(source, target)
    if kind == "torch-export":
        write_torch_export(source.core, source.model.channels, source.facts, target)
        return _open_program(source, target)
    file = target
    if kind == "openvino":
        network = to_openvino(source.core, source.model.channels)
        if source.tiles is not None:
            network = quantise_openvino(network, source.tiles)
        write_openvino(network, source.facts, file)
    else:
        layers = to_onnx(source.core, source.model.channels)
        if source.tiles is not None:
            layers = quantise_onnx(layers, source.tiles)
        if kind == "triton":
            file = target / source.name / "1" / "model.onnx"
            file.parent.mkdir(parents=True)
            (target / source.name / "config.pbtxt").write_text(_triton(source))
        write_onnx(layers, source.facts, file)
    return open_export(file).network


def move(kind: Kind, made: Path, target: Path) -> None:
    """Put what was written to its place, in place of what was there; of a Triton repository, other models stay."""
    if kind == "triton":
        (model,) = made.iterdir()
        made, target = model, target / model.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if made.is_dir():
        if target.exists():
            shutil.rmtree(target)
        shutil.move(made, target)
        return
    if kind == "openvino":  # the numbers first: a reader needs both
        made.with_suffix(".bin").replace(target.with_suffix(".bin"))
    made.replace(target)


def size_of(made: Path) -> int:
    """Bytes of a file, those that belong to it included, or of a folder."""
    files = made.rglob("*") if made.is_dir() else made.parent.glob(f"{made.stem}.*")
    return sum(path.stat().st_size for path in files if path.is_file())


def _triton(source: Source) -> str:
    """The configuration of a model for Triton's backend of ONNX Runtime; what the layers mean is in its parameters."""
    channels = source.model.channels
    lines = [
        f'name: "{source.name}"',
        'backend: "onnxruntime"',
        "max_batch_size: 0",
        f'input [{{ name: "x" data_type: TYPE_FP32 dims: [-1, {channels}, -1, -1] }}]',
        f'output [{{ name: "y" data_type: TYPE_FP32 dims: [-1, {channels}, -1, -1] }}]',
    ]
    for key, value in source.facts.items():
        if key != "rayscale.flatfield":  # which is long, and in the model file
            text = value.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'parameters {{ key: "{key}" value {{ string_value: "{text}" }} }}')
    return "\n".join(lines) + "\n"


def _write_mlflow(source: Source, target: Path) -> SuperResolver:
    """The folder of a registered version, for ``mlflow models serve`` where rayscale is installed."""
    from rayscale import __version__
    from rayscale.models.weights import load_model
    from rayscale.registry.flavor import WEIGHTS, write_folder

    weights = target.with_name("weights.safetensors")
    save_model(source.model, weights)
    write_folder(target, weights, source.model.spec)
    weights.unlink()
    (target / "requirements.txt").write_text(f"rayscale=={__version__}\n")
    return load_model(target / WEIGHTS)


class _Program:
    """A program of torch.export that this process has written, run by torch."""

    name = "torch-export"

    def __init__(self, path: Path) -> None:
        self._run = torch.export.load(str(path)).module()

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            y: Tensor = self._run(x.float())
        return y


def _open_program(source: Source, path: Path) -> SuperResolver:
    model, scale = source.model, source.scale
    return Compiled(
        model,
        scale,
        _Program(path),
        lambda channels, dtype: FlatField.measure(model, scale, channels, dtype),
    )
