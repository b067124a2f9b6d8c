"""Put the weights of a training run among the bundled models, with a model card that says where they come from.

    python benchmarks/bundle_model.py s3://rayscale/runs/edsr-x2 edsr-baseline-x2 \\
        --summary "EDSR-baseline x2 for 8-bit photographs" --data "T91 and BSDS500 train and test: 490 images" \\
        --data-licence "T91: no licence stated; BSDS500: non-commercial research" \\
        --command "python jobs/train_edsr.py --set model.scale=2 ..." --benchmark "Set5=Set5/x{scale}"

RUN is the folder of a run, complete or not: what has trained longest there is taken, its newest checkpoint or its result,
and verified. Every benchmark is scored at every scale of the model, in float32, beside bicubic. The weights and their
card appear together, once all is scored; until then a model bundled before stays as it is. The card is JSON;
``rayscale models`` lists what is bundled.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from rayscale import strictjson
from rayscale.errors import InputError, NotFoundError, RayscaleError
from rayscale.evaluation import at_scale, evaluate, read_pairs
from rayscale.files import sha256_of
from rayscale.imaging.metrics import PROTOCOLS, Protocol
from rayscale.inference import Upscaler
from rayscale.models.builtin import BUNDLED, open_builtin
from rayscale.models.network import SuperResolver
from rayscale.models.systems import systems
from rayscale.models.weights import read_weights, save_model
from rayscale.options import Options
from rayscale.storage import Store, connect
from rayscale.training.checkpoint import Checkpoints
from rayscale.training.run import CHECKPOINTS, CONFIG, MODEL, RESULT, read_result

MOST_BYTES = 6_000_000

DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}

# These say where and how fast a run trained, not what came of it; the seed is taken from the first.
_CIRCUMSTANCES = ("run", "validation", "checkpoint", "workers", "logging")


class Trained(NamedTuple):
    """How far the weights of a run were trained, and its scores on the way (``step``, ``psnr``, ...)."""

    steps: int
    history: list[dict[str, float]]
    degradation: str
    """How its LR images differ from HR."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", help="folder of the run")
    add("name", help="of the bundled model, such as edsr-baseline-x2")
    add("--summary", required=True, help="what it is for, in one line")
    add("--data", required=True, help="what it was trained on, in words")
    add(
        "--data-licence", required=True, help="what the owners of the training data allow, in words"
    )
    add("--licence", default="Apache-2.0", help="of the weights")
    add("--command", required=True, help="the command that trained it")
    add(
        "--dtype",
        choices=tuple(DTYPES),
        default="float32",
        help="numbers of the file, for a network that would be too large otherwise; its scores are of these",
    )
    add("--benchmark", action="append", default=[], metavar="NAME=PLACE")
    add("--protocol", choices=tuple(PROTOCOLS), default="edsr-paper-y", help="of the figures")
    try:
        bundle(parser.parse_args(arguments))
    except RayscaleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def bundle(options: argparse.Namespace) -> None:
    """Fetch, verify, score; then put weights and card in the places of older ones."""
    run = connect(options.run)
    benchmarks = dict(item.split("=", 1) for item in options.benchmark)
    # Beside the target: a move within one file system is whole or has not happened.
    with tempfile.TemporaryDirectory(dir=BUNDLED, prefix=".") as scratch:
        weights, card = Path(scratch, "weights"), Path(scratch, "card")
        trained = fetch(run, weights)
        if options.dtype != "float32":
            whole = read_weights(weights)
            save_model(whole.model, weights, whole.metadata, dtype=DTYPES[options.dtype])
        if (size := weights.stat().st_size) > MOST_BYTES:
            raise InputError(
                f"{run.uri}: {size} bytes are more than the {MOST_BYTES} a bundled model may have"
            )
        read = read_weights(weights)
        facts = {
            "name": options.name,
            "summary": options.summary,
            "specification": json.loads(read.model.spec.to_json()),
            "sha256": read.sha256,
            "licence": options.licence,
            "dtype": options.dtype,
            "data": options.data,
            "data_licence": options.data_licence,
            "degradation": trained.degradation,
            "command": options.command,
            "steps": trained.steps,
            "recipe": recipe(run),
            "history": trained.history,
            "figures": figures(read.model, benchmarks, PROTOCOLS[options.protocol]),
        }
        before = BUNDLED / f"{options.name}.json"
        if before.is_file():  # what an equal network costs does not depend on its weights
            known = json.loads(before.read_text())
            if known["specification"] == facts["specification"] and "cost" in known:
                facts["cost"] = known["cost"]
        card.write_text(strictjson.dumps(facts, indent=1) + "\n", encoding="utf-8")
        weights.replace(BUNDLED / f"{options.name}.safetensors")
        card.replace(BUNDLED / f"{options.name}.json")


def fetch(run: Store, path: Path) -> Trained:
    """Copy what has trained longest in a run to ``path``, as it is, so that its digest is that of the run.

    A run that is continued has checkpoints that are newer than its result. Raises NotFoundError without either,
    InputError for weights that are not those of the result.
    """
    checkpoints = Checkpoints(run.child(CHECKPOINTS))
    newest = checkpoints.latest()
    if run.exists(RESULT):
        result = read_result(run.uri)
        if newest is None or newest.step <= result.steps:
            run.fetch(MODEL, path)
            if (found := sha256_of(path)) != result.sha256:
                raise InputError(
                    f"{run.locate(MODEL)} has sha256 {found}, its result {result.sha256}"
                )
            return Trained(result.steps, result.history, _degradation(result.dataset))
    if newest is None:
        raise NotFoundError(f"{run.uri} has neither a result nor a checkpoint that is whole")
    checkpoints.fetch_weights(newest.step, path)
    return Trained(
        newest.step, newest.state["history"], _degradation(newest.state.get("dataset", {}))
    )


def _degradation(dataset: dict[str, Any]) -> str:
    return str(dataset.get("degradation", "bicubic"))


def recipe(run: Store) -> dict[str, Any]:
    """Every setting that determines the weights, as ``section.key``; places and machines are left out."""
    config = yaml.safe_load(run.read(CONFIG))
    left_out = set(_CIRCUMSTANCES)
    system = systems().get(config["model"].get("name"))
    if system is None or not system.is_adversarial:
        left_out.add("adversarial")
    values: dict[str, Any] = {"run.seed": config["run"]["seed"]}
    for name, section in config.items():
        if name in left_out:
            continue
        items = section.items() if isinstance(section, dict) else [("", section)]
        for key, value in items:
            if value is not None and key not in ("uri", "warm_start", "vgg"):
                values[f"{name}.{key}".rstrip(".")] = value
    return values


def figures(
    model: SuperResolver, benchmarks: dict[str, str], protocol: Protocol
) -> list[dict[str, Any]]:
    """The scores of the model and of bicubic on each benchmark at each scale."""
    rows = []
    bicubic = open_builtin("bicubic").network
    for name, place in benchmarks.items():
        for scale in model.scales:
            uri = at_scale(place, scale)
            ours, base = (
                evaluate(
                    Upscaler(
                        network,
                        Options(scale=scale, precision="float32"),
                        calibrate=False,
                    ),
                    read_pairs(uri, scale),
                    protocol=protocol,
                )
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


if __name__ == "__main__":
    sys.exit(main())
