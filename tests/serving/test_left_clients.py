"""Clients that leave in the middle, a thousand of them, and files that claim to be enormous."""

from __future__ import annotations

import gc
import io
import socket
import struct
import threading
import zlib
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tifffile
from tests.plugins.web import listening
from tests.serving.deployed import until

_MOST_GROWTH = 50 << 20


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@pytest.mark.slow
def test_a_thousand_clients_that_leave_keep_nothing(make_app: Any, tools: Any) -> None:
    """In the middle of their bodies, and before their answers."""
    app = make_app()
    data = tools.encoded(12, 12)
    head = f"POST /v1/upscale?scale=2 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    service = app.state.service
    held = service.metrics.registry.get_sample_value
    with listening(app) as address:
        host, _, port = address.partition(":")

        def leave(times: int) -> None:
            for number in range(times):
                body = data[: len(data) // 2] if number % 2 else data
                with socket.create_connection((host, int(port))) as line:
                    # No farewell: the connection is reset as soon as it is closed.
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    line.sendall(head.encode() + body)

        def settle() -> None:
            answer = httpx.post(
                f"http://{address}/v1/upscale?scale=2", content=data, timeout=120, trust_env=False
            )
            assert answer.status_code == 200
            until(lambda: not service.queue.running and not service.queue.waiting)
            until(lambda: held("rayscale_body_bytes") == 0)

        leave(100)
        settle()
        before, threads = resident(), threading.active_count()
        leave(1000)
        settle()
        assert resident() - before < _MOST_GROWTH
        assert threading.active_count() <= threads + 40  # pools of threads fill up as need be


def chunk(kind: bytes, data: bytes) -> bytes:
    checked = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checked


def png(side: int) -> bytes:
    """A header of any size over few bytes that inflate to many."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(64 << 20), 9)
    parts = (("IHDR", header), ("IDAT", rows), ("IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind.encode(), data) for kind, data in parts)


def sparse_tiff() -> bytes:
    """A TIFF whose header claims 400000 x 400000 pixels, none of which are there."""
    out = io.BytesIO()
    tifffile.imwrite(out, np.zeros((16, 16, 4), "u1"), photometric="rgb", extrasamples=["unassalpha"])  # fmt: skip
    data = bytearray(out.getvalue())
    for tag in (256, 257):  # width and height
        at = next(i for kind in (3, 4) if (i := data.find(struct.pack("<HHI", tag, kind, 1))) > 0)
        data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 400_000)
    return bytes(data)


BOMBS = {
    "png": png(60_000),
    "gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(200),
    "sparse tiff": sparse_tiff(),
    "jpeg": b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01\xff\xd9",
    "jpeg 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(200),
    "webp": b"RIFF\x16\x00\x00\x00WEBPVP8X\n\x00\x00\x00\x10\x00\x00\x00\xff\xff\xff\xff\xff\xff",
    "vrt": b'<VRTDataset rasterXSize="9" rasterYSize="9"><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>',
    "name of gdal": b"/vsicurl/http://169.254.169.254/latest",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_enormous_and_foreign_files_are_refused_by_their_headers(
    make_app: Any, tools: Any, name: str
) -> None:
    app = make_app()
    tools.call(app, "POST", "/v1/upscale", content=tools.encoded(8, 8))  # what stays is there
    before = resident()
    for path in ("upscale", "estimate", "views"):
        answer = tools.call(app, "POST", f"/v1/{path}", content=BOMBS[name])
        assert answer.status_code in (413, 415, 422), answer.text
        assert "root:" not in answer.text
    assert resident() - before < _MOST_GROWTH
