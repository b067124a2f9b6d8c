"""Throughput of inference: LR megapixels per second, ours beside PyTorch, ONNX Runtime and OpenVINO.

    python benchmarks/inference.py                                  # EDSR-baseline x2, a 1024x768 image
    python benchmarks/inference.py --model vdsr --scale 2.5 --width 400 --height 300
    python benchmarks/inference.py --rounds 1 --width 256 --height 256 --tiles 128    # small, to see that it works

All measure the same network with fresh weights and count useful pixels only: ours give the exact result for the image,
in strips or in tiles with halo; the others are measured on what suits them best, without any halo: on tiles of the
sizes of --tiles (the best one counts), and as anyone would first try it, on the whole image in float32 NCHW. Rounds are
interleaved after one warm-up of each; medians of the rounds are printed as Markdown. ONNX Runtime and OpenVINO
take part where ``pip install onnx onnxruntime openvino`` put them; they are not a dependency of rayscale.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rayscale.evaluation.cost import describe_device
from rayscale.inference import Upscaler
from rayscale.inference.device import has_fast_bfloat16, pick_device
from rayscale.models.network import SuperResolver
from rayscale.models.systems import create_model
from rayscale.options import Options

STRIPS = "rayscale, strips"
BEST_TILE = "network on its best tile, no halo"
WHOLE = "torch float32 NCHW, whole image"

Work = Callable[[], object]


@dataclass
class Contestant:
    """One way to enlarge: ``works`` maps sizes in LR pixels, of which the fastest counts, to what is timed."""

    name: str
    precision: str
    works: dict[int, Work]
    rates: dict[int, list[float]] = field(default_factory=dict)

    def measure(self, *, record: bool) -> None:
        """Run each size once; its LR megapixels per second are kept when ``record``."""
        for pixels, work in self.works.items():
            start = time.perf_counter()
            work()
            seconds = time.perf_counter() - start
            if record:
                self.rates.setdefault(pixels, []).append(pixels / seconds / 1e6)

    @property
    def rate(self) -> float:
        """Median LR megapixels per second of the fastest size."""
        return max(statistics.median(rates) for rates in self.rates.values())


class Tiled(SuperResolver):
    """A network that does not show its path, so that it is run in tiles with halo."""

    def __init__(self, inner: SuperResolver) -> None:
        super().__init__(inner.spec)
        self.inner = inner

    def resolve_scale(self, scale: float | None) -> float:
        return self.inner.resolve_scale(scale)

    def enlarge(self, x: Tensor, scale: float) -> Tensor:
        return self.inner.enlarge(x, scale)

    def halo(self, scale: float) -> int:
        return self.inner.halo(scale)


@torch.inference_mode()
def run(model: SuperResolver, x: Tensor, scale: float, dtype: torch.dtype) -> None:
    """One pass of the network, waited for."""
    with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
        model(x, scale)
    if x.is_cuda:
        torch.cuda.synchronize()


def ours(model: SuperResolver, x: Tensor, options: argparse.Namespace) -> Iterator[Contestant]:
    """(a) strips and (b) tiles with halo, through ``Upscaler.predict``, and (c) the network without any halo."""
    device = pick_device(options.device)
    pixels = x.shape[2] * x.shape[3]
    for precision, bits in (("bfloat16", 8), ("float32", 16)):
        if precision == "bfloat16" and not has_fast_bfloat16(device):
            continue
        for name, network in ((STRIPS, model), ("rayscale, tiles with halo", Tiled(model))):
            upscaler = Upscaler(network, Options(scale=options.scale), device=options.device)
            yield Contestant(
                name, precision, {pixels: partial(upscaler.predictor.predict, x, bits=bits)}
            )
        tiles: dict[int, Work] = {
            side**2: partial(
                run,
                model,
                x.new_empty(1, x.shape[1], side, side)
                .uniform_(0, model.spec.value_range)
                .to(device)
                .contiguous(memory_format=torch.channels_last),
                options.scale,
                getattr(torch, precision),
            )
            for side in options.tiles
        }
        yield Contestant(BEST_TILE, precision, tiles)


def plain(x: Tensor, options: argparse.Namespace) -> Contestant:
    """(d) what anyone would write first."""
    device = pick_device(options.device)
    model = create_model(options.model, scale=options.scale).to(device).eval()
    work = partial(run, model, x.to(device), options.scale, torch.float32)
    return Contestant(WHOLE, "float32", {x.shape[2] * x.shape[3]: work})


class _AtScale(torch.nn.Module):
    """The network at one scale: a function of one tensor, as the exporter wants it."""

    def __init__(self, model: SuperResolver, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x, self.scale)
        return y


def to_onnx(options: argparse.Namespace, side: int) -> bytes:
    """The network as ONNX, for tiles ``(1, C, side, side)``."""
    model = create_model(options.model, scale=options.scale).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "network.onnx"
        torch.onnx.export(
            _AtScale(model, options.scale),
            (torch.zeros(1, model.channels, side, side),),
            file,
            input_names=["x"],
            dynamo=False,
        )
        return file.read_bytes()


def onnx_runtime(networks: dict[int, bytes], x: Tensor, threads: int) -> Contestant:
    """(e)"""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    works: dict[int, Work] = {}
    for side, network in networks.items():
        session = onnxruntime.InferenceSession(network, settings, ["CPUExecutionProvider"])
        tile = x.new_empty(1, x.shape[1], side, side).uniform_().numpy()
        works[side**2] = partial(session.run, None, {"x": tile})
    return Contestant(f"ONNX Runtime {onnxruntime.__version__}", "float32", works)


def openvino(networks: dict[int, bytes], x: Tensor, threads: int, precision: str) -> Contestant:
    """(f)"""
    import openvino as ov

    core = ov.Core()
    hints = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    works: dict[int, Work] = {}
    for side, network in networks.items():
        request = core.compile_model(core.read_model(network), "CPU", hints).create_infer_request()
        tile = x.new_empty(1, x.shape[1], side, side).uniform_().numpy()
        works[side**2] = partial(request.infer, {0: tile})
    return Contestant(f"OpenVINO {ov.__version__.split('-')[0]}", precision, works)


def others(x: Tensor, options: argparse.Namespace) -> Iterator[Contestant]:
    """(e) and (f); who cannot take part is named with the reason."""
    threads = torch.get_num_threads()
    try:
        import onnx  # noqa: F401  # torch's exporter would notice its absence only at the end

        networks = {side: to_onnx(options, side) for side in options.tiles}
    except (ImportError, TypeError) as error:  # TypeError: a network that cannot be traced, as VDSR
        print(f"without ONNX Runtime and OpenVINO: {error}")
        return
    makers: dict[str, Callable[[], Contestant]] = {
        "ONNX Runtime": lambda: onnx_runtime(networks, x, threads),
        "OpenVINO float32": lambda: openvino(networks, x, threads, "float32"),
        "OpenVINO bfloat16": lambda: openvino(networks, x, threads, "bfloat16"),
    }
    for name, make in makers.items():
        try:
            yield make()
        except ImportError as error:
            print(f"without {name}: {error}")


def table(contestants: list[Contestant]) -> str:
    """Markdown: every rate, and what strips of either precision are of it."""
    strips = {c.precision: c.rate for c in contestants if c.name == STRIPS}
    lines = [
        "| | precision | LR MP/s | " + " | ".join(f"strips {p} are" for p in strips) + " |",
        "|---|---|---|" + "---|" * len(strips),
    ]
    for c in contestants:
        ratios = " | ".join(f"{rate / c.rate:.2f} x" for rate in strips.values())
        lines.append(f"| {c.name} | {c.precision} | {c.rate:.3f} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="edsr-baseline", help="a system of `rayscale models`")
    parser.add_argument("--scale", type=float, default=2)
    parser.add_argument("--width", type=int, default=1024, help="of the image, in LR pixels")
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument(
        "--tiles", type=int, nargs="+", default=[128, 192, 256], help="sides without halo to try"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = create_model(options.model, scale=options.scale)
    if model.path(options.scale, model.channels) is None:
        parser.error(f"{options.model} has no path, so it runs in tiles only")
    x = torch.rand(1, model.channels, options.height, options.width) * model.spec.value_range
    contestants = [*ours(model, x, options), plain(x, options)]
    if pick_device(options.device).type == "cpu":
        contestants += others(x, options)
    for number in range(options.rounds + 1):
        for contestant in contestants:
            contestant.measure(record=number > 0)
    print(
        f"{options.model} x{options.scale:g}, {options.width}x{options.height} LR pixels, median of {options.rounds} "
        f"rounds, {describe_device(pick_device(options.device))}\n"
    )
    print(table(contestants))


if __name__ == "__main__":
    main()
