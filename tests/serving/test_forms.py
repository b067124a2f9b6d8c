"""Several images in one request: forms as httpx writes them, answers as the standard library reads them."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import gc
import io
import json
import weakref
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayscale.errors import InputError, RayscaleError, TooLargeError
from rayscale.imaging import read_image
from rayscale.inference.pipeline import Pipeline
from rayscale.models.builtin import open_builtin
from rayscale.options import Options
from rayscale.serving.errors import BadParameterError, OverloadedError
from rayscale.serving.forms import read_form
from rayscale.serving.requests import Result, UpscaleRequest

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0\r\n"), min_size=1)


def form(*files: tuple[str, bytes]) -> tuple[bytes, str]:
    """Body and Content-Type of a form."""
    listed = [("image", file) for file in files]
    request = httpx.Request("POST", "http://service", files=listed)
    return request.read(), request.headers["content-type"]


def read(body: bytes, kind: str, most: int = 9, max_bytes: int = 10**6) -> list[tuple[str, bytes]]:
    return [
        (part.name, bytes(part.data))
        for part in read_form(body, kind, most=most, max_bytes=max_bytes)
    ]


@given(st.lists(st.tuples(NAMES, st.binary()), min_size=1, max_size=9))
@settings(max_examples=100)
def test_a_form_is_read_as_it_was_written(files: list[tuple[str, bytes]]) -> None:
    found = read(*form(*files))
    assert [data for _, data in found] == [data for _, data in files]
    for (name, _), (written, _) in zip(found, files, strict=True):
        plain = all(character.isprintable() and character not in '%"' for character in written)
        assert not plain or name == written


@given(st.binary(max_size=200), st.sampled_from([b"--x", b"--x\r\n", b"\r\n--x--", b""]))
@settings(max_examples=200)
def test_no_body_breaks_the_reader(body: bytes, mark: bytes) -> None:
    for data in (body, mark + body, mark + body + b"\r\n--x--", body[:9] + mark + body[9:]):
        with contextlib.suppress(RayscaleError):
            read(data, "multipart/form-data; boundary=x")


@pytest.mark.parametrize(
    ("body", "kind", "error", "named"),
    [
        (b"", "multipart/form-data", InputError, "boundary"),
        (b"", "multipart/form-data; boundary=x", InputError, "does not begin"),
        (b"--x--", "multipart/form-data; boundary=x", InputError, "no file"),
        (b"--x\r\nA: b\r\n\r\n1", "multipart/form-data; boundary=x", InputError, "cut short"),
        (b"--x\r\nA: b\r\n\r\n1\r\n--x--", "multipart/form-data; boundary=x", InputError, "Disp"),
        (
            b'--x\r\nContent-Disposition: form-data; name="scale"\r\n\r\n2\r\n--x--',
            'multipart/form-data; boundary="x"',
            BadParameterError,
            "'scale'.*query",
        ),
    ],
)
def test_what_is_no_form(body: bytes, kind: str, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        read(body, kind)


def test_limits_of_files_and_bytes() -> None:
    body, kind = form(("a", b"123"), ("b", b"4567"))
    assert len(read(body, kind, most=2, max_bytes=4)) == 2
    with pytest.raises(TooLargeError, match=r"more than 1 file .*MAX_PARTS"):
        read(body, kind, most=1)
    with pytest.raises(TooLargeError, match=r"file 2 .* 4 bytes, over the limit of 3"):
        read(body, kind, max_bytes=3)


def test_a_folder_in_a_name_is_left_out() -> None:
    body, kind = form(("../../etc/passwd", b"x"))
    assert read(body, kind) == [("passwd", b"x")]


def direct(data: bytes) -> bytes:
    return Pipeline(open_builtin("bicubic"), Options(scale=2)).run(data).data


def parts_of(answer: httpx.Response) -> list[Any]:
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.content, policy=email.policy.HTTP)
    assert not message.defects
    return list(message.iter_parts())


def test_a_result_or_a_refusal_for_each_in_their_order(make_app: Any, tools: Any) -> None:
    images = [tools.encoded(9, 9 + i, container=kind) for i, kind in enumerate(("png", "tiff"))]
    body, kind = form(("ä.png", images[0]), ("b.png", b"no image"), ("c.tif", images[1]))
    answer = tools.call(
        make_app(),
        "POST",
        "/v1/upscale?model=bicubic&scale=2",
        content=body,
        headers={"Content-Type": kind},
    )
    assert answer.status_code == 200, answer.text
    first, second, third = parts_of(answer)
    assert [part.get_filename() for part in (first, second, third)] == ["ä.png", "b.png", "c.tif"]
    assert [part["X-Rayscale-Status"] for part in (first, second, third)] == ["200", "415", "200"]
    assert first.get_content() == direct(images[0])
    assert third.get_content() == direct(images[1])
    assert third["X-Rayscale-Model"] == "bicubic"
    error = json.loads(second.get_payload(decode=True))["error"]
    assert error["code"] == "unsupported_media"
    assert error["request_id"] == answer.headers["x-request-id"]


def test_an_archive_has_a_file_for_each(make_app: Any, tools: Any) -> None:
    data = tools.encoded(7, 7)
    body, kind = form(("a.png", data), ("a.png", data), ("..", data), ("b.dcm", b"x"))
    answer = tools.call(
        make_app(),
        "POST",
        "/v1/upscale?model=bicubic&scale=2&format=tiff",
        content=body,
        headers={"Content-Type": kind, "Accept": "application/zip"},
    )
    assert answer.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    told = json.loads(archive.read("results.json"))
    files = ["a.tif", "0002-a.tif", "image-3.tif", "b.tif.error.json"]
    assert [row["file"] for row in told] == files
    assert [row["status"] for row in told] == [200, 200, 200, 415]
    assert told[0]["headers"]["X-Rayscale-Scale"] == "2"
    assert sorted(archive.namelist()) == sorted([*files, "results.json"])
    assert read_image(archive.read("a.tif")).pixels.shape == (14, 14, 3)


def test_a_form_of_too_many_bytes(make_app: Any, tools: Any) -> None:
    body, kind = form(("a.png", bytes(3000)), ("b.png", bytes(3000)))
    answer = tools.call(
        make_app(max_form_bytes=5000),
        "POST",
        "/v1/upscale",
        content=body,
        headers={"Content-Type": kind},
    )
    assert (answer.status_code, answer.json()["error"]["limit"]) == (
        413,
        {"RAYSCALE_SERVE_MAX_FORM_BYTES": 5000},
    )


class Counting:
    """A backend that knows how many of its results anybody still holds."""

    def __init__(self, refusals: int = 0) -> None:
        self.working = self.peak = 0
        self.left = refusals
        self.refuse_later = False
        self.results: list[weakref.ref[Result]] = []

    def name(self) -> str:
        return "here"

    def places(self) -> int:
        return 4

    async def upscale(self, job: UpscaleRequest) -> Result:
        self.working += 1
        gc.collect()
        held = sum(result() is not None for result in self.results)
        self.peak = max(self.peak, self.working + held)
        await asyncio.sleep(0)
        self.working -= 1
        if self.left:
            self.left -= 1
            raise OverloadedError("full")
        result = Result(job.data, "png", "bicubic", "", 2, {})
        self.results.append(weakref.ref(result))
        if self.refuse_later:
            self.left, self.refuse_later = 1, False
        return result

    async def ready(self) -> bool:
        return True

    async def models(self) -> list[dict[str, Any]]:
        return []


@pytest.fixture
def little_garbage() -> Iterator[None]:
    """What is there already is not collected again and again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("little_garbage")
def test_results_are_sent_as_they_come_and_not_kept(make_app: Any, tools: Any) -> None:
    backend = Counting()
    body, kind = form(*[(f"{i}.png", tools.encoded(4, 4, seed=i)) for i in range(20)])
    answer = tools.call(
        make_app(backend), "POST", "/v1/upscale", content=body, headers={"Content-Type": kind}
    )
    assert len(parts_of(answer)) == 20
    assert (
        backend.peak <= 2 + 1
    )  # two at work or waiting to be sent, and the one that is being sent


@pytest.mark.usefixtures("little_garbage")
def test_a_full_queue_refuses_the_form_or_makes_its_later_images_wait(
    make_app: Any, tools: Any
) -> None:
    body, kind = form(*[(f"{i}.png", tools.encoded(4, 4)) for i in range(3)])
    backend = Counting(refusals=1)
    ask = {"content": body, "headers": {"Content-Type": kind}}
    app = make_app(backend, retry_after_s=1)
    assert tools.call(app, "POST", "/v1/upscale", **ask).status_code == 429

    backend.refuse_later = True
    answer = tools.call(app, "POST", "/v1/upscale", **ask)
    assert [part["X-Rayscale-Status"] for part in parts_of(answer)] == ["200"] * 3
    assert backend.left == 0
