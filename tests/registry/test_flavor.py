"""A model folder in MLflow's own terms, without any server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rayscale.models.systems import create_model
from rayscale.models.weights import save_model
from rayscale.registry.flavor import write_folder

mlflow = pytest.importorskip("mlflow")


def test_pyfunc_takes_any_scale_the_model_serves(tmp_path: Path) -> None:
    model = create_model("meta-srgan", filters=4, blocks=1).eval()
    save_model(model, tmp_path / "w.safetensors")
    write_folder(tmp_path / "model", tmp_path / "w.safetensors", model.spec)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    x = np.random.default_rng(0).random((1, 1, 5, 7), dtype=np.float32)
    for params, scale in ((None, 2), ({"scale": 3}, 3), ({"scale": 2.5}, 2.5)):
        with torch.no_grad():
            expected = model(torch.from_numpy(x), scale).numpy()
        np.testing.assert_array_equal(loaded.predict(x, params=params), expected)


def test_a_network_of_any_channels_has_no_channels_in_its_signature(tmp_path: Path) -> None:
    model = create_model("vdsr", filters=4, blocks=2).eval()
    save_model(model, tmp_path / "w.safetensors")
    write_folder(tmp_path / "model", tmp_path / "w.safetensors", model.spec)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    for channels in (1, 3, 4):
        x = np.full((1, channels, 12, 9), 0.5, np.float32)
        assert loaded.predict(x).shape == (1, channels, 24, 18)
