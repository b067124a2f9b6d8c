"""Everything that is to be known of a GPU, by one command: training step, inference, full memory.

    python benchmarks/gpu.py                        # on a machine with a GPU: about ten minutes
    python benchmarks/gpu.py --device cpu --small   # a dry run, to see that it works
    python benchmarks/gpu.py --output gpu.md        # the tables as Markdown

- **Matrix product**: the machine's own bfloat16 rate, which all else is compared with.
- **Inference**: source megapixels per second of EDSR-baseline and EDSR at x2 and x4, exact halo: float32 NCHW on the whole image,
  which is what anyone writes first; strips as `rayscale upscale` runs them; tiles in batches, plain, compiled by
  `torch.compile`, and as a CUDA graph with pinned transfers that overlap. The target is 6 times the first.
- **Training step** beside the official recipe (as benchmarks/train_step.py); the target is 4 times.
- **Full memory**: the same picture with a hundredth of the memory must come out, in smaller parts, with the same values.

FP8 has no convolution in PyTorch, so it is not measured. What a device cannot do is named and left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.train_step import official, rate
from torch import Tensor, nn

from rayscale.data import Batch
from rayscale.evaluation.cost import SIDE, count, describe_device
from rayscale.inference import Options, Upscaler
from rayscale.inference.device import has_fast_bfloat16, pick_device
from rayscale.inference.folding import fold
from rayscale.inference.tiles import Tile
from rayscale.models.network import SuperResolver
from rayscale.models.systems import create_model
from rayscale.training.config import load_config
from rayscale.training.step import Trainer

Row = tuple[str, ...]


class Tiles:
    """An image cut into equal tiles with exact halo, enlarged in batches."""

    def __init__(
        self, path: nn.Module, image: Tensor, scale: int, halo: int, core: int, batch: int
    ) -> None:
        self.path, self.image, self.scale, self.halo, self.batch = path, image, scale, halo, batch
        self.core = core
        height, width = image.shape[-2:]
        spans = Tile.whole(height, width).cut(core, 0, 1, (height, width))
        self.places = [(each.rows.start, each.columns.start) for each in spans]
        padded = nn.functional.pad(image, (halo, halo + core, halo, halo + core))
        # Zeros beyond the border are what the first layer sees there, but not the others: rates only.
        self.parts = padded.pin_memory() if torch.cuda.is_available() else padded

    def batches(self) -> Iterator[Tensor]:
        """Tiles on the CPU, ``batch`` at a time, the last filled up so that all have one shape."""
        side = self.core + 2 * self.halo
        for start in range(0, len(self.places), self.batch):
            some = self.places[start : start + self.batch]
            some = some + some[-1:] * (self.batch - len(some))
            yield torch.cat([self.parts[..., y : y + side, x : x + side] for y, x in some])

    def run(self, compute: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """All tiles to the device and back; while one batch is computed the next is on its way."""
        waiting: Tensor | None = None
        for tiles in self.batches():
            on_device = tiles.to(device, non_blocking=True)
            y = compute(on_device.contiguous(memory_format=torch.channels_last))
            if waiting is not None:
                waiting.to("cpu", non_blocking=True)
            waiting = y
        if waiting is not None:
            waiting.cpu()
        wait(device)


def wait(device: torch.device) -> None:
    """Until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def matrix_rate(device: torch.device, side: int) -> float:
    """TFLOP/s of a large product in bfloat16."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        a @ a
        wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start) / 1e12)
    return best


@torch.inference_mode()
def plain(model: SuperResolver, x: Tensor, scale: int, device: torch.device) -> None:
    """Float32 NCHW, the whole image."""
    model(x.to(device), scale).cpu()


def as_graph(compute: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """A CUDA graph of ``compute`` for tensors of one shape."""
    static = example.clone()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            compute(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = compute(static)

    def replay(x: Tensor) -> Tensor:
        static.copy_(x)
        graph.replay()
        return made.clone()

    return replay


def contenders(
    system: str, scale: int, x: Tensor, device: torch.device, options: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Ways to enlarge ``x``, by name; what a device cannot do raises when it is first tried."""
    model = create_model(system, scale=scale).eval()
    yield (
        "float32 NCHW, whole image",
        partial(plain, create_model(system, scale=scale).to(device).eval(), x, scale, device),
    )
    upscaler = Upscaler(model, Options(scale=scale), device=str(device), calibrate=False)
    yield "rayscale, strips", partial(upscaler.predictor.predict, x, bits=8)
    path = model.path(scale, 3)
    assert path is not None
    folded = fold(path).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tiles = Tiles(folded, x, scale, model.halo(scale), options.core, options.batch)
    narrow = has_fast_bfloat16(device)

    @torch.inference_mode()
    def compute(part: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=narrow, cache_enabled=False):
            y: Tensor = folded(part)
        return y

    yield "tiles in batches", partial(tiles.run, compute, device)
    if options.compile:
        yield "tiles, torch.compile", partial(tiles.run, torch.compile(compute), device)
    if device.type == "cuda":
        side = options.core + 2 * tiles.halo
        example = torch.zeros(options.batch, 3, side, side, device=device)
        example = example.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            yield "tiles, CUDA graph", partial(tiles.run, as_graph(compute, example), device)


def inference(device: torch.device, options: argparse.Namespace, peak: float) -> Iterator[Row]:
    """A row for each network, scale and way: MP/s, the ratio to float32 NCHW round by round, the share of the matrix product."""
    for system in options.systems:
        for scale in options.scales:
            x = torch.rand(1, 3, options.height, options.width) * 255
            pixels = options.height * options.width
            ways = dict(contenders(system, scale, x, device, options))
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for number in range(options.rounds + 1):
                for name, work in list(ways.items()):
                    start = time.perf_counter()
                    try:
                        work()
                        wait(device)
                    except Exception as error:
                        del ways[name], seconds[name]
                        print(f"without {name} of {system} x{scale}: {str(error).splitlines()[0]}")
                        continue
                    if number:
                        seconds[name].append(time.perf_counter() - start)
            first = seconds.get("float32 NCHW, whole image")
            flops = 2 * count(create_model(system, scale=scale).spec, scale).macs / SIDE**2 * pixels
            for name, taken in seconds.items():
                median = statistics.median(taken)
                ratios = [a / b for a, b in zip(first or [], taken, strict=False)]
                ratio = f"{statistics.median(ratios):.2f}" if ratios else "-"
                share = f"{flops / median / 1e12 / peak:.2f}"
                yield f"{system} x{scale}", name, f"{pixels / median / 1e6:.3f}", ratio, share


def training(device: torch.device, options: argparse.Namespace) -> Iterator[Row]:
    """Steps/s of the official recipe and of ours, and their ratio, round by round."""
    for system in options.systems:
        config = load_config(
            None, [f"model.name={system}", f"data.batch={options.train_batch}", "guard.spike=0"]
        )
        model = create_model(system, scale=2)
        sides = (options.patch, 2 * options.patch)
        lr, hr = (
            torch.randint(0, 256, (options.train_batch, 3, n, n), dtype=torch.uint8) for n in sides
        )
        batch = Batch(lr, hr, 2)
        steps = (
            official(model, batch, device),
            partial(Trainer(config, model, peak=255, device=device).advance, batch),
        )
        for step in steps:
            rate(step, 2, device)
        rounds = [
            [rate(step, options.steps, device) for step in steps] for _ in range(options.rounds)
        ]
        theirs, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(own / base for base, own in rounds)
        yield f"{system} x2", f"{theirs:.2f}", f"{ours:.2f}", f"{ratio:.2f}"


def full_memory(device: torch.device, options: argparse.Namespace) -> str:
    """The picture with little memory, compared with that of all of it."""
    if device.type != "cuda":
        return "not tried: the limit is one of CUDA"
    model = create_model(options.systems[0], scale=2)
    x = torch.rand(1, 3, options.height, options.width) * 255
    predictor = Upscaler(
        model, Options(scale=2, precision="float32"), device=str(device), calibrate=False
    ).predictor
    whole = predictor.predict(x)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        little = predictor.predict(x)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return f"largest difference {(whole - little).abs().max().item():g} of 255"


def table(head: Row, rows: Iterator[Row]) -> str:
    """Markdown, printed row by row."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    print("\n".join(lines), flush=True)
    for row in rows:
        lines.append(f"| {' | '.join(row)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--systems", nargs="+", default=["edsr-baseline", "edsr"])
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--small", action="store_true", help="little of everything: a dry run")
    parser.add_argument("--output", type=Path, help="file for the tables")
    options = parser.parse_args()
    sizes = {"width": 1920, "height": 1080, "core": 256, "batch": 8, "rounds": 7, "steps": 20}
    more = {"train_batch": 16, "patch": 48, "matrix": 8192, "compile": True}
    if options.small:
        sizes = {"width": 40, "height": 32, "core": 24, "batch": 2, "rounds": 1, "steps": 1}
        more = {"train_batch": 1, "patch": 12, "matrix": 128, "compile": False}
    vars(options).update(sizes | more)
    device = pick_device(options.device)
    torch.manual_seed(0)
    peak = matrix_rate(device, options.matrix)
    parts = [
        f"{describe_device(device)}: {peak:.1f} TFLOP/s in a bfloat16 product of {options.matrix}"
    ]
    print(parts[0])
    head = ("network", "way", "source MP/s", "x float32 NCHW", "of the product")
    parts.append(table(head, inference(device, options, peak)))
    parts.append(table(("network", "official steps/s", "ours", "ratio"), training(device, options)))
    parts.append(f"A hundredth of the memory: {full_memory(device, options)}")
    print(parts[-1])
    if options.output is not None:
        options.output.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
