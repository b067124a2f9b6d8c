"""Slices of a DICOM series as one volume on the page."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import PIL.Image
import pydicom
import pytest
from tests.imaging.dicom_objects import saved, scan

from rayscale.settings import get_settings


def slice_at(depth: float, number: int, **elements: Any) -> bytes:
    """A coronal slice, random, at a depth in millimetres: its normal is x times minus z, which is y."""
    square = {"PixelSpacing": [0.5, 0.5]}
    made = scan(
        InstanceNumber=number,
        SOPInstanceUID=f"1.2.3.{number}",
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
        ImagePositionPatient=[-10, depth, 40],
        **(square | elements),
    )
    values = np.random.default_rng(number).integers(0, 1000, (made.Rows, made.Columns))
    made.PixelData = values.astype(np.uint16).tobytes()
    return bytes(saved(made))


@pytest.fixture
def ask(make_app: Any, tools: Any, tmp_path: Any) -> Any:
    app = make_app(results=str(tmp_path / "results"))

    def asked(path: str, method: str = "GET", **kinds: Any) -> Any:
        return tools.call(app, method, f"/v1/views{path}", **kinds)

    return asked


def upscaled(ask: Any, *files: bytes, scale: int = 2) -> list[dict[str, Any]]:
    return [ask(f"?scale={scale}", "POST", content=data).json() for data in files]


def test_slices_become_a_volume_in_the_order_of_the_patient(ask: Any) -> None:
    files = [slice_at(30, 3), slice_at(10, 1), slice_at(20, 2)]
    views = upscaled(ask, *files)
    answer = ask("/series", "POST", json={"views": [view["id"] for view in views]})
    assert answer.status_code == 200, answer.text
    series = answer.json()
    assert (series["before"]["slices"], series["after"]["slices"]) == (3, 3)
    assert series["bytes"] == sum(view["bytes"] for view in views)
    at = f"/{series['id']}"
    archive = zipfile.ZipFile(io.BytesIO(ask(f"{at}/files/after").content))
    larger = [pydicom.dcmread(archive.open(name)) for name in archive.namelist()]
    assert archive.namelist() == ["0001.dcm", "0002.dcm", "0003.dcm"]
    assert [each.InstanceNumber for each in larger] == [1, 2, 3]
    for index, each in enumerate(larger):
        point = ask(f"{at}/point", params={"row": 2, "column": 3, "slice": index}).json()
        assert point["after"] == [each.pixel_array[2, 3]]
        spacing = list(map(float, each.PixelSpacing))
        place = np.add(each.ImagePositionPatient, [3 * spacing[1], 0, -2 * spacing[0]])
        assert point["place"]["values"] == pytest.approx(place.tolist())
        shown = ask(
            f"{at}/tiles/after/0/0/0", params={"slice": index, "black": "0", "white": "1000"}
        )
        tile = np.asarray(PIL.Image.open(io.BytesIO(shown.content)))
        np.testing.assert_allclose(tile, each.pixel_array.clip(0, 1000) * 0.255, atol=0.51)
    assert ask(f"{at}/layers/consistency").json()["slices"] == 3


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"SeriesInstanceUID": "1.2.9"}, "another series"),
        ({"RescaleIntercept": -7}, "another unit"),
        ({"PixelSpacing": [9, 9]}, "another pixel spacing"),
    ],
)
def test_slices_that_do_not_fit_together_are_not_joined(
    ask: Any, other: dict[str, Any], reason: str
) -> None:
    views = upscaled(ask, slice_at(0, 1), slice_at(5, 2, **other))
    answer = ask("/series", "POST", json={"views": [view["id"] for view in views]})
    assert answer.status_code == 422
    assert reason in answer.json()["error"]["message"]


def test_results_of_different_scales_and_pictures_are_not_joined(ask: Any, tools: Any) -> None:
    ids = [
        upscaled(ask, data, scale=scale)[0]["id"]
        for data, scale in (
            (slice_at(0, 1), 2), (slice_at(5, 2), 3), (tools.encoded(8, 8), 2),
        )
    ]  # fmt: skip
    for pair, reason in (
        (ids[:2], "different models, scales"), ([ids[0], ids[2]], "different models, scales"), (ids[:1], "views"), ([ids[0], "x"], "gone"),
    ):  # fmt: skip
        answer = ask("/series", "POST", json={"views": pair})
        assert answer.status_code in (404, 422)
        assert reason in answer.json()["error"]["message"]


def test_a_series_over_the_limit_of_a_volume_is_refused(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = upscaled(ask, slice_at(0, 1), slice_at(5, 2))
    monkeypatch.setenv("RAYSCALE_MAX_OUTPUT_PIXELS", "900")
    get_settings.cache_clear()
    answer = ask("/series", "POST", json={"views": [view["id"] for view in views]})
    assert answer.status_code == 413
    assert "RAYSCALE_MAX_OUTPUT_PIXELS" in answer.json()["error"]["message"]
