"""Networks in integers of 8 bits: the convolutions of the trunk alone, which are nearly all of the work.

Head, tail, mean shift and the additions of skips stay floats: quantised as well, EDSR-baseline loses 0.7 dB, with them as floats
0.00 to 0.01 (docs/lab.md). The trunk is what goes from many maps to as many.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayscale import extras
from rayscale.errors import ConfigError, InputError, UnsupportedError, quantity
from rayscale.imaging import is_image, read_image
from rayscale.imaging.levels import Levels
from rayscale.inference.engines import openvino
from rayscale.interruption import keep_signal_stack
from rayscale.models.network import SuperResolver

Tiles = list[NDArray[np.float32]]

SIDE = 96
"""Of the tiles that calibrate."""
MOST_TILES = 64
_FEWEST_MAPS = 16  # of a convolution that is worth it


@torch.inference_mode()
def read_tiles(folder: Path, model: SuperResolver, scale: float) -> Tiles:
    """What the core of ``model`` sees of the images of a folder, low-resolution ones: the middle of up to 64, evenly chosen.

    Raises ConfigError when none has the channels of the model.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; calibration takes one of images")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if _looks_like_image(path)]
    chosen = files[:: max(1, len(files) // MOST_TILES)][:MOST_TILES]
    seen = _Seen()
    for path in chosen:
        try:
            image = read_image(path.read_bytes())
        except InputError:
            continue
        pixels = image.pixels
        if pixels.ndim != 3 or (pixels.shape[2] != model.channels and not model.any_channels):
            continue
        levels = image.levels or Levels.of_picture(pixels)
        top, left = (max(side - SIDE, 0) // 2 for side in pixels.shape[:2])
        part = levels.to_network(
            pixels[top : top + SIDE, left : left + SIDE], model.spec.value_range
        )
        x = torch.tensor(part.transpose(2, 0, 1)[None])
        model.around(seen, scale, x.shape[1])(x)
    if not seen.tiles:
        raise ConfigError(
            f"{folder} has no image of {quantity(model.channels, 'channel')} among {quantity(len(files), 'file')}; give a folder "
            "of low-resolution images as they will be enlarged"
        )
    return seen.tiles


class _Seen(nn.Module):
    """Stands for a core and keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.tiles: Tiles = []

    def forward(self, x: Tensor) -> Tensor:
        self.tiles += [each[None].numpy().copy() for each in x]
        return x


def _looks_like_image(path: Path) -> bool:
    with path.open("rb") as file:
        return is_image(path.name, file.read)


def quantise_openvino(model: Any, tiles: Tiles) -> Any:
    """A model of OpenVINO, its trunk in int8, calibrated on ``tiles``."""
    openvino()
    nncf = extras.load("nncf", "openvino")
    trunk = {each.get_friendly_name() for each in model.get_ordered_ops() if _in_trunk(each)}
    _check(trunk)
    others = [
        each.get_friendly_name()
        for each in model.get_ordered_ops()
        if each.get_type_name() in ("Convolution", "Add", "Multiply", "Subtract")
        and each.get_friendly_name() not in trunk
        and not _is_bias(each, trunk)
    ]
    with _quiet(), keep_signal_stack():
        return nncf.quantize(
            model,
            nncf.Dataset(tiles),
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),
            subset_size=len(tiles),
        )


def _in_trunk(operation: Any) -> bool:
    if operation.get_type_name() != "Convolution":
        return False
    return _is_square(list(operation.input(1).get_partial_shape().to_shape()))


def _is_bias(operation: Any, trunk: set[str]) -> bool:
    """Whether an addition is the bias of a convolution of the trunk."""
    before = [each.get_source_output().get_node() for each in operation.inputs()]
    kinds = {each.get_type_name() for each in before}
    return "Constant" in kinds and any(each.get_friendly_name() in trunk for each in before)


def quantise_onnx(network: bytes, tiles: Tiles) -> bytes:
    """ONNX, its trunk in int8 between quantisation nodes (QDQ), calibrated on ``tiles``."""
    onnx = extras.load("onnx", "onnx")
    runtime = extras.load("onnxruntime.quantization", "onnx")
    graph = onnx.load_from_string(network).graph
    shapes = {each.name: list(each.dims) for each in graph.initializer}
    trunk = [
        node.name
        for node in graph.node
        if node.op_type == "Conv" and _is_square(shapes[node.input[1]])
    ]
    _check(trunk)

    class Reader(runtime.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self, tiles: Sequence[Any]) -> None:
            self._tiles: Iterator[Any] = iter(tiles)

        def get_next(self) -> dict[str, Any] | None:
            tile = next(self._tiles, None)
            return None if tile is None else {graph.input[0].name: tile}

    with tempfile.TemporaryDirectory() as scratch, _quiet():
        source, target = Path(scratch, "float32.onnx"), Path(scratch, "int8.onnx")
        source.write_bytes(network)
        runtime.quantize_static(
            str(source),
            str(target),
            Reader(tiles),
            nodes_to_quantize=trunk,
            per_channel=True,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"]},
        )
        return target.read_bytes()


def _is_square(shape: Sequence[int]) -> bool:
    """Whether a convolution ``(C_out, C_in, k, k)`` goes from many maps to as many."""
    return shape[0] == shape[1] >= _FEWEST_MAPS


def _check(trunk: Sequence[str] | set[str]) -> None:
    if not trunk:
        raise UnsupportedError(
            f"int8 is for convolutions from {_FEWEST_MAPS} or more maps to as many, of which this network has none; export it "
            "in float32"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and remarks of a library."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
