"""Put the weights of a training run among the bundled models, with a model card that says where they come from.

    python benchmarks/bundle_model.py s3://rayscale/runs/edsr-x2 edsr-baseline-x2 \\
        --summary "EDSR-baseline x2 for 8-bit photographs" --data "T91 and BSDS500 train and test: 490 images" \\
        --command "python jobs/train_edsr.py --set model.scale=2 ..." --benchmark "Set5=Set5/x{scale}"

RUN is the folder of a run, complete or not (then its newest checkpoint is taken). Every benchmark is scored at every
scale of the model, in float32, beside bicubic. The card is JSON; ``rayscale models`` lists what is bundled.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import yaml

from rayscale.evaluation import evaluate, read_pairs
from rayscale.inference import Upscaler
from rayscale.models.builtin import BUNDLED, open_builtin
from rayscale.models.network import SuperResolver
from rayscale.models.weights import read_weights
from rayscale.storage import Store, connect
from rayscale.training.run import CONFIG, MODEL, RESULT

MOST_BYTES = 6_000_000


def figures(model: SuperResolver, benchmarks: dict[str, str]) -> list[dict[str, Any]]:
    """The scores of the model and of bicubic on each benchmark at each scale."""
    rows = []
    bicubic, _ = open_builtin("bicubic")
    for name, place in benchmarks.items():
        for scale in model.scales:
            uri = place.format(scale=scale)
            ours, base = (
                evaluate(Upscaler(network, scale, precision="float32"), read_pairs(uri, scale))
                for network in (model, bicubic)
            )
            row = {
                "set": name,
                "scale": scale,
                "protocol": ours.protocol,
                "psnr": round(ours.psnr, 3),
                "ssim": round(ours.ssim, 4),
                "bicubic_psnr": round(base.psnr, 3),
                "bicubic_ssim": round(base.ssim, 4),
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("name", help="of the bundled model, such as edsr-baseline-x2")
    parser.add_argument("--summary", required=True, help="what it is for, in one line")
    parser.add_argument("--data", required=True, help="what it was trained on, in words")
    parser.add_argument("--command", required=True, help="the command that trained it")
    parser.add_argument("--benchmark", action="append", default=[], metavar="NAME=PLACE")
    options = parser.parse_args()
    run = connect(options.run)
    weights, steps = newest_weights(run)
    target = BUNDLED / f"{options.name}.safetensors"
    run.fetch(weights, target)  # as it is, so that its digest is that of the run
    if (size := target.stat().st_size) > MOST_BYTES:
        target.unlink()
        raise SystemExit(f"{size} bytes are more than the {MOST_BYTES} a bundled model may have")
    read = read_weights(target)
    model = read.model
    card = {
        "name": options.name,
        "summary": options.summary,
        "specification": json.loads(model.spec.to_json()),
        "sha256": read.sha256,
        "data": options.data,
        "command": options.command,
        "steps": steps,
        "recipe": recipe(run),
        "figures": figures(model, dict(item.split("=", 1) for item in options.benchmark)),
    }
    target.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")


def newest_weights(run: Store) -> tuple[str, int]:
    """Key of the weights of a run, and the steps they were trained: the result's, else the newest checkpoint's."""
    if run.exists(RESULT):
        return MODEL, int(json.loads(run.read(RESULT))["steps"])
    folders = [
        entry.key.removesuffix("/COMMITTED")
        for entry in run.list("checkpoints/")
        if entry.key.endswith("/COMMITTED")
    ]
    if not folders:
        raise SystemExit(f"{run.uri} has no committed checkpoint yet")
    return f"{max(folders)}/weights.safetensors", int(max(folders).rpartition("-")[2])


def recipe(run: Store) -> dict[str, Any]:
    """Every setting that determines the weights, as ``section.key``; places and machines are left out."""
    values: dict[str, Any] = {}
    for name, section in yaml.safe_load(run.read(CONFIG)).items():
        if name in ("run", "validation", "benchmark", "checkpoint", "workers", "logging"):
            continue
        items = section.items() if isinstance(section, dict) else [("", section)]
        for key, value in items:
            if value is not None and key != "uri":
                values[f"{name}.{key}".rstrip(".")] = value
    return values


if __name__ == "__main__":
    main()
