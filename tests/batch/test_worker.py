"""One input to one row, without Ray."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from rayscale.batch.manifest import Row
from rayscale.batch.plan import Method, Task
from rayscale.batch.worker import Worker, _Item, _read_source
from rayscale.errors import StorageError, UnsupportedError
from rayscale.imaging import Image
from rayscale.inference.pipeline import Pipeline
from rayscale.models.systems import create_model
from rayscale.options import Options
from rayscale.settings import get_settings
from rayscale.storage import connect
from rayscale.storage.local import LocalStore

METHOD = Method("bicubic", "built-in:bicubic", Options(scale=2))
SOURCE = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)

Run = Callable[..., Row]


def png(pixels: np.ndarray = SOURCE) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.fixture
def pipeline() -> Pipeline:
    return METHOD.pipeline(create_model("bicubic", scale=2), "cpu")


@pytest.fixture
def run(tmp_path: Path, pipeline: Pipeline) -> Run:
    def run(key: str, data: bytes, before: Callable[[Path], None] = lambda _: None) -> Row:
        source, target = connect(tmp_path / "in"), connect(tmp_path / "out")
        source.write(key, data)
        task = Task(source.stat(key))
        before(tmp_path / "in" / key)
        with Worker(source, target, pipeline, METHOD) as worker:
            (row,) = worker.process([task])
        assert target.exists(key) == (not row.error)
        return row

    return run


def test_a_fractional_scale(tmp_path: Path) -> None:
    source, target = connect(tmp_path / "in"), connect(tmp_path / "out")
    source.write("a.png", png())
    method = replace(METHOD, options=Options(scale=1.5))
    pipeline = method.pipeline(create_model("bicubic"), "cpu")
    with Worker(source, target, pipeline, method) as worker:
        (row,) = worker.process([Task(source.stat("a.png"))])
    assert (row.error, row.parameters["scale"]) == ("", 1.5)
    assert PIL.Image.open(tmp_path / "out/a.png").size == (7, 9)


def test_done(run: Run, tmp_path: Path) -> None:
    row = run("sub/a b.png", png())
    assert (row.error, row.key, row.recipe) == ("", "sub/a b.png", METHOD.id)
    output = tmp_path / "out/sub/a b.png"
    assert row.output_size == output.stat().st_size
    assert row.output_sha256 == hashlib.sha256(output.read_bytes()).hexdigest()
    assert row.megapixels == 30e-6
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
    run: Run, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, code in (
        (StorageError("denied"), "storage"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried ..."), "out_of_memory"),
        (ZeroDivisionError("x"), "error"),
    ):

        def fail(_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(pipeline, "enlarge", fail)
        assert run("a.png", png()).error == code


def test_a_picture_over_the_memory_of_a_worker_is_a_row_with_both_numbers(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSCALE_MEMORY_BYTES", str(300 << 20))
    get_settings.cache_clear()
    assert run("small.png", png()).error == ""
    row = run("large.png", png(np.zeros((2500, 2500, 3), np.uint8)))
    assert row.error == "too_large"
    assert "over the 300 MiB that a worker may take" in row.message
    get_settings.cache_clear()


def test_a_picture_that_takes_a_large_part_of_the_memory_is_decoded_alone(
    tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = connect(tmp_path / "in"), connect(tmp_path / "out")
    sides = [5, 700, 6, 710, 720, 7]
    for number, side in enumerate(sides):
        source.write(f"{number}.png", png(np.full((side, side, 3), number, np.uint8)))
    monkeypatch.setenv("RAYSCALE_MEMORY_BYTES", str(300 << 20))
    get_settings.cache_clear()
    held: set[int] = set()
    most = []
    read, write = pipeline.read, Worker._write

    def decode(data: bytes) -> Image:
        image = read(data)
        if image.width > 100:
            held.add(image.width)
            most.append(len(held))
        return image

    def write_one(self: Worker, item: _Item) -> Row:
        width = 0 if item.larger is None else item.larger.image.width // 2
        row = write(self, item)
        held.discard(width)
        return row

    monkeypatch.setattr(pipeline, "read", decode)
    monkeypatch.setattr(Worker, "_write", write_one)
    with Worker(source, target, pipeline, METHOD) as worker:
        rows = worker.process([Task(source.stat(f"{n}.png")) for n in range(len(sides))])
    get_settings.cache_clear()
    assert [(row.key, row.error) for row in rows] == [(f"{n}.png", "") for n in range(len(sides))]
    assert most == [1, 1, 1]


def test_a_block_has_a_row_each_and_small_pictures_share_the_network(
    tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = connect(tmp_path / "in"), connect(tmp_path / "out")
    shapes = [(6, 5)] * 3 + [(5, 6)] + [None] + [(80, 80)] * 2 + [(6, 5)] * 2
    contents = []
    for number, shape in enumerate(shapes):
        pixels = np.full((*(shape or (1, 1)), 3), 20 * number, np.uint8)
        contents.append(b"hello" if shape is None else png(pixels))
        source.write(f"{number}.png", contents[-1])
    packs = []
    run, run_many = pipeline.enlarge, pipeline.enlarge_many
    monkeypatch.setattr(pipeline, "enlarge", lambda x: packs.append(1) or run(x))
    monkeypatch.setattr(pipeline, "enlarge_many", lambda x: packs.append(len(x)) or run_many(x))
    with Worker(source, target, pipeline, METHOD) as worker:
        rows = worker.process([Task(source.stat(f"{n}.png")) for n in range(len(shapes))])
    assert packs == [3, 1, 1, 1, 2]  # 80 x 80 is not small
    assert [row.key for row in rows] == [f"{n}.png" for n in range(len(shapes))]
    assert [row.error for row in rows] == [""] * 4 + ["unsupported_media"] + [""] * 4
    for number, shape in enumerate(shapes):
        if shape:
            result = np.asarray(PIL.Image.open(tmp_path / "out" / f"{number}.png"))
            assert result.shape == (shape[0] * 2, shape[1] * 2, 3)
            assert (result == 20 * number).all()


def test_a_pack_that_fails_is_tried_one_by_one(
    tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = []

    def fail(images: list[Image]) -> None:
        packs.append(len(images))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(pipeline, "enlarge_many", fail)
    source, target = connect(tmp_path / "in"), connect(tmp_path / "out")
    for name in "ab":
        source.write(f"{name}.png", png())
    with Worker(source, target, pipeline, METHOD) as worker:
        rows = worker.process([Task(source.stat(f"{name}.png")) for name in "ab"])
    assert packs == [2]
    assert [row.error for row in rows] == ["", ""]


def test_reading_and_writing_go_on_while_the_network_computes(
    tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first computation waits for the third read; the first write and the second computation for each other."""
    source, target = connect(tmp_path / "in"), connect(tmp_path / "out")
    for number in range(3):
        source.write(f"{number}.png", png(SOURCE[: number + 2]))
    tasks = [Task(source.stat(f"{number}.png")) for number in range(3)]
    read, written, second = threading.Event(), threading.Event(), threading.Event()
    compute, reading, writing = pipeline.enlarge, LocalStore.read_version, LocalStore.write
    computed = []

    def slow(image: Image) -> Any:
        computed.append(image.height)
        if len(computed) == 1:
            assert read.wait(10), "the third is not read yet"
        if len(computed) == 2:
            second.set()
            assert written.wait(10), "the first is not written yet"
        return compute(image)

    def reads(store: LocalStore, key: str) -> tuple[bytes, str]:
        data = reading(store, key)
        if key == "2.png":
            read.set()
        return data

    def writes(store: LocalStore, key: str, *arguments: Any, **options: Any) -> str | None:
        if key == "0.png":
            assert second.wait(10), "the second is not computed yet"
            written.set()
        return writing(store, key, *arguments, **options)

    monkeypatch.setattr(pipeline, "enlarge", slow)
    monkeypatch.setattr(LocalStore, "read_version", reads)
    monkeypatch.setattr(LocalStore, "write", writes)
    with Worker(source, target, pipeline, METHOD) as worker:
        rows = worker.process(tasks)
    assert [row.message for row in rows] == [""] * 3
    assert computed == [2, 3, 4]


def test_names_that_say_nothing_are_looked_into(tmp_path):
    data = png()
    for name, content in {"IM0001": data, "CT.IMA": data, "x.bin": data, "IM0002": b"none"}.items():
        (tmp_path / name).write_bytes(content)
    store = connect(tmp_path)
    for name in ("IM0001", "CT.IMA"):
        assert _read_source(store, store.stat(name)) == data
    for name, what in (("x.bin", ".bin"), ("IM0002", "the content")):
        with pytest.raises(UnsupportedError, match=f"^{what} is not an image format"):
            _read_source(store, store.stat(name))
