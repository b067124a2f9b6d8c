"""The page in a real browser: whole ways through it, with its words, its keyboard, and what axe-core finds.

Screenshots are kept in the folder of the test, or in that of ``RAYSCALE_SCREENSHOTS``.
"""

from __future__ import annotations

import io
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pydicom
import pytest
from tests.imaging.dicom_objects import saved, scan
from tests.plugins.web import listening

from rayscale.serving.api import create_app
from rayscale.serving.engine import Engine
from rayscale.serving.keys import Key, hash_key, render_keys
from rayscale.serving.settings import ServeSettings

pytestmark = pytest.mark.slow

playwright = pytest.importorskip("playwright.sync_api", reason="the page needs rayscale[dev]")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="as above")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
READY = "#tools:not([hidden])"


@contextmanager
def serve(folder: Path, jobs: Any = None, **settings: Any) -> Iterator[str]:
    """The address of the application over an engine in this process."""
    chosen = ServeSettings(results=str(folder / "results"), **settings)
    engine = Engine(chosen)
    engine.start()
    with listening(create_app(engine, chosen, jobs=jobs)) as place:
        yield f"http://{place}/"
    engine.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as tools:
        started = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("service")) as address:
        yield address


@pytest.fixture
def look(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens an address in a new window; whatever the browser complains of fails the test."""
    complaints: list[str] = []
    windows: list[Any] = []

    def opened(address: str, **kinds: Any) -> Any:
        window = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **kinds})
        windows.append(window)
        window.set_default_timeout(30_000)
        page = window.new_page()
        page.on("console", lambda told: told.type == "error" and complaints.append(str(told.text)))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page

    yield opened
    for window in windows:
        window.close()
    # The browser itself writes a line for each refused request, which the page tells in words.
    assert not [text for text in complaints if "Failed to load resource" not in text]


@pytest.fixture
def keep(tmp_path: Path) -> Callable[[Any, str], None]:
    """Takes a screenshot."""
    folder = Path(os.environ.get("RAYSCALE_SCREENSHOTS", tmp_path / "screenshots"))

    def taken(page: Any, name: str) -> None:
        page.wait_for_timeout(700)  # the view comes to rest
        page.screenshot(path=folder / f"{name}.png")

    return taken


def upscale(page: Any, *files: Path | str) -> None:
    page.set_input_files("#files", [str(file) for file in files])
    page.wait_for_selector("#estimate:has-text('pixels')")
    page.click("#go")
    page.wait_for_selector(READY)
    page.wait_for_selector("#progress", state="hidden")


def check_access(page: Any) -> None:
    """axe-core finds nothing serious."""
    found = axe.Axe().run(page).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert not serious, [(each["id"], [node["html"] for node in each["nodes"]]) for each in serious]


def wait_for_colours(page: Any) -> None:
    """Wait until the view shows a picture: a blank one, or its overview alone, has few colours."""
    deadline = time.monotonic() + 30
    while (found := colours(page)) <= 1000:
        assert time.monotonic() < deadline, f"{found} colours"
        page.wait_for_timeout(100)


def colours(page: Any) -> int:
    """How many colours the view has."""
    picture = PIL.Image.open(io.BytesIO(page.locator("#viewer").screenshot()))
    return len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph that may be shown."""
    data = pytest.importorskip("skimage.data", reason="the photograph comes with rayscale[local]")
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    PIL.Image.fromarray(data.astronaut()[:300, 60:380]).save(path)
    return path


def test_a_photograph_from_choice_to_file(
    service: str, look: Any, keep: Any, photo: Path, tmp_path: Path
) -> None:
    page = look(service)
    page.wait_for_selector("#model option", state="attached")
    assert page.locator("#go").is_disabled()
    check_access(page)
    page.check("#uncertainty")
    upscale(page, photo)
    page.click("#card summary")
    assert "Channels" in page.inner_text("#card dl")
    wait_for_colours(page)
    keep(page, "photograph")
    page.focus("#split")
    page.keyboard.press("ArrowLeft")
    assert page.input_value("#split") == "49"
    page.select_option("#overlay", "uncertainty")
    page.wait_for_selector("#legend:not([hidden])")
    page.mouse.move(800, 400)
    page.wait_for_selector("#values:has-text('Uncertainty')")
    page.click("#code summary")
    for word in ("curl --data-binary @astronaut.png", "astronaut-x2.png", "--uncertainty"):
        assert word in page.inner_text("#snippets")
    check_access(page)
    with page.expect_download() as saved:
        page.click("#download")
    assert saved.value.suggested_filename == "astronaut-x2.png"
    expected = httpx.post(f"{service}v1/upscale?scale=2&ensemble=true", content=photo.read_bytes())
    larger = PIL.Image.open(saved.value.path())
    np.testing.assert_array_equal(
        np.asarray(larger), np.asarray(PIL.Image.open(io.BytesIO(expected.content)))
    )
    page.click("#compare-box summary")
    page.set_input_files("#reference", saved.value.path())
    page.wait_for_selector("#scores:has-text('equal')")
    page.uncheck("#uncertainty")
    page.click(
        "#card-sample"
    )  # enlarged at once by the model of the card, and no other image with it
    page.wait_for_selector("#list li:has-text('sample.png'):has-text('× 2')")
    assert page.locator("#list li").count() == 2
    assert page.inner_text("#go") == "Upscale"


def test_a_scene_and_a_volume_have_places_and_slices(
    service: str, look: Any, keep: Any, inputs: Path
) -> None:
    page = look(service)
    upscale(page, "scene.tif")
    assert page.locator("#bands select").count() == 3
    page.wait_for_selector("#values:has-text('EPSG:32632')")
    before = page.inner_text("#window-shown")
    page.select_option("#stretch", "smallest to largest")
    assert page.inner_text("#window-shown") != before
    keep(page, "scene")
    upscale(page, "brain.nii.gz")
    page.wait_for_selector("#values:has-text('patient (RAS)')")
    assert page.inner_text("#slice-shown") == "2 of 3"
    page.focus("#slice")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#slice-shown") == "3 of 3"
    with page.expect_response(lambda answer: "slice=2" in answer.url and "/tiles/" in answer.url):
        pass
    keep(page, "volume")
    upscale(page, "slices/2.dcm", "slices/1.dcm")
    page.wait_for_selector("#values:has-text('patient (LPS)')")
    assert page.locator("#list li").count() == 3
    assert page.inner_text("#slice-shown") == "2 of 2"
    keep(page, "series")
    with page.expect_download() as saved:
        page.click("#download")
    assert saved.value.suggested_filename == "2-x2.zip"
    with zipfile.ZipFile(saved.value.path()) as archive:
        larger = [pydicom.dcmread(archive.open(name)) for name in archive.namelist()]
    assert [each.InstanceNumber for each in larger] == [1, 2]
    assert larger[0].Rows == 2 * pydicom.dcmread("slices/1.dcm").Rows


def test_a_zip_of_a_series_and_a_picture(service: str, look: Any, keep: Any, inputs: Path) -> None:
    with zipfile.ZipFile("all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("slices/1.dcm", "photo.png", "slices/2.dcm"):
            archive.write(name)
    page = look(service)
    page.set_input_files("#files", "all.zip")
    page.wait_for_selector("#go:has-text('Upscale 2 images')")
    assert "1.dcm and 1 more slice" in page.inner_text("#list")
    page.wait_for_selector("#estimate:has-text('2 slices')")
    page.click("#go")
    page.wait_for_selector(READY)
    page.wait_for_selector("#progress", state="hidden")
    assert page.inner_text("#slice-shown") == "2 of 2"
    # A pixel of 0.7 x 0.5 mm is shown that long.
    across, down = page.evaluate(
        """() => { const at = OpenSeadragon.getViewer('viewer').world.getItemAt(0).getContentSize(); return [at.x, at.y]; }"""
    )
    source = pydicom.dcmread("slices/1.dcm")
    assert down / across == pytest.approx(0.7 / 0.5 * source.Rows / source.Columns, rel=0.05)
    check_access(page)
    keep(page, "zip")
    Path("slices/3.dcm").write_bytes(saved(scan(SOPInstanceUID="1.2.3.9", PixelSpacing=[0.7, 0.6])))
    page.set_input_files("#files", ["slices/1.dcm", "slices/3.dcm"])
    page.wait_for_selector("#go:has-text('Upscale'):not([disabled])")
    page.click("#go")
    page.wait_for_selector("#problem:has-text('another pixel spacing')")
    assert page.locator("#list li").count() == 4


def test_a_phone_in_the_dark(service: str, look: Any, keep: Any, photo: Path) -> None:
    size = {"width": 390, "height": 844}
    page = look(service, viewport=size, color_scheme="dark", has_touch=True)
    upscale(page, photo)
    page.locator("#viewer").scroll_into_view_if_needed()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    wait_for_colours(page)
    check_access(page)
    keep(page, "phone")
    page = look(f"{service}docs", viewport=size, color_scheme="dark")
    page.wait_for_selector("#paths section:has-text('POST /v1/upscale')")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    check_access(page)
    keep(page, "docs")


class Jobs:
    """A cluster that takes every job and ends those that are stopped."""

    def __init__(self) -> None:
        self.over: dict[str, str] = {}

    def submit(self, job: str, record: str) -> None:
        pass

    def ended(self, job: str) -> str | None:
        return self.over.get(job)

    def stop(self, job: str) -> None:
        self.over[job] = "stopped"


def test_a_batch_is_started_watched_and_cancelled(look: Any, keep: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    places = {"batches_uri": str(tmp_path / "records"), "batch_prefixes": str(tmp_path)}
    with serve(tmp_path, jobs=Jobs(), **places) as address:
        page = look(address)
        page.wait_for_selector("#model option", state="attached")
        page.click("#batches-open")
        page.wait_for_selector("#batch-list:has-text('No batches yet')")
        page.fill("#batch [name=source]", "s3://elsewhere/in")
        page.fill("#batch [name=target]", str(tmp_path / "out"))
        page.click("#batch button")
        page.wait_for_selector("#batch-problem p")
        page.fill("#batch [name=source]", str(tmp_path / "in"))
        page.click("#batch button")
        page.wait_for_selector(".batch:has-text('queued') progress")
        assert not page.inner_text("#batch-problem")
        check_access(page)
        keep(page, "batches")
        page.click(".batch button")
        page.wait_for_selector(".batch:has-text('cancelled') button:has-text('Retry')")
        page.click(".batch button")
        page.wait_for_selector(".batch:has-text('queued')")
        page.click("#sample")
        page.wait_for_selector("#list:has-text('sample.png')")
        assert page.locator("#batches").is_hidden()


def test_problems_are_told_in_words(look: Any, keep: Any, photo: Path, tmp_path: Path) -> None:
    few = Key("few", hash_key("few"), requests_per_minute=1)
    keys = {"api_key_hashes": hash_key("secret"), "keys": render_keys([few])}
    with serve(tmp_path, **keys) as address:
        page = look(address)
        page.wait_for_selector("#problem:has-text('asks for a key')")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#problem:has-text('asks for a key')")
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#model option", state="attached")
        upscale(page, photo)
        wait_for_colours(page)  # tiles come with the key
        page.click("#key-open")
        page.fill("#key", "few")
        page.keyboard.press("Enter")
        for _ in range(2):
            page.set_input_files("#files", photo)
            page.click("#go")
            page.wait_for_selector("#progress", state="hidden")
        page.wait_for_selector("#problem:has-text('The service asks to wait')")
        page.click("#key-open")
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        text = tmp_path / "text.png"
        text.write_text("no picture")
        page.set_input_files("#files", text)
        page.wait_for_selector("#list:has-text('text.png')")
        page.click("#go")
        page.wait_for_selector("#problem:has-text('text.png: ')")
        check_access(page)
        keep(page, "problem")
    page.click("#problem button")
    page.wait_for_selector("#problem:has-text('The service does not answer')")
    keep(page, "gone")
