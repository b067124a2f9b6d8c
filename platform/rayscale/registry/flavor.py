"""A published model in the terms of MLflow's own tools (``mlflow models``, ``mlflow.pyfunc.load_model``).

The folder holds ``weights.safetensors`` (the model), ``spec.json`` (for people) and ``MLmodel`` with a
signature and this module as the loader; no pickle anywhere. rayscale itself reads only the weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rayscale import __version__, strictjson

if TYPE_CHECKING:
    from rayscale.models.network import SuperResolver
    from rayscale.models.spec import ModelSpec

WEIGHTS = "weights.safetensors"


def write_folder(folder: Path, weights: Path, spec: ModelSpec) -> None:
    """Fill ``folder`` with the three files of a model.

    The signature takes and gives float32 ``(N, C, H, W)`` in ``[0, spec.value_range]`` with free N, H, W (and C where
    the network takes any number), and a parameter ``scale``. No example is stored: one of batch 1 would freeze the batch.
    """
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    from rayscale.models.systems import find_system

    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, folder / WEIGHTS)
    (folder / "spec.json").write_text(
        strictjson.dumps(json.loads(spec.to_json()), indent=2) + "\n", encoding="utf-8"
    )
    channels = -1 if find_system(spec.system).network.any_channels else spec.channels
    planes = Schema([TensorSpec(np.dtype(np.float32), (-1, channels, -1, -1))])
    scale = ParamSchema([ParamSpec("scale", "double", float(spec.scales[0]))])
    model = Model(signature=ModelSignature(inputs=planes, outputs=planes, params=scale))
    pyfunc.add_to_model(model, loader_module=__name__, data=WEIGHTS)
    model.add_flavor("rayscale", data=WEIGHTS, rayscale_version=__version__)
    model.save(str(folder / "MLmodel"))


class PyFunc:
    """The model behind ``mlflow.pyfunc``: whole arrays in float32 on the CPU, without tiles."""

    def __init__(self, model: SuperResolver) -> None:
        self.model = model.eval()

    def predict(
        self, data: npt.NDArray[np.float32], params: dict[str, Any] | None = None
    ) -> npt.NDArray[np.float32]:
        """``(N, C, H, W)`` to ``(N, C, sH, sW)``; ``params["scale"]`` chooses among the scales it serves."""
        import torch

        scale = (params or {}).get("scale", self.model.scales[0])
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
            result: npt.NDArray[np.float32] = self.model(x, scale).numpy()
        return result


def _load_pyfunc(path: str) -> PyFunc:  # the name that MLflow looks for in a loader module
    from rayscale.models.weights import load_model

    return PyFunc(load_model(Path(path)))
