"""What the page shows of a result: tiles, values, coordinates and files, over HTTP, against other readers of the same files."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
import rasterio

import rayscale
from rayscale.imaging import read_image
from rayscale.imaging.metrics import RGB, psnr
from rayscale.resampling import enlarge
from rayscale.serving.keys import hash_key


@pytest.fixture
def make(make_app: Any, tmp_path: Path) -> Any:
    """An application whose results lie in a folder of the test."""
    return lambda **settings: make_app(results=str(tmp_path / "results"), **settings)


@pytest.fixture
def page(make: Any, tools: Any) -> Any:
    """Answers of one application, by method and path."""
    app = make()

    def ask(path: str, data: bytes | None = None, **query: Any) -> Any:
        method = "GET" if data is None else "POST"
        return tools.call(app, method, path, content=data, params=query)

    return ask


def pixels_of(answer: Any) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(PIL.Image.open(io.BytesIO(answer.content)))


def test_tiles_are_the_pixels_of_source_and_result(page: Any, tools: Any) -> None:
    source = tools.make_image(300, 700)
    view = page("/v1/views", tools.encoded(300, 700), scale=2).json()
    assert (view["after"]["width"], view["after"]["height"], view["after"]["levels"]) == (
        1400, 600, 3,
    )  # fmt: skip
    file = page(f"/v1/views/{view['id']}/files/after")
    assert file.headers["content-type"] == "image/png"
    larger = read_image(file.content).pixels
    for layer, level, pixels in (("before", 1, source.pixels), ("after", 2, larger)):
        at = f"/v1/views/{view['id']}/tiles/{layer}/{level}/1/0"
        tile = page(at, bands="0,1,2", black="0,0,0", white="255,255,255")
        np.testing.assert_array_equal(pixels_of(tile), pixels[:512, 512:1024])
        assert tile.headers["cache-control"].startswith("private")
    half = pixels_of(page(f"/v1/views/{view['id']}/tiles/after/1/0/0", bands="0,1,2", black="0,0,0", white="255,255,255"))  # fmt: skip
    means = larger[:1024, :1024].reshape(300, 2, 512, 2, 3).mean((1, 3))
    assert half.shape == (300, 512, 3)
    np.testing.assert_allclose(half, means, atol=0.51)


def test_a_stretch_is_linear_between_black_and_white(page: Any, tools: Any) -> None:
    data = tools.encoded(20, 24, channels=1, bits=16)
    view = page("/v1/views", data, scale=2).json()
    stored = read_image(data).pixels[..., 0].astype(float)
    at = f"/v1/views/{view['id']}/tiles/before/0/0/0"
    shown = pixels_of(page(at, black="20000", white="40000"))
    np.testing.assert_allclose(shown, np.clip((stored - 20000) / 20000, 0, 1) * 255, atol=0.51)
    inverted = pixels_of(page(at, black="40000", white="20000"))
    np.testing.assert_allclose(inverted, 255.0 - shown, atol=1.01)


def slice_of(spacing: tuple[float, float], height: int, width: int) -> bytes:
    """A made-up DICOM slice of random pixels, its spacing of rows and columns in millimetres."""
    dataset = pydicom.dcmread("slice.dcm")
    dataset.PixelSpacing = list(spacing)
    dataset.Rows, dataset.Columns = height, width
    values = np.random.default_rng(5).integers(0, 1000, (height, width), dtype=np.uint16)
    dataset.PixelData = values.tobytes()
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("spacing", "shown"), [((2, 0.5), (100, 320)), ((0.5, 1), (200, 80)), ((1, 1.0001), (100, 80))]
)
def test_pixels_are_shown_as_long_as_they_are_in_the_patient(
    page: Any, inputs: Path, spacing: tuple[float, float], shown: tuple[int, int]
) -> None:
    view = page("/v1/views", slice_of(spacing, 40, 50), scale=2).json()
    assert (view["after"]["width"], view["after"]["height"]) == (100, 80)
    assert (view["after"]["shown_width"], view["after"]["shown_height"]) == shown
    at, stretch = f"/v1/views/{view['id']}", {"black": "0", "white": "1000"}
    tile = pixels_of(page(f"{at}/tiles/after/0/0/0", **stretch))
    assert tile.shape == shown[::-1]
    for row, column in ((0, 0), (79, 99), (40, 50)):
        value = page(f"{at}/point", row=row, column=column).json()["after"][0]
        # The middle of the pixel, where its neighbours have no part; a stretched one begins there only nearly.
        y, x = int((row + 0.5) * shown[1] / 80), int((column + 0.5) * shown[0] / 100)
        assert tile[y, x] == pytest.approx(np.clip(value, 0, 1000) * 0.255, abs=45)


def test_a_stretched_picture_of_several_tiles_has_no_seams(page: Any, inputs: Path) -> None:
    """Tiles together are the whole picture stretched at once by Pillow."""
    view = page("/v1/views", slice_of((3, 1), 150, 280), scale=2).json()
    at, stretch = f"/v1/views/{view['id']}", {"black": "0", "white": "1000"}
    after = view["after"]
    assert (after["shown_width"], after["shown_height"], after["levels"]) == (560, 900, 2)
    rows = [
        np.hstack([pixels_of(page(f"{at}/tiles/after/1/{x}/{y}", **stretch)) for x in range(2)])
        for y in range(2)
    ]
    larger = read_image(page(f"{at}/files/after").content).pixels[..., 0]
    painted = np.rint(larger.clip(0, 1000) * 0.255).astype(np.uint8)
    whole = PIL.Image.fromarray(painted).resize((560, 900), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_allclose(np.vstack(rows), np.asarray(whole), atol=1)
    assert page(f"{at}/tiles/after/1/0/2", **stretch).status_code == 404


def test_points_of_a_scene_lie_where_rasterio_puts_them(page: Any, inputs: Path) -> None:
    view = page("/v1/views", Path("scene.tif").read_bytes(), scale=2).json()
    assert view["container"] == "geotiff"
    point = page(f"/v1/views/{view['id']}/point", row=7, column=10).json()
    with rasterio.open("scene.tif") as scene:
        values = scene.read()[:, 3, 5].tolist()
    Path("larger.tif").write_bytes(page(f"/v1/views/{view['id']}/files/after").content)
    with rasterio.open("larger.tif") as scene:
        assert point["after"] == scene.read()[:, 7, 10].tolist()
        assert point["place"]["values"] == pytest.approx(scene.xy(7, 10))
    assert point["before"] == values
    assert (point["place"]["system"], point["place"]["unit"]) == ("EPSG:32632", "metre")


def test_points_of_a_volume_lie_where_nibabel_puts_them(page: Any, inputs: Path) -> None:
    view = page("/v1/views", Path("brain.nii.gz").read_bytes(), scale=2).json()
    assert view["before"]["slices"] == 3
    point = page(f"/v1/views/{view['id']}/point", row=7, column=10, slice=2).json()
    Path("larger.nii.gz").write_bytes(page(f"/v1/views/{view['id']}/files/after").content)
    volume = nibabel.load("larger.nii.gz")
    assert point["after"] == [volume.dataobj[10, 7, 2]]
    world = nibabel.affines.apply_affine(volume.affine, [10, 7, 2])
    assert point["place"]["values"] == pytest.approx(list(world))
    stretch = {"black": "0", "white": "1000"}
    tile = pixels_of(page(f"/v1/views/{view['id']}/tiles/after/0/0/0", slice=2, **stretch))
    upright = np.flipud(np.asarray(volume.dataobj[..., 2]).T)
    np.testing.assert_allclose(tile, upright.clip(0, 1000) * 0.255, atol=0.51)
    beyond = page(f"/v1/views/{view['id']}/point", row=7, column=10, slice=3)
    assert beyond.status_code == 404


def test_points_of_a_slice_have_units_and_lie_in_the_patient(page: Any, inputs: Path) -> None:
    data = Path("slice.dcm").read_bytes()
    view = page("/v1/views", data, scale=2).json()
    point = page(f"/v1/views/{view['id']}/point", row=0, column=0).json()
    larger = pydicom.dcmread(
        io.BytesIO(page(f"/v1/views/{view['id']}/files/after").content), force=True
    )
    assert point["place"]["values"] == pytest.approx(list(map(float, larger.ImagePositionPatient)))
    unit = view["before"]["units"][0]
    source = pydicom.dcmread(io.BytesIO(data))
    if "RescaleSlope" in source:
        assert (unit["scale"], unit["offset"]) == (source.RescaleSlope, source.RescaleIntercept)


def test_a_slice_opens_with_its_own_window(page: Any, inputs: Path) -> None:
    source = pydicom.dcmread("slice.dcm")
    source.WindowCenter, source.WindowWidth = [40, 600], [401, 1601]
    source.save_as("windowed.dcm")
    view = page("/v1/views", Path("windowed.dcm").read_bytes(), scale=2).json()
    name, window = next(iter(view["before"]["stretches"].items()))
    slope, offset = source.get("RescaleSlope", 1), source.get("RescaleIntercept", 0)
    assert name == "window of the file"
    assert window["black"][0] * slope + offset == pytest.approx(39.5 - 200)
    assert window["white"][0] * slope + offset == pytest.approx(39.5 + 200)


def test_overlays_show_uncertainty_and_disagreement(page: Any, tools: Any) -> None:
    view = page("/v1/views", tools.encoded(20, 24), scale=2, uncertainty="true").json()
    assert view["overlays"] == ["uncertainty", "consistency"]
    for layer, size in (("uncertainty", (48, 40)), ("consistency", (24, 20))):
        told = page(f"/v1/views/{view['id']}/layers/{layer}").json()
        assert (told["width"], told["height"]) == size
        tile = page(f"/v1/views/{view['id']}/tiles/{layer}/0/0/0", white="9", heat="true")
        assert pixels_of(tile).shape == (size[1], size[0], 4)
    point = page(f"/v1/views/{view['id']}/point", row=3, column=4).json()
    assert point["uncertainty"] == pytest.approx(
        [0, 0, 0], abs=1e-3
    )  # bicubic turns with the image


def test_a_reference_is_measured_by_the_protocols(page: Any, tools: Any) -> None:
    view = page("/v1/views", tools.encoded(20, 24), scale=2).json()
    truth = tools.make_image(40, 48, seed=3).pixels
    buffer = io.BytesIO()
    PIL.Image.fromarray(truth).save(buffer, "png")
    scores = page(f"/v1/views/{view['id']}/reference", buffer.getvalue()).json()
    larger = enlarge(tools.make_image(20, 24).pixels, 2)
    assert [score["protocol"] for score in scores] == ["rgb", "edsr-paper-y"]
    assert scores[0]["psnr"] == pytest.approx(psnr(larger, truth, RGB, 2))
    other = page(f"/v1/views/{view['id']}/reference", tools.encoded(9, 9))
    assert other.status_code == 422
    assert "must be equal" in other.json()["error"]["message"]


def test_results_are_found_by_another_ingress_and_end(
    make: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make(), make()
    view = tools.call(first, "POST", "/v1/views", content=tools.encoded(20, 24)).json()
    path = f"/v1/views/{view['id']}"
    assert tools.call(second, "GET", path).json()["after"] == view["after"]
    ends = int(view["id"][:10], 16)
    monkeypatch.setattr("rayscale.serving.results.time.time", lambda: ends + 1.0)
    gone = tools.call(second, "GET", path)
    assert gone.status_code == 404
    assert "RAYSCALE_SERVE_RESULTS_S" in gone.json()["error"]["message"]


def test_ingresses_share_results_in_a_bucket(make_app: Any, tools: Any, s3: Any) -> None:
    first, second = (make_app(results=f"{s3.uri}/results") for _ in range(2))
    view = tools.call(first, "POST", "/v1/views", content=tools.encoded(20, 24)).json()
    path = f"/v1/views/{view['id']}"
    assert tools.call(second, "GET", path).json()["after"] == view["after"]
    for place in ("files/after", "layers/after"):
        shown = [tools.call(app, "GET", f"{path}/{place}") for app in (first, second)]
        assert [answer.status_code for answer in shown] == [200, 200]
        assert shown[0].content == shown[1].content


@pytest.mark.slow
def test_the_oldest_results_make_room(make: Any, tools: Any, tmp_path: Path) -> None:
    data = tools.encoded(20, 24)
    folder = tmp_path / "results"
    ids = [tools.call(make(), "POST", "/v1/views", content=data).json()["id"]]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    app = make(results_bytes=int(2.5 * size))
    ids += [tools.call(app, "POST", "/v1/views", content=data).json()["id"] for _ in range(3)]
    kept = {path.name for path in folder.iterdir()}
    assert len(kept) == 2
    assert kept <= set(ids)
    small = make(results_bytes=1000)
    refused = tools.call(small, "POST", "/v1/views", content=data)
    assert refused.status_code == 413
    assert "RAYSCALE_SERVE_RESULTS_BYTES" in refused.json()["error"]["message"]


def test_a_result_ends_where_nobody_makes_another(
    make: Any, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(
        "rayscale.serving.results.threading.Timer.start",
        lambda timer: started.append(timer),  # noqa: PLW0108 - a builtin is no method
    )
    app = make()
    tools.call(app, "POST", "/v1/views", content=tools.encoded(20, 24))
    view = tools.call(app, "POST", "/v1/views", content=tools.encoded(20, 24)).json()
    (timer,) = started
    assert 3600 < timer.interval < 3610
    ends = int(view["id"][:10], 16)
    monkeypatch.setattr("rayscale.serving.results.time.time", lambda: ends + 60.0)
    timer.function()
    assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]


def test_a_full_disk_is_told(page: Any, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rayscale.serving.viewing.reserve", full)
    answer = page("/v1/views", tools.encoded(20, 24))
    assert answer.status_code == 503
    assert "No space left on device; send it to /v1/upscale" in answer.json()["error"]["message"]


def test_a_result_belongs_to_its_key(make: Any, tools: Any) -> None:
    keys = ",".join(map(hash_key, ("mine", "yours")))
    app = make(api_key_hashes=keys)

    def ask(method: str, path: str, key: str, **kinds: Any) -> Any:
        return tools.call(app, method, path, headers={"X-API-Key": key}, **kinds)

    view = ask("POST", "/v1/views", "mine", content=tools.encoded(20, 24)).json()
    path = f"/v1/views/{view['id']}"
    assert ask("GET", path, "mine").status_code == 200
    assert ask("GET", path, "yours").status_code == 404
    assert ask("GET", path, "nobody").status_code == 401


def test_impossible_questions_are_refused(page: Any, tools: Any) -> None:
    view = page("/v1/views", tools.encoded(20, 24)).json()
    at = f"/v1/views/{view['id']}"
    for path, query, status in (
        ("/tiles/after/0/9/0", {}, 404),
        ("/tiles/after/7/0/0", {}, 404),
        ("/tiles/other/0/0/0", {}, 404),
        ("/tiles/uncertainty/0/0/0", {}, 404),
        ("/tiles/after/0/0/0", {"bands": "0,1"}, 422),
        ("/tiles/after/0/0/0", {"bands": "5"}, 404),
        ("/tiles/after/0/0/0", {"black": "dark"}, 422),
        ("/point", {"row": -1, "column": 0}, 404),
    ):
        answer = page(at + path, **query)
        assert answer.status_code == status, (path, answer.text)
    assert page("/v1/views/../../etc").status_code == 404
    assert page("/v1/views/zz").status_code == 404


def test_the_page_loads_nothing_from_elsewhere(make: Any, tools: Any) -> None:
    app = make(path_prefix="/rayscale")
    index = tools.call(app, "GET", "/rayscale")
    assert '<base href="/rayscale/">' in index.text
    policy = index.headers["content-security-policy"]
    assert tools.call(app, "GET", "/docs").headers["content-security-policy"] == policy
    assert "unsafe" not in policy
    assert "http" not in policy
    folder = Path(rayscale.__file__).parent / "serving/page"
    for path in folder.glob("*"):
        if path.suffix in (".html", ".css", ".js"):
            text = path.read_text()
            assert "http://" not in text and "https://" not in text, path  # noqa: PT018
            assert " style=" not in text and " onclick=" not in text, path  # noqa: PT018
        if path.suffix in (".js", ".css"):
            assert tools.call(app, "GET", f"/rayscale/page/{path.name}").text == path.read_text()
    assert tools.call(app, "GET", "/page/../api.py").status_code == 404
