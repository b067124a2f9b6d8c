"""Parts of an image where memory is short: halved as often as needed, and the result that of the whole image."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from rayscale.errors import OutOfMemoryError
from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.options import SMALLEST_TILE, Options

pytestmark = pytest.mark.usefixtures("one_thread")

FULL = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("could not create a primitive"),
]


def _limited(stage: torch.nn.Module, pixels: int, error: Exception) -> list[int]:
    """Let ``stage`` raise ``error`` for more than ``pixels`` at once; the sizes that it is asked for."""
    asked: list[int] = []

    def look(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        asked.append(inputs[0].shape[-2] * inputs[0].shape[-1])
        if asked[-1] > pixels:
            raise error

    stage.register_forward_pre_hook(look)
    return asked


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_strips_that_do_not_fit_are_made_smaller(error):
    model = create_model("edsr-baseline", scale=2, blocks=2, filters=4)
    x = torch.rand(1, 3, 60, 300) * 255
    expected = Upscaler(model, Options(scale=2, precision="float32")).predictor.predict(x)
    asked = _limited(model.sub_mean, 3000, error)
    found = Upscaler(model, Options(scale=2, precision="float32")).predictor.predict(x)
    assert (found - expected).abs().max() <= 1e-3
    failed = [size for size in asked if size > 3000]
    assert failed == sorted(failed, reverse=True)
    assert asked[: len(failed)] == failed  # what follows is small from the start
    # The whole, the whole again as half a panel would hold it too, then in two and in four.
    assert len(failed) == 4


def test_tiles_that_do_not_fit_are_made_smaller():
    model = create_model("meta-edsr", blocks=1, filters=4)
    x = torch.rand(1, 3, 90, 200) * 255
    expected = Upscaler(model, Options(scale=1.5, precision="float32")).predictor.predict(x)
    asked = _limited(model, 4000, MemoryError())
    found = Upscaler(model, Options(scale=1.5, precision="float32", tile=96)).predictor.predict(x)
    assert (found - expected).abs().max() <= 1e-3
    assert sum(size > 4000 for size in asked) == 1


def test_the_smallest_part_is_the_last_try():
    model = create_model("bicubic")
    asked = _limited(model, 0, MemoryError())
    with pytest.raises(
        OutOfMemoryError, match=rf"bicubic x2 .* memory of cpu .* {SMALLEST_TILE} pixels"
    ) as caught:
        Upscaler(model, Options(scale=2, tile=64)).predictor.predict(torch.rand(1, 1, 40, 40))
    assert caught.value.code == "out_of_memory"
    assert len(asked) == 3  # 64, 32, 16


def test_other_errors_pass():
    model = create_model("edsr-baseline", scale=2, blocks=1, filters=4)
    asked = _limited(model.sub_mean, 0, RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        Upscaler(model, Options(scale=2)).predictor.predict(torch.rand(1, 3, 9, 9))
    assert len(asked) == 1


def test_whoever_watches_can_end_the_work():
    class EnoughError(Exception):
        pass

    seen: list[int] = []

    def watch() -> None:
        seen.append(1)
        if len(seen) == 3:
            raise EnoughError

    for name in ("edsr-baseline", "bicubic"):
        seen.clear()
        model = create_model(name, scale=2)
        with pytest.raises(EnoughError):
            Upscaler(model, Options(scale=2, tile=16), watch=watch).predictor.predict(
                torch.rand(1, 3, 100, 100)
            )
        assert len(seen) == 3
    seen.clear()  # also within a picture of one strip
    with pytest.raises(EnoughError):
        Upscaler(
            create_model("edsr-baseline", scale=2), Options(scale=2), watch=watch
        ).predictor.predict(torch.rand(1, 3, 9, 9))


_SCRIPT = """
import json, resource
import torch
from rayscale.inference import Options, Upscaler
from rayscale.models.systems import create_model

torch.set_num_threads(1)
torch.manual_seed(0)
model = create_model("srresnet", scale=4, blocks=1)
x = torch.rand(1, 3, 16, 1000) * 255
asked = []
upscaler = Upscaler(model, Options(scale=4, precision="float32"), watch=lambda: asked.append(1))
expected = upscaler.predictor.predict(x)
usual = len(asked)
outcomes = []
for spare in range(110, 30, -20):
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (spare << 20), resource.RLIM_INFINITY))
    asked.clear()
    found = upscaler.predictor.predict(x)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    halved = len(asked) > usual
    outcomes.append([spare, halved, (found - expected).abs().max().item()])
    if halved:
        break
print(json.dumps(outcomes))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit that Linux keeps")
def test_a_real_limit_of_memory_is_survived():
    """The address space of a process is limited more and more, until the usual strip fits no longer."""
    # What is freed goes back at once, so that the limit is on what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert outcomes[-1][1], outcomes
    assert max(apart for *_, apart in outcomes) <= 1e-3
