"""A network for another library is served as any other: named by its file or registered, by tiles with exact halo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from rayscale import registry
from rayscale.export import export_model, job
from rayscale.imaging import read_image
from rayscale.inference.pipeline import Pipeline
from rayscale.models.builtin import OpenedModel
from rayscale.options import Options

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("openvino", reason="needs the extra openvino")

ENDINGS = {"onnx": "onnx", "openvino": "xml"}
ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}


@pytest.fixture(params=ENDINGS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def file(kind: Any, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model of seed 3, exported."""
    monkeypatch.setattr(job, "_SIDE", 16)
    monkeypatch.setattr(job, "_ROUNDS", 1)
    path = tmp_path / f"tiny.{ENDINGS[kind]}"
    export_model(OpenedModel(tools.tiny_model(3), "3" * 64, "tiny"), kind, path)
    return path


def check(tools: Any, data: bytes, answer: httpx.Response) -> None:
    """What PyTorch makes of it in float32, up to a rounded half."""
    assert answer.status_code == 200, answer.text
    network = OpenedModel(tools.tiny_model(3), "", "")
    want = Pipeline(network, Options(scale=2, precision="float32")).run(data).data
    ours, theirs = (read_image(each).pixels.astype(int) for each in (answer.content, want))
    assert np.abs(ours - theirs).max() <= 1


def test_a_file_is_the_default_model(
    make_app: Callable[..., FastAPI], tools: Any, file: Path, kind: str
) -> None:
    app = make_app(model="edsr-baseline", weights=file)
    data = tools.encoded(61, 47)
    for query in ("scale=2&tile=24", "model=edsr-baseline", f"backend={ENGINES[kind]}"):
        answer = tools.call(app, "POST", f"/v1/upscale?{query}", content=data)
        check(tools, data, answer)
        assert answer.headers["x-rayscale-model"] == "edsr-baseline"
    digest = registry.open_model("edsr-baseline", weights=file).digest
    told = tools.call(app, "GET", "/v1/models/edsr-baseline").json()
    assert (told["weights_sha256"], told["scales"], told["licence"]) == (digest, [2], None)
    listed = tools.call(app, "GET", "/v1/models").json()["models"]
    assert digest in {each["weights_sha256"] for each in listed}
    other = next(each for each in ENGINES.values() if each != ENGINES[kind])
    for query in ("scale=3", f"backend={other}"):
        refused = tools.call(app, "POST", f"/v1/upscale?{query}", content=data)
        assert refused.status_code == 422, refused.text


def test_a_file_that_is_gone_is_no_matter_of_names(
    make_app: Callable[..., FastAPI], tools: Any, tmp_path: Path
) -> None:
    app = make_app(model="edsr-baseline", weights=tmp_path / "gone.onnx")
    answer = tools.call(app, "POST", "/v1/upscale?scale=2", content=tools.encoded(9, 9))
    assert answer.status_code == 503
    assert "gone" not in answer.text
    assert tools.call(app, "GET", "/readyz").status_code == 503


def test_a_registered_one_is_served_over_http(
    http: httpx.Client, tools: Any, file: Path, kind: str
) -> None:
    version = registry.publish(file, f"exported-{kind}")
    assert version.digest == registry.open_model("edsr-baseline", weights=file).digest
    data = tools.encoded(61, 47)
    query = f"model={version.ref}&scale=2&backend={ENGINES[kind]}"
    answer = http.post(f"/v1/upscale?{query}", content=data)
    check(tools, data, answer)
    assert answer.headers["x-rayscale-model"] == version.ref
    card = http.get(f"/v1/models/{version.name}").json()
    assert (card["weights_sha256"], card["scales"]) == (version.digest, [2])
    assert http.post(f"/v1/upscale?model={version.ref}&scale=3", content=data).status_code == 422
