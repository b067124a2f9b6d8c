"""Whatever computes the layers, the picture is the same within the rounding of its precision."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from rayscale.errors import ConfigError, UnsupportedError
from rayscale.inference import Options, Upscaler
from rayscale.inference.device import has_fast_bfloat16
from rayscale.models.builtin import open_builtin
from rayscale.models.systems import create_model

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("openvino", reason="needs the extra openvino")

BACKENDS = ("openvino", "onnxruntime")


@pytest.mark.parametrize(
    ("backend", "precision", "channels"),
    [("openvino", "float32", 1), ("openvino", "auto", 1), ("onnxruntime", "auto", 3)],
)
def test_a_backend_changes_nothing_but_rounding(
    backend: str, precision: str, channels: int
) -> None:
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2, filters=16, blocks=2, channels=channels).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, channels), np.uint8)
    made = [
        Upscaler(model, Options.of({"precision": precision, "tile": 32, "backend": each}))
        for each in ("torch", backend)
    ]
    want, found = (each.upscale_pixels(pixels).astype(int) for each in made)
    narrow = precision == "auto" and has_fast_bfloat16(torch.device("cpu"))
    assert np.abs(want - found).max() <= (3 if narrow else 1)


def test_tiles_of_a_backend_leave_no_seam() -> None:
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2, filters=16, blocks=2).eval()
    x = torch.rand(1, 3, 64, 80) * 255
    whole, parts = (
        Upscaler(model, Options(backend="onnxruntime", tile=tile)).predictor.predict(x)
        for tile in (512, 16)
    )
    assert torch.allclose(whole, parts, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_layers_is_named(backend: str) -> None:
    with pytest.raises(UnsupportedError, match=f"bicubic is not made of layers .*{backend}"):
        Upscaler(open_builtin("bicubic").network, Options.of({"backend": backend}))


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ConfigError, match="backend must be one of auto, torch, openvino"):
        Options.of({"backend": "tensorrt"})


_CTRL_C = """
import os, signal, sys
import torch
from rayscale.inference.engines import OpenVino, to_openvino

engines = [OpenVino(to_openvino(torch.nn.Conv2d(1, 1, 3), 1)) for _ in range(2)]
for engine in engines:
    engine(torch.zeros(1, 1, 8, 8))
del engine
engines.pop(0)
engines.pop(0)
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    sys.exit(7)
"""


def test_ctrl_c_reaches_a_process_that_has_used_openvino() -> None:
    """Of two networks, the first is gone before the second: OpenVINO alone would leave a stack for signals that is gone too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", _CTRL_C],
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 7
