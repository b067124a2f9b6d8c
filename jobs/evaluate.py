"""Score models on benchmarks, side by side on Ray; every figure names its protocol.

Laptop (an embedded Ray):

    python jobs/evaluate.py --model bicubic --model edsr@production --data Set5/x2 --data Set14/x2 --scale 2
    python jobs/evaluate.py --model edsr-baseline --weights x2.pt --data s3://bucket/Set5/x2 --scale 2

Cluster:

    ray job submit --working-dir . -- python jobs/evaluate.py --model edsr@production --data s3://bucket/Set5/x2 --scale 2

A benchmark holds HR/ and LR/ of one scale. Models are interpolations, registered references, or a system with
--weights (a path that every node can read). Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale import cluster
from rayscale.errors import ConfigError, RayscaleError
from rayscale.imaging.metrics import PROTOCOLS


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        reports = score_all(options)
    except RayscaleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    if options.output:
        save(options.output, reports)
    print(json.dumps(reports, indent=2) if options.json else table(reports))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", action="append", required=True, metavar="NAME", help="repeat for several")
    add("--data", action="append", required=True, metavar="URI", help="repeat for several")
    add("--scale", type=int, required=True)
    add("--weights", help="weights file, with one --model that names its system")
    add("--ensemble", action="store_true", help="score the self-ensemble (+) of each model too")
    add("--protocol", choices=tuple(PROTOCOLS), default="edsr-paper-y")
    add("--output", metavar="URI", help="save the reports as JSON (file or s3://...)")
    add("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    if options.weights and len(options.model) > 1:
        parser.error("--weights goes with one --model")
    return options


def score_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A report per model (and its ensemble) and benchmark, each computed by one Ray task."""
    cluster.connect()
    import ray

    work = [
        (model, options.weights, data, options.scale, ensemble, options.protocol)
        for data in options.data
        for model in options.model
        for ensemble in ((False, True) if options.ensemble else (False,))
    ]
    task = ray.remote(num_cpus=1, max_retries=3)(score)
    reports: list[dict[str, Any]] = ray.get([task.remote(*item) for item in work])
    for report in reports:
        if "error" in report:
            raise (ConfigError if report["usage"] else RayscaleError)(report["error"])
    return reports


def score(
    model: str, weights: str | None, data: str, scale: int, ensemble: bool, protocol: str
) -> dict[str, Any]:
    """One report; a user's error comes back as a value, because Ray would bury it in its traceback."""
    from rayscale.evaluation import evaluate, read_pairs
    from rayscale.inference import Upscaler
    from rayscale.registry import open_model

    try:
        opened = open_model(model, weights=weights, scale=scale)
        upscaler = Upscaler(opened.network, scale, precision="float32", ensemble=ensemble)
        pairs = read_pairs(data, scale)
        report = evaluate(upscaler, pairs, name=opened.label, protocol=PROTOCOLS[protocol])
    except RayscaleError as error:
        return {"error": f"{model} on {data}: {error}", "usage": isinstance(error, ConfigError)}
    return {"data": data, "weights": opened.digest, **report.to_dict()}


def save(uri: str, reports: list[dict[str, Any]]) -> None:
    from rayscale.storage import connect, split

    parent, key = split(uri)
    connect(parent).write(key, json.dumps(reports, indent=2).encode())


def table(reports: list[dict[str, Any]]) -> str:
    """One line per report, the protocol named."""
    protocol = PROTOCOLS[reports[0]["protocol"]]
    width = max(len(report["model"]) for report in reports)
    lines = [
        f"{report['model']:<{width}}  x{report['scale']}  {report['psnr']:6.2f} dB  {report['ssim']:.4f}  "
        f"{report['data']}"
        for report in reports
    ]
    return "\n".join([*lines, f"{protocol.name}: {protocol.description}"])


if __name__ == "__main__":
    sys.exit(main())
