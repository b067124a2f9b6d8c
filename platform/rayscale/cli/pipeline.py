"""From a trained model to a served one."""

from __future__ import annotations

import os
import threading
from typing import Annotated

import typer

from rayscale.cli.console import emit, note
from rayscale.cli.options import JsonOption, WeightsOption


def register(
    weights: Annotated[
        str,
        typer.Argument(
            help="model.safetensors of a run, or an .onnx or .xml of `rayscale export`: a path or s3://..."
        ),
    ],
    name: Annotated[str, typer.Option(help="Name in the registry.")],
    alias: Annotated[str | None, typer.Option(help="Alias to move to this version.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Benchmark (HR/ and LR/) to score the model on first.")
    ] = None,
    scale: Annotated[float, typer.Option("--scale", "-s", help="Scale of the benchmark.")] = 2,
    json_: JsonOption = False,
) -> None:
    """Register a trained model in MLflow (MLFLOW_TRACKING_URI), so that batch and serving can name it.

    rayscale register s3://bucket/runs/NAME/model.safetensors --name edsr --alias production
    """
    from rayscale import registry

    registry.check_name(name, alias)  # before the scores, which take longer
    version = registry.publish(
        weights, name, alias=alias, scores=_scores(weights, data, scale) if data else None
    )
    if json_:
        emit(version.to_dict())
        return
    print(f"registered {version.name}/{version.version}  sha256 {version.digest}")
    note(f"upscale with it:  rayscale upscale in.png out.png --model {version.ref}")


def _scores(weights: str, data: str, scale: float) -> dict[str, object]:
    from rayscale.evaluation import evaluate, read_pairs
    from rayscale.inference import Upscaler
    from rayscale.options import Options
    from rayscale.registry.flavor import read_model
    from rayscale.registry.publication import fetched

    with fetched(weights) as path:
        upscaler = Upscaler(
            read_model(path), Options(scale=scale, precision="float32"), calibrate=False
        )
    return evaluate(upscaler, read_pairs(data, scale)).to_dict()


def serve(
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Model for requests that name none: registered or built in."
        ),
    ] = None,
    weights: WeightsOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the HTTP API.")] = None,
) -> None:
    """Deploy the HTTP API on Ray Serve.

    On the cluster of RAY_ADDRESS it stays until `serve shutdown`; without one a Ray of its own runs
    until Ctrl-C or SIGTERM. New requests are then refused, those in progress have RAYSCALE_SERVE_GRACE_S (60 s) to finish, and
    Ray Serve has 45 s more to stop. A second signal ends all of it at once. The exit code is 130, after SIGTERM 143.

    rayscale serve --model edsr@production

    rayscale serve --model edsr-baseline --weights edsr.onnx
    """
    from rayscale.serving import deploy as deployment
    from rayscale.serving.settings import get_serve_settings

    embedded = os.environ.get("RAY_ADDRESS") in (None, "", "local")
    url = deployment.deploy(host=host, port=port, model=model, weights=weights)
    print(f"{url}/docs   {url}/v1/upscale?scale=2   access: {deployment.access(url)}", flush=True)
    if not embedded:
        return
    note("running until Ctrl-C ...")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        note(
            f"stopping: requests in progress have {get_serve_settings().grace_s:g} s to finish (RAYSCALE_SERVE_GRACE_S); "
            "another Ctrl-C ends them at once"
        )
        deployment.shutdown()
        raise
