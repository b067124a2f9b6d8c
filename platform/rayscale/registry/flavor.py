"""A published model in the terms of MLflow's own tools (``mlflow models``, ``mlflow.pyfunc.load_model``).

The folder holds ``weights.safetensors`` (the model), or what ``rayscale export`` wrote for ONNX or OpenVINO, ``spec.json``
(for people) and ``MLmodel`` with a signature and this module as the loader; no pickle anywhere. rayscale itself reads only
the model.
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
EXPORTS = {".onnx": "model.onnx", ".xml": "model.xml"}
"""Names of exported models in the folder, by the ending of what was registered."""
FILES = (WEIGHTS, *EXPORTS.values())
"""What the model of a folder may be called."""


def parts_of(path: Path) -> tuple[Path, ...]:
    """The files of a model whose first is ``path``: OpenVINO keeps the numbers beside the layers."""
    return (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)


def read_model(path: Path) -> SuperResolver:
    """The network of a file that a folder may hold; the errors of ``load_model`` and ``open_export``."""
    from rayscale.inference.exported import is_export, open_export
    from rayscale.models.weights import load_model

    return open_export(path).network if is_export(path) else load_model(path)


def write_folder(folder: Path, weights: Path, spec: ModelSpec, scale: float | None = None) -> str:
    """Fill ``folder`` with the files of a model, and return the name of the first of its own.

    ``scale`` is the only one of an exported model. The signature takes and gives float32 ``(N, C, H, W)`` in ``[0, spec.value_range]`` with free N, H, W (and C where
    the network takes any number), and a parameter ``scale``. No example is stored: one of batch 1 would freeze the batch.
    """
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    from rayscale.models.systems import find_system

    folder.mkdir(parents=True, exist_ok=True)
    file = EXPORTS.get(weights.suffix, WEIGHTS)
    for source, target in zip(parts_of(weights), parts_of(folder / file), strict=True):
        shutil.copyfile(source, target)
    (folder / "spec.json").write_text(
        strictjson.dumps(json.loads(spec.to_json()), indent=2) + "\n", encoding="utf-8"
    )
    channels = -1 if find_system(spec.system).network.any_channels else spec.channels
    planes = Schema([TensorSpec(np.dtype(np.float32), (-1, channels, -1, -1))])
    default = float(spec.scales[0] if scale is None else scale)
    params = ParamSchema([ParamSpec("scale", "double", default)])
    model = Model(signature=ModelSignature(inputs=planes, outputs=planes, params=params))
    pyfunc.add_to_model(model, loader_module=__name__, data=file)
    model.add_flavor("rayscale", data=file, rayscale_version=__version__)
    model.save(str(folder / "MLmodel"))
    return file


class PyFunc:
    """The model behind ``mlflow.pyfunc``: whole arrays in float32 on the CPU, without tiles."""

    def __init__(self, model: SuperResolver) -> None:
        self.model = model.eval()

    def predict(
        self, data: npt.NDArray[np.float32], params: dict[str, Any] | None = None
    ) -> npt.NDArray[np.float32]:
        """``(N, C, H, W)`` to ``(N, C, sH, sW)``; ``params["scale"]`` chooses among the scales it serves."""
        import torch

        scale = (params or {}).get("scale", self.model.default_scale)
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
            result: npt.NDArray[np.float32] = self.model(x, scale).numpy()
        return result


def _load_pyfunc(path: str) -> PyFunc:  # the name that MLflow looks for in a loader module
    return PyFunc(read_model(Path(path)))
