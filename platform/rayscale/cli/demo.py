"""``rayscale demo``: the whole product path once, on this machine, with real parts.

A bucket of photographs becomes shards, a short EDSR training, a registered model, an upscaled bucket and an
HTTP answer, each by the command a user would type. The photographs come from installed packages.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rayscale import extras, local, strictjson
from rayscale.cli.console import print_table
from rayscale.errors import RayscaleError
from rayscale.interruption import shield
from rayscale.resampling import degrade, enlarge
from rayscale.settings import get_settings

BUCKET = "s3://rayscale/demo"
MODEL = "demo-edsr"
BUNDLED = "edsr-baseline"  # comes with rayscale, trained by the same commands
SCALE = 2

# Photographs that come with scikit-image and scikit-learn (a dependency of MLflow).
TRAINING = {
    "skimage.data": (
        "motorcycle_left.png",
        "rocket.jpg",
        "retina.jpg",
        "ihc.png",
        "hubble_deep_field.jpg",
    ),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
}
HELD_OUT = {"skimage.data": ("astronaut.png", "chelsea.png", "coffee.png")}

# A small EDSR, small patches and a short cosine schedule: a minute on two cores. The defaults of the job are the
# paper's recipe, which takes days on a GPU.
RECIPE = (
    "model.blocks=4",
    "model.filters=32",
    "data.patch=24",
    "data.batch=8",
    "optimizer.lr=2e-3",
    "optimizer.schedule=cosine",
    "logging.every=100",
)

_GRACE_S = 10.0  # for a command to end in order

console = Console(stderr=True)


@dataclass
class Story:
    """What the demo saw: seconds per step, scores per model, and where things lie."""

    seconds: dict[str, float] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step and take its time."""
        console.rule(f"[bold]{len(self.seconds) + 1}  {title}", align="left")
        start = time.monotonic()
        yield
        self.seconds[title] = time.monotonic() - start


def run(*, steps: int = 600, keep: bool = False) -> None:
    """Run the demo; the local stack is stopped at the end, at Ctrl-C and at failure, unless ``keep``."""
    extras.load("skimage", "local")
    home = get_settings().home
    services = local.status(home)
    was_running = bool(services) and all(service.running for service in services)
    try:
        _run(home, steps)
    finally:
        if not (keep or was_running):
            with shield():  # whatever the user presses, no process is left
                console.print("stopping the local stack ...")
                local.down(home)


def _run(home: Path, steps: int) -> None:
    story, out = Story(), home / "demo"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    with story.step("Start S3, MLflow and Ray"):
        addresses = local.up(home, progress=console.print)
        os.environ.update(local.environment(home))
    with story.step("Put photographs into the bucket"):
        _put_photographs()
    with story.step("Prepare shards: rayscale prepare"):
        _call("rayscale", "prepare", f"{BUCKET}/images", f"{BUCKET}/dataset",
              "--scales", str(SCALE), "--images-per-shard", "4")  # fmt: skip
    with story.step("Train EDSR: ray job submit -- rayscale train"):
        settings = (
            *RECIPE,
            f"data.uri={BUCKET}/dataset",
            f"run.uri={BUCKET}/runs",
            f"validation.uri={BUCKET}/benchmark",
            f"model.scale={SCALE}",
            f"optimizer.steps={steps}",
            f"validation.every={max(steps // 2, 1)}",
            f"checkpoint.every={max(steps // 2, 1)}",
        )
        overrides = [word for setting in settings for word in ("--set", setting)]
        _submit("rayscale", "train", "--fresh", "--register", MODEL, *overrides)
    with story.step("Evaluate on photographs it has not seen"):
        _evaluate(story)
    with story.step("Upscale the bucket: rayscale batch"):
        _call("rayscale", "batch", f"{BUCKET}/benchmark/LR", f"{BUCKET}/upscaled",
              "--model", MODEL)  # fmt: skip
    with story.step("Deploy the HTTP API and post one image"):
        picture = _serve_and_post(addresses.serve, out)
    _finish(story, addresses, out, picture)


def _put_photographs() -> None:
    from rayscale.imaging import Image, read_image, write_image
    from rayscale.storage import connect

    store = connect(BUCKET)
    for package, names in TRAINING.items():
        for name in names:
            store.write(f"images/{name}", (files(package) / name).read_bytes())
    for package, names in HELD_OUT.items():
        for name in names:
            hr = read_image((files(package) / name).read_bytes()).pixels
            height, width = (side - side % SCALE for side in hr.shape[:2])
            stem = Path(name).stem
            for kind, pixels in (("HR", hr[:height, :width]), ("LR", degrade(hr, SCALE))):
                store.write(f"benchmark/{kind}/{stem}_{kind}.png", write_image(Image(pixels)))
    count = sum(map(len, TRAINING.values()))
    console.print(
        f"{count} photographs to train on, {len(list(store.list('benchmark/LR/')))} held out"
    )


def _submit(*command: str) -> None:
    """Run a job on the cluster; it ends with us, on a cluster that stays too."""
    name = f"demo-{secrets.token_hex(4)}"
    try:
        _call("ray", "job", "submit", "--submission-id", name, "--", *command)
    except KeyboardInterrupt:
        with shield():
            subprocess.run(_program("ray", "job", "stop", name), check=False, capture_output=True)
        raise


def _call(program: str, *arguments: str) -> None:
    """Run a command as a user would, its output visible; it ends with us."""
    console.print(f"$ {program} {' '.join(arguments)}", soft_wrap=True, highlight=False)
    with subprocess.Popen(_program(program, *arguments)) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            with shield(), suppress(subprocess.TimeoutExpired):
                process.terminate()  # it saves what it has done
                process.wait(timeout=_GRACE_S)
            process.kill()
            raise
    if code:
        raise RayscaleError(f"`{program} {' '.join(arguments)}` ended with exit code {code}")


def _program(name: str, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name(name)), *arguments]


def _evaluate(story: Story) -> None:
    from rayscale.evaluation import evaluate, read_pairs
    from rayscale.inference import Upscaler
    from rayscale.options import Options
    from rayscale.registry import open_model

    for name in ("bicubic", MODEL, BUNDLED):
        upscaler = Upscaler(open_model(name, scale=SCALE).network, Options(scale=SCALE))
        report = evaluate(upscaler, read_pairs(f"{BUCKET}/benchmark", SCALE), name=name)
        story.scores[name] = report.to_dict()
        console.print(f"{name}: {report.psnr:.2f} dB, SSIM {report.ssim:.4f} ({report.protocol})")


def _serve_and_post(address: str, out: Path) -> Path:
    import httpx

    from rayscale.imaging import read_image
    from rayscale.storage import connect

    _call("rayscale", "serve", "--model", MODEL)
    url = f"{address}/v1/upscale"
    store = connect(f"{BUCKET}/benchmark")
    body = store.read("LR/astronaut_LR.png")
    answer = httpx.post(
        url, params={"model": MODEL, "scale": SCALE}, content=body,
        headers={"Content-Type": "image/png"}, timeout=120,
    )  # fmt: skip
    if answer.status_code != httpx.codes.OK:
        raise RayscaleError(f"POST {url} answered {answer.status_code}: {answer.text[:500]}")
    console.print(f"POST {answer.url} -> {answer.status_code}, {len(answer.content)} bytes")
    (out / "answer.png").write_bytes(answer.content)
    lr = read_image(body).pixels
    hr = read_image(store.read("HR/astronaut_HR.png")).pixels
    sr = read_image(answer.content).pixels
    return _before_after(
        out / "before_after.png", {"bicubic": enlarge(lr, SCALE), "EDSR": sr, "original": hr}
    )


def _before_after(path: Path, pictures: Mapping[str, np.ndarray]) -> Path:
    """Crops of the same place side by side, three times enlarged so that pixels can be seen."""
    from PIL import Image, ImageDraw

    top, left, side, zoom = 48, 168, 112, 3
    sheet = Image.new("RGB", (len(pictures) * (side * zoom + 8) - 8, side * zoom + 22), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (label, pixels) in enumerate(pictures.items()):
        crop = Image.fromarray(pixels[top : top + side, left : left + side])
        x = i * (side * zoom + 8)
        sheet.paste(crop.resize((side * zoom, side * zoom), Image.Resampling.NEAREST), (x, 22))
        draw.text((x + 4, 5), label, fill="black")
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return path


def _finish(story: Story, addresses: local.Addresses, out: Path, picture: Path) -> None:
    (out / "scores.json").write_text(strictjson.document(story.scores))
    screen = Console()
    table = Table("", "PSNR dB", "SSIM", title=f"Held-out photographs, x{SCALE}",
                  caption="Y channel, shave = scale (protocol edsr-paper-y)")  # fmt: skip
    for name, score in story.scores.items():
        table.add_row(name, f"{score['psnr']:.2f}", f"{score['ssim']:.4f}")
    print_table(table)
    times = Table("step", "seconds", title="Times")
    for title, seconds in story.seconds.items():
        times.add_row(title, f"{seconds:.1f}")
    times.add_row("all", f"{sum(story.seconds.values()):.1f}")
    print_table(times)
    screen.print(f"Before and after: {picture.as_uri()}", soft_wrap=True)
    screen.print(
        "\nNext:\n"
        "  rayscale up                      start the stack again and leave it running\n"
        f"  source {out.parent / 'stack.env'}\n"
        f"  rayscale upscale photo.jpg big.jpg --model {MODEL}\n"
        f"  rayscale serve --model {MODEL}\n"
        f"  MLflow {addresses.mlflow}   Ray {addresses.dashboard}",
        soft_wrap=True,
        highlight=False,
    )
