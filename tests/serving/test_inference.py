"""The Open Inference Protocol by a client of others (Triton's), and by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plugins.web import listening

from rayscale.errors import RayscaleError
from rayscale.imaging import Image, read_image, write_image
from rayscale.inference.pipeline import Pipeline
from rayscale.models.builtin import open_builtin
from rayscale.options import Options
from rayscale.serving.api import create_app
from rayscale.serving.engine import Engine
from rayscale.serving.errors import BadParameterError
from rayscale.serving.settings import ServeSettings
from rayscale.serving.tensors import read_inference


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    chosen = ServeSettings()
    engine = Engine(chosen)
    engine.start()
    with listening(create_app(engine, chosen)) as place:
        yield place
    engine.close()


@pytest.fixture(scope="module")
def triton() -> Any:
    pytest.importorskip("gevent")
    return pytest.importorskip("tritonclient.http")


def noise(*shape: int, dtype: str = "u1") -> Any:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def direct(pixels: Any, **options: Any) -> Any:
    data = write_image(Image(pixels, container="tiff"))
    return read_image(Pipeline(open_builtin("bicubic"), Options(**options)).run(data).data).pixels


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("dtype", "datatype"), [("u1", "UINT8"), ("u2", "UINT16")])
def test_tensors_by_the_client_of_triton(
    address: str, triton: Any, binary: bool, dtype: str, datatype: str
) -> None:
    pixels = noise(9, 7, 3, dtype=dtype)
    tensor = triton.InferInput("image", list(pixels.shape), datatype)
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    with triton.InferenceServerClient(address) as client:
        answer = client.infer(
            "bicubic",
            [tensor],
            outputs=[triton.InferRequestedOutput("larger", binary_data=binary)],
            parameters={"scale": 3},
            request_id="seven",
        )
    np.testing.assert_array_equal(answer.as_numpy("larger"), direct(pixels, scale=3))
    assert answer.get_response()["id"] == "seven"
    assert answer.get_response()["model_name"] == "bicubic"


def test_several_images_in_a_tensor(address: str, triton: Any) -> None:
    pixels = noise(3, 8, 6, 1)
    tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    with triton.InferenceServerClient(address) as client:
        larger = client.infer("bicubic", [tensor], parameters={"scale": 2}).as_numpy("larger")
    assert larger.shape == (3, 16, 12, 1)
    for one, expected in zip(larger, pixels, strict=True):
        np.testing.assert_array_equal(one, direct(expected, scale=2))


def test_what_the_client_of_triton_asks_about(address: str, triton: Any) -> None:
    from tritonclient.utils import InferenceServerException

    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("edsr-baseline-x2")
        assert not client.is_model_ready("nope")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        told = client.get_model_metadata("edsr-baseline-x2")
        assert told["inputs"][0] == {"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]}
        with pytest.raises(InferenceServerException, match="there is no model 'nope'"):
            client.get_model_metadata("nope")


def test_versions_are_those_of_the_registry(make_app: Any, tools: Any, registry: Any) -> None:
    registry.add("roofs", 7, "prod")
    app = make_app()
    for path in ("roofs", "roofs/versions/7", "roofs@prod"):
        told = tools.call(app, "GET", f"/v2/models/{path}").json()
        assert (told["name"], told["versions"]) == ("roofs", ["7"])
        assert tools.call(app, "GET", f"/v2/models/{path}/ready").status_code == 200
    asked = {
        "inputs": [{"name": "image", "shape": [3, 2, 3], "datatype": "UINT8", "data": [5] * 18}]
    }
    answer = tools.call(app, "POST", "/v2/models/roofs/versions/7/infer", json=asked)
    told = answer.json()
    assert (told["model_name"], told["model_version"]) == ("roofs", "7")
    assert told["outputs"][0]["shape"] == [6, 4, 3]


def test_health_needs_no_key(make_app: Any, tools: Any) -> None:
    app = make_app(api_keys="k" * 20)
    for path, status in (("/v2/health/live", 200), ("/v2/health/ready", 200), ("/v2", 401)):
        assert tools.call(app, "GET", path).status_code == status
    assert tools.call(app, "GET", "/v2/models/bicubic").json()["details"]["code"] == "unauthorized"
    app = make_app(model="missing")
    assert tools.call(app, "GET", "/v2/health/ready").status_code == 503


def tensor(**more: Any) -> dict[str, Any]:
    return {"name": "image", "shape": [2, 2, 1], "datatype": "UINT8", "data": [1, 2, 3, 4], **more}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "status", "named"),
    [
        ({}, 422, "KeyError"),
        ([], 422, "not an inference request"),
        ({"inputs": []}, 422, "one input"),
        ({"inputs": [tensor(name="x")]}, 422, "one input"),
        ({"inputs": [tensor(shape=[2, 2])]}, 422, "height, width, channels"),
        ({"inputs": [tensor(shape=[2, -2, 1])]}, 422, "height, width, channels"),
        ({"inputs": [tensor(shape=[65, 1, 1, 1])]}, 413, "65 images"),
        ({"inputs": [tensor(shape=[70000, 70000, 1])]}, 422, "whole numbers"),
        ({"inputs": [tensor(datatype="FP32")]}, 415, "FP32"),
        ({"inputs": [tensor(data=[1, 2, 3])]}, 422, "4 whole numbers"),
        ({"inputs": [tensor(data=[1, 2, 3, 256])]}, 422, "0 to 255"),
        ({"inputs": [tensor(data=[1, 2, 3, -1])]}, 422, "0 to 255"),
        ({"inputs": [tensor(data=[1, 2, 3, 0.5])]}, 422, "whole numbers"),
        ({"inputs": [tensor(data="abcd")]}, 422, "whole numbers"),
        ({"inputs": [tensor(data=[[1], [2, 3], 4])]}, 422, "whole numbers"),
        ({"inputs": [tensor(parameters={"binary_data_size": 4})]}, 422, "0 bytes follow"),
        ({"inputs": [tensor(parameters=[None])]}, 422, "not an inference request"),
        ({"inputs": [tensor()], "parameters": False}, 422, "not an inference request"),
        ({"inputs": [tensor(datatype=[])]}, 415, "datatype"),
        ({"inputs": [tensor()], "outputs": [{"name": "x"}]}, 422, "one output"),
        ({"inputs": [tensor()], "parameters": {"sharpness": 2}}, 422, "not an option"),
        ({"inputs": [tensor()], "parameters": {"scale": [2]}}, 422, "neither text nor"),
        ({"inputs": [tensor()], "parameters": {"scale": 0.5}}, 422, "at least 1.01"),
    ],
)
def test_what_is_not_an_inference(
    make_app: Any, tools: Any, asked: Any, status: int, named: str
) -> None:
    answer = tools.call(make_app(), "POST", "/v2/models/bicubic/infer", json=asked)
    assert (answer.status_code, named in answer.json()["error"]) == (status, True), answer.text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-1, 300) | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["inputs", "name", "shape", "datatype", "data", "parameters", "outputs"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
    st.none() | st.sampled_from(["0", "3", "-1", "99999999999999", "x"]),
    st.binary(max_size=8),
)
@settings(max_examples=200)
def test_no_body_breaks_the_reader(value: Any, header: str | None, rest: bytes) -> None:
    body = json.dumps({"inputs": [tensor()], **value} if isinstance(value, dict) else value)
    with suppress(RayscaleError):
        read_inference(body.encode() + rest, header, most_images=4, most_json=10**6)


def test_deep_json_and_long_json() -> None:
    for body, limit in ((b"[" * 100_000, 10**6), (b"1" * 100, 99)):
        with pytest.raises((RayscaleError, BadParameterError)):
            read_inference(body, None, most_images=1, most_json=limit)
