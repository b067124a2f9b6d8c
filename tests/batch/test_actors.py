"""One input to one row, without Ray."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from rayscale.batch.actors import process
from rayscale.batch.manifest import Row
from rayscale.batch.plan import Recipe
from rayscale.errors import StorageError
from rayscale.inference import Upscaler
from rayscale.models.registry import create_model
from rayscale.settings import get_settings
from rayscale.storage import Entry, connect

RECIPE = Recipe("bicubic", "built-in:bicubic", 2)
SOURCE = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)

Run = Callable[..., Row]


def png(pixels: np.ndarray = SOURCE) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.fixture
def upscaler() -> Upscaler:
    return Upscaler(create_model("bicubic", scale=2), 2, device="cpu")


@pytest.fixture
def run(tmp_path: Path, upscaler: Upscaler) -> Run:
    def run(key: str, data: bytes, before: Callable[[Path], None] = lambda _: None) -> Row:
        source, target = connect(tmp_path / "in"), connect(tmp_path / "out")
        source.write(key, data)
        entry: Entry = source.stat(key)
        before(tmp_path / "in" / key)
        row = process(source, target, upscaler, RECIPE, entry)
        assert target.exists(key) == (not row.error)
        return row

    return run


def test_a_fractional_scale(tmp_path: Path) -> None:
    source, target = connect(tmp_path / "in"), connect(tmp_path / "out")
    source.write("a.png", png())
    upscaler = Upscaler(create_model("bicubic"), 1.5, device="cpu")
    row = process(source, target, upscaler, replace(RECIPE, scale=1.5), source.stat("a.png"))
    assert (row.error, row.scale) == ("", 1.5)
    assert PIL.Image.open(tmp_path / "out/a.png").size == (7, 9)


def test_done(run: Run, tmp_path: Path) -> None:
    row = run("sub/a b.png", png())
    assert (row.error, row.key, row.recipe) == ("", "sub/a b.png", RECIPE.id)
    output = tmp_path / "out/sub/a b.png"
    assert row.output_size == output.stat().st_size
    assert PIL.Image.open(output).size == (10, 12)


@pytest.mark.parametrize(
    ("key", "data", "error"),
    [
        ("empty.png", b"", "bad_image"),
        ("cut.png", png()[:60], "bad_image"),
        ("text.png", b"hello", "unsupported_media"),
        ("text", b"hello" * 1000, "unsupported_media"),
    ],
    ids=["empty", "cut", "text named png", "text"],
)
def test_what_cannot_be_used(run: Run, key: str, data: bytes, error: str) -> None:
    row = run(key, data)
    assert row.error == error
    assert row.message


def test_an_image_without_suffix_is_one(run: Run) -> None:
    assert not run("noname", png()).error


def test_replaced_or_deleted_since_the_listing(run: Run) -> None:
    assert run("a.png", png(), lambda path: path.write_bytes(png(SOURCE[::-1]))).error == "changed"
    assert run("b.png", png(), os.unlink).error == "not_found"


def test_too_large(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSCALE_MAX_OUTPUT_PIXELS", "100")
    get_settings.cache_clear()
    try:
        row = run("a.png", png())
    finally:
        get_settings.cache_clear()
    assert row.error == "too_large"
    assert "100" in row.message
    assert "5x6" in row.message


def test_other_failures_are_rows_too(
    run: Run, upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, code in (
        (StorageError("denied"), "storage"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried ..."), "out_of_memory"),
        (ZeroDivisionError("x"), "error"),
    ):

        def fail(_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(upscaler, "upscale", fail)
        assert run("a.png", png()).error == code
