"""What becomes of images of each kind over HTTP: damage, labels, notes, volumes."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from tests.serving.refusal import refused

from rayscale.imaging import MIME

VRT = b"<VRTDataset rasterXSize='9' rasterYSize='9'><VRTRasterBand dataType='Byte' band='1'/></VRTDataset>"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 422),
        (b"hello, this is text", 415),
        (b"GIF89a\x01\x00\x01\x00", 415),
        (VRT, 415),
        (b"GTIFF_DIR:1:/etc/passwd", 415),
        (b"/vsicurl/http://169.254.169.254/x.tif", 415),
        (b"\x1f\x8b" + b"\0" * 50, 415),
        (b"\x89PNG\r\n\x1a\n", 422),
        (b"II*\0" + b"\xff" * 40, 422),
    ],
)
def test_content_that_is_no_image(make_app: Any, tools: Any, data: bytes, status: int) -> None:
    refused(tools.call(make_app(), "POST", "/v1/upscale", content=data), status)


def test_damaged_images(make_app: Any, tools: Any) -> None:
    app = make_app()
    for container in ("png", "jpeg", "tiff", "webp"):
        data = tools.encoded(40, 40, container=container)
        refused(
            tools.call(app, "POST", "/v1/upscale", content=data[: len(data) // 2]), 422, "bad_image"
        )


def test_a_compressed_body(make_app: Any, tools: Any) -> None:
    headers = {"content-encoding": "gzip"}
    response = tools.call(
        make_app(), "POST", "/v1/upscale", content=tools.encoded(4, 4), headers=headers
    )
    refused(response, 415, "unsupported_media")


def test_size_limits_are_checked_by_the_header(
    make_app: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSCALE_MAX_INPUT_PIXELS", "1000")
    monkeypatch.setenv("RAYSCALE_MAX_OUTPUT_PIXELS", "8000")
    monkeypatch.setattr(
        "rayscale.inference.pipeline.read_image", lambda *_a, **_k: pytest.fail("decoded")
    )
    app = make_app()
    large = refused(
        tools.call(app, "POST", "/v1/upscale", content=tools.encoded(30, 40)), 413, "too_large"
    )
    assert "1200" in large
    assert "limit of 1000" in large
    output = refused(
        tools.call(app, "POST", "/v1/upscale?scale=3", content=tools.encoded(30, 30)),
        413,
        "too_large",
    )
    assert "30x30" in output
    assert "90x90" in output
    assert "limit of 8000" in output
    # The scale that the model would take by default counts as well.
    monkeypatch.setenv("RAYSCALE_MAX_OUTPUT_PIXELS", "3000")
    from rayscale.settings import get_settings

    get_settings.cache_clear()
    refused(tools.call(app, "POST", "/v1/upscale", content=tools.encoded(30, 30)), 413, "too_large")


def test_broken_files_are_the_clients_fault(
    make_app: Any, tools: Any, shared_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSCALE_MAX_INPUT_PIXELS", "4000000")
    app = make_app()
    seen = {}
    for path in sorted((shared_data / "bad").iterdir()):
        response = tools.call(app, "POST", "/v1/upscale?scale=2", content=path.read_bytes())
        seen[path.name] = response.status_code
        if response.status_code != 200:
            refused(response, response.status_code)
    assert {name: status for name, status in seen.items() if status >= 500} == {}
    assert seen["zero_byte.png"] == 422
    assert seen["bomb_header_60000x60000.png"] in (413, 422)
    assert seen["bomb_real_20000x20000_1bit.png"] == 413
    assert seen["animated.gif"] == 415
    assert seen["gray16.png"] == 200


def test_labels_are_refused_or_repeated(make_app: Any, tools: Any) -> None:
    classes = np.kron(np.random.default_rng(3).choice([4, 90, 800], (8, 8)), np.ones((9, 9)))
    data = io.BytesIO()
    tifffile.imwrite(data, classes.astype(np.uint16), photometric="minisblack", metadata=None)
    app = make_app()

    def ask(query: str) -> Any:
        return tools.call(app, "POST", f"/v1/upscale?scale=2&{query}", content=data.getvalue())

    refused = ask("model=bicubic")
    assert refused.status_code == 415
    assert "labels=nearest" in refused.json()["error"]["message"]
    for query in ("model=bicubic&labels=nearest", "model=nearest"):
        answer = ask(query)
        assert answer.status_code == 200, answer.text
        larger = tifffile.imread(io.BytesIO(answer.content))
        np.testing.assert_array_equal(larger, np.kron(classes, np.ones((2, 2))))


def test_what_the_reader_notes_is_a_header(make_app: Any, tools: Any) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    infrared = np.random.default_rng(1).integers(1, 255, (4, 9, 9), np.uint8)
    with rasterio.MemoryFile() as file:
        with file.open(
            driver="GTiff", width=9, height=9, count=4, dtype="uint8", crs="EPSG:32611", photometric="rgb", alpha="yes"
        ) as dataset:  # fmt: skip
            dataset.write(infrared)
        data = file.read()
    app = make_app()
    response = tools.call(app, "POST", "/v1/upscale?model=bicubic&scale=2", content=data)
    assert response.status_code == 200, response.text
    (text,) = json.loads(response.headers["x-rayscale-notes"])
    assert text.startswith("band 4 is marked as alpha")
    plain = tools.call(
        app, "POST", "/v1/upscale?model=bicubic&scale=2", content=tools.encoded(5, 5)
    )
    assert "x-rayscale-notes" not in plain.headers


def test_a_volume_keeps_its_place_and_names_its_model(make_app: Any, tools: Any) -> None:
    nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")
    volume = nibabel.Nifti1Image(np.arange(5 * 4 * 2, dtype=np.int16).reshape(5, 4, 2), np.eye(4))
    response = tools.call(
        make_app(), "POST", "/v1/upscale?model=bicubic&scale=2", content=volume.to_bytes()
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == MIME["nifti"]
    answer = nibabel.Nifti1Image.from_bytes(response.content)
    assert answer.shape == (10, 8, 2)
    np.testing.assert_array_equal(answer.affine[:3, 3], [-0.25, -0.25, 0])
    assert b"bicubic" in answer.header.extensions[-1].get_content()


def test_working_memory_is_a_limit_known_from_the_header(
    make_app: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSCALE_MEMORY_BYTES", "300000000")
    monkeypatch.setattr(
        "rayscale.inference.pipeline.read_image", lambda *_a, **_k: pytest.fail("decoded")
    )
    data = tools.encoded(1500, 1500)
    answer = tools.call(make_app(), "POST", "/v1/upscale?model=bicubic&scale=4", content=data)
    refused(answer, 413, "too_large")
    message = answer.json()["error"]["message"]
    assert "1500x1500" in message
    assert "over the 286 MiB" in message


def test_a_model_that_yields_no_numbers_is_an_error_and_no_black_image(
    make_app: Any, tools: Any, registry: Any
) -> None:
    registry.add("broken", 1)
    with torch.no_grad():
        next(registry.networks["broken/1"].head.parameters()).fill_(float("nan"))
    answer = tools.call(make_app(), "POST", "/v1/upscale?model=broken", content=tools.encoded(9, 9))
    refused(answer, 500, "non_finite_output")
    assert "non-finite" in answer.json()["error"]["message"]
