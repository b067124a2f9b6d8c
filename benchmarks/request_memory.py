"""Memory that one picture takes on its way through a replica or worker, beside what is estimated from its header.

    python benchmarks/request_memory.py
    python benchmarks/request_memory.py --side 4000 --model bicubic --container png

For each path (container, model, alpha, self-ensemble, back-projection) a process of its own loads the model, enlarges a small picture,
and then reads, enlarges and writes a square one: of noise, which no encoder shrinks, or with ``--flat`` of one colour.
The figures are the peak of its resident memory (VmHWM, reset before) less what it had, in MiB and in bytes per
pixel of the output. Exit code 1 when a path takes more than ``rayscale.inference.memory.working_bytes`` says.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

CONTAINERS = ("png", "jpeg", "webp", "tiff", "nifti")
MODELS = ("bicubic", "edsr-baseline-x2", "aplus-x2")


def status(field: str) -> int:
    """Bytes of a field of this process's memory."""
    (line,) = (
        text
        for text in Path("/proc/self/status").read_text().splitlines()
        if text.startswith(field)
    )
    return int(line.split()[1]) << 10


def measure(container: str, model: str, option: str, side: int, flat: bool) -> None:
    """Print extra and estimated bytes of one path."""
    import numpy as np

    from rayscale.imaging import Image, Provenance, probe, read_image, write_image
    from rayscale.inference import Upscaler
    from rayscale.inference.memory import working_bytes
    from rayscale.models.builtin import open_builtin
    from rayscale.options import Options

    def picture(side: int) -> bytes:
        if container == "nifti":
            import nibabel

            values = np.random.default_rng(0).integers(-999, 999, (side, side, 2), np.int16)
            return bytes(nibabel.Nifti1Image(values, np.eye(4)).to_bytes())
        shape = (side, side, 3)
        values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        pixels = np.full(shape, 90, np.uint8) if flat else values
        alpha = values[:, :, 0].copy() if option == "alpha" else None
        return write_image(Image(pixels, container=container, alpha=alpha))

    options = {option: True} if option in ("ensemble", "consistency") else {}
    upscaler = Upscaler(open_builtin(model).network, Options(scale=2, **options))  # type: ignore[arg-type]
    provenance = Provenance(model, "none", {})

    def enlarge(data: bytes) -> None:
        write_image(upscaler.upscale(read_image(data)), provenance)

    enlarge(picture(64))
    data = picture(side)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    enlarge(data)
    extra = status("VmHWM") - before
    print(extra, working_bytes(probe(data), 2, windowed=upscaler.frames.windowed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--side", type=int, default=1500)
    parser.add_argument("--container", nargs="*", default=CONTAINERS)
    parser.add_argument("--model", nargs="*", default=MODELS)
    parser.add_argument(
        "--option", nargs="*", default=("plain", "alpha", "ensemble", "consistency")
    )
    parser.add_argument("--flat", action="store_true", help="one colour instead of noise")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        container, model, option = arguments.one
        measure(container, model, option, arguments.side, arguments.flat)
        return
    print(
        f"{'container':10} {'model':18} {'option':12} {'MiB':>7} {'estimate':>9} {'bytes/pixel':>12}"
    )
    short = False
    for container, model, option in itertools.product(
        arguments.container, arguments.model, arguments.option
    ):
        if (option == "alpha" and container not in ("png", "webp", "tiff")) or (
            option == "consistency" and container == "jpeg"
        ):
            continue
        if container == "nifti" and model.startswith("edsr"):
            continue  # a network of three channels
        command = [sys.executable, __file__, "--side", str(arguments.side)]
        command += ["--flat"] * arguments.flat + ["--one", container, model, option]
        run = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
        extra, estimate = map(int, run.stdout.split())
        pixels = (2 * arguments.side) ** 2 * (2 if container == "nifti" else 1)
        mark = "  over the estimate" if extra > estimate else ""
        short = short or extra > estimate
        print(
            f"{container:10} {model:18} {option:12} {extra >> 20:7} {estimate >> 20:9} {extra / pixels:12.1f}{mark}",
            flush=True,
        )
    sys.exit(short)


if __name__ == "__main__":
    main()
