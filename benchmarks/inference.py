"""Throughput of inference: LR megapixels per second, ours beside PyTorch, ONNX Runtime, OpenVINO and a loop of tiles.

    python benchmarks/inference.py                                  # EDSR-baseline x2, a 768x192 image, 9 rounds
    python benchmarks/inference.py --threads 1 --clock cpu          # CPU seconds of one thread: for a machine that others use
    python benchmarks/inference.py --model vdsr --scale 2.5 --width 400 --height 300
    python benchmarks/inference.py --rounds 1 --width 256 --height 256 --tiles 128    # small, to see that it works

All measure the same network with fresh weights and count useful pixels only. Ours give the exact result for the image, in
strips or in tiles with halo; the others are measured on what suits them best, without any halo: on tiles of the sizes of
--tiles (the best one counts), and as anyone would first try it, on the whole image in float32 NCHW. "Loop of tiles" is what
BasicSR and Real-ESRGAN do: float32 NCHW, tiles of 256 with 10 pixels around, which leaves seams.

A shared machine changes its speed within a minute. So rounds are short and many, each measures every contestant once, in an
order of its own, and what counts is the ratio of two in the same round: its median and quartiles over the rounds. "One
convolution" is the machine's own rate for the layer that most of the work is (64 to 64 maps, 3 x 3, one strip): how much of
it a whole network reaches, counted in the multiplications that our folded path needs.
ONNX Runtime and OpenVINO take part where the extras put them (pip install 'rayscale[onnx,openvino]').
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from rayscale.errors import RayscaleError
from rayscale.evaluation.cost import describe_device
from rayscale.inference import Upscaler
from rayscale.inference.device import has_fast_bfloat16, pick_device
from rayscale.inference.engines import to_onnx
from rayscale.inference.folding import fold
from rayscale.models.network import SuperResolver
from rayscale.models.systems import create_model
from rayscale.options import Options

STRIPS = "rayscale, strips"
BEST_TILE = "network on its best tile, no halo"
WHOLE = "torch float32 NCHW, whole image"
LOOP = "loop of tiles, torch float32 NCHW"
CONVOLUTION = "one convolution, all else free"

Work = Callable[[], object]


@dataclass
class Contestant:
    """One way to enlarge: ``works`` maps sizes in LR pixels, of which the fastest counts, to what is timed."""

    name: str
    precision: str
    works: dict[int, Work]
    rates: dict[int, list[float]] = field(default_factory=dict)

    def measure(self, clock: Callable[[], float], *, record: bool) -> None:
        """Run each size once; its LR megapixels per second are kept when ``record``."""
        for pixels, work in self.works.items():
            start = clock()
            work()
            seconds = clock() - start
            if record:
                self.rates.setdefault(pixels, []).append(pixels / seconds / 1e6)

    @property
    def rounds(self) -> list[float]:
        """LR megapixels per second of the fastest size, round by round."""
        return max(self.rates.values(), key=statistics.median)

    @property
    def rate(self) -> float:
        """Their median."""
        return statistics.median(self.rounds)


def quartiles(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Of the ratios round by round: the first quarter, the median and the third."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    if len(ratios) == 1:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return low, middle, high


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


def plain(x: Tensor, options: argparse.Namespace) -> Iterator[Contestant]:
    """(d) what anyone would write first, and the loop of tiles."""
    device = pick_device(options.device)
    model = create_model(options.model, scale=options.scale).to(device).eval()
    pixels = x.shape[2] * x.shape[3]
    work = partial(run, model, x.to(device), options.scale, torch.float32)
    yield Contestant(WHOLE, "float32", {pixels: work})
    yield Contestant(LOOP, "float32", {pixels: partial(loop, model, x.to(device), options.scale)})


def loop(model: SuperResolver, x: Tensor, scale: float, side: int = 256, around: int = 10) -> None:
    """Tiles with a margin too small for the network, as other toolkits cut them."""
    for top in range(0, x.shape[2], side):
        for left in range(0, x.shape[3], side):
            rows = slice(max(top - around, 0), top + side + around)
            columns = slice(max(left - around, 0), left + side + around)
            run(model, x[..., rows, columns].contiguous(), scale, torch.float32)


def one_convolution(model: SuperResolver, options: argparse.Namespace) -> Iterator[Contestant]:
    """The rate of a network that is nothing but its widest square convolution, as often as its multiplications ask for."""
    path = model.path(options.scale, model.channels)
    assert path is not None
    layers = [each for each in fold(path).modules() if isinstance(each, torch.nn.Conv2d)]
    square = [each for each in layers if each.in_channels == each.out_channels]
    if not square or model.any_channels:  # those work at another size
        return
    layer = max(square, key=lambda each: each.weight.numel())
    times = multiplications(fold(path)) / layer.weight.numel()
    device = pick_device(options.device)
    for precision in ("bfloat16", "float32"):
        if precision == "bfloat16" and not has_fast_bfloat16(device):
            continue
        kind = getattr(torch, precision)
        strip = torch.rand(1, layer.in_channels, 50, 1024, dtype=kind, device=device)
        strip = strip.contiguous(memory_format=torch.channels_last)
        weight = layer.weight.detach().to(device, kind)
        weight = weight.contiguous(memory_format=torch.channels_last)
        yield Contestant(
            CONVOLUTION, precision, {int(50 * 1024 / times): partial(convolve, strip, weight)}
        )


def multiplications(path: torch.nn.Module) -> int:
    """Per LR pixel, of a folded path that works at LR size but for what follows its shuffle."""
    total = sum(
        each.weight.numel()
        for name, each in path.named_modules()
        if isinstance(each, torch.nn.Conv2d) and ".layers." not in name
    )
    return total + sum(
        int(each.numel())
        for name, each in path.named_buffers()
        if ".weight" in name and each.ndim == 4 and each.shape[2] > 1
    )


@torch.inference_mode()
def convolve(strip: Tensor, weight: Tensor) -> None:
    """One call, waited for."""
    torch.nn.functional.conv2d(strip, weight, padding=weight.shape[2] // 2)
    if strip.is_cuda:
        torch.cuda.synchronize()


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


def others(model: SuperResolver, x: Tensor, options: argparse.Namespace) -> Iterator[Contestant]:
    """(e) and (f); who cannot take part is named with the reason."""
    threads = torch.get_num_threads()
    core = model.core(options.scale)
    if core is None or model.any_channels:
        print("without ONNX Runtime and OpenVINO: their network is on luma at the target size")
        return
    try:
        network = to_onnx(core, model.channels)
    except RayscaleError as error:
        print(f"without ONNX Runtime and OpenVINO: {error}")
        return
    networks = dict.fromkeys(options.tiles, network)
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
    """Markdown: every rate, and what strips of either precision are of it, round by round."""
    strips = {c.precision: c for c in contestants if c.name == STRIPS}
    lines = [
        "| | precision | LR MP/s | " + " | ".join(f"strips {p} are" for p in strips) + " |",
        "|---|---|---|" + "---|" * len(strips),
    ]
    for c in contestants:
        cells = []
        for each in strips.values():
            low, middle, high = quartiles(each.rounds, c.rounds)
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {c.name} | {c.precision} | {c.rate:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="edsr-baseline", help="a system of `rayscale models`")
    parser.add_argument("--scale", type=float, default=2)
    parser.add_argument("--width", type=int, default=768, help="of the image, in LR pixels")
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument(
        "--tiles", type=int, nargs="+", default=[128, 192, 256], help="sides without halo to try"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="of every contestant; default: torch's")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: seconds of all threads"
    )
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time

    torch.manual_seed(0)
    model = create_model(options.model, scale=options.scale)
    if model.path(options.scale, model.channels) is None:
        parser.error(f"{options.model} has no path, so it runs in tiles only")
    x = torch.rand(1, model.channels, options.height, options.width) * model.spec.value_range
    contestants = [*ours(model, x, options), *plain(x, options), *one_convolution(model, options)]
    if pick_device(options.device).type == "cpu":
        contestants += others(model, x, options)
    order = random.Random(0)
    for number in range(options.rounds + 1):
        for contestant in order.sample(contestants, len(contestants)):
            contestant.measure(clock, record=number > 0)
    print(
        f"{options.model} x{options.scale:g}, {options.width}x{options.height} LR pixels, {options.rounds} rounds, "
        f"{options.clock} seconds, {describe_device(pick_device(options.device))}; ratios: median (quartiles)\n"
    )
    print(table(contestants))


if __name__ == "__main__":
    main()
