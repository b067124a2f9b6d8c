"""Damaged files of every container through HTTP: an answer below 500, and nothing left of them in the process.

``pytest tests/serving/test_broken_bodies.py --hypothesis-profile=long`` tries a hundred times as many.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import rayscale.serving

EXAMPLES = Path(rayscale.serving.__file__).with_name("examples")
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.name.startswith("small."))
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
_MOST_GROWTH = 96 << 20

# One change: its kind, where (as a share of the file), and with what.
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "extreme", "cut", "drop", "double"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=6,
)


def change(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    """The file with all changes made."""
    made = bytearray(data)
    for kind, place, value in changes:
        if not made:
            break
        at, width = int(place * len(made)), 1 << value % 3
        if kind == "flip":
            made[at] ^= 1 << value % 8
        elif kind == "set":
            made[at] = value % 256
        elif kind == "extreme":
            order = "little" if value & 8 else "big"
            number = EXTREMES[value % len(EXTREMES)] % 256**width
            made[at : at + width] = number.to_bytes(width, order)  # type: ignore[arg-type]
        elif kind == "cut":
            del made[at:]
        elif kind == "drop":
            del made[at : at + 1 + value % 40]
        else:
            made[at:at] = made[at : at + 1 + value % 400]
    return bytes(made)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def post(
    make_app: Any, tools: Any, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """Sends a body to the service in this process and gives the answer; files in memory are small."""
    for name in ("MAX_INPUT_PIXELS", "MAX_OUTPUT_PIXELS"):
        monkeypatch.setenv(f"RAYSCALE_{name}", "4000000")
    client = tools.client(make_app())

    def send(data: bytes, place: str) -> Any:
        return runner.run(client.post(place, content=data))

    yield send
    runner.run(client.aclose())


def held() -> dict[str, int]:
    """What the process holds."""
    gc.collect()
    process = psutil.Process()
    return {
        "threads": threading.active_count(),
        "files": process.num_fds(),
        "temporary files": len(os.listdir(tempfile.gettempdir())),
        "bytes": process.memory_info().rss,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_answered_and_leave_nothing(
    post: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ".dcm" in name:
        pytest.importorskip("pydicom")
    if ".geo." in name:
        pytest.importorskip("rasterio")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    whole = (EXAMPLES / name).read_bytes()
    packed = name.endswith(".gz")
    content = gzip.decompress(whole) if packed else whole
    for _ in range(5):  # threads and buffers that stay are there
        assert post(whole, "/v1/upscale?scale=2").status_code == 200
    before = held()

    @settings(
        max_examples=settings().max_examples * 2 // 5,  # of the profile
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(changes=CHANGES, inside=st.booleans(), place=st.sampled_from(["upscale", "estimate"]))
    def damage(changes: list[tuple[str, float, int]], inside: bool, place: str) -> None:
        if packed and inside:
            data = gzip.compress(change(content, changes), 1)
        else:
            data = change(whole, changes)
        answer = post(data, f"/v1/{place}?scale=2")
        assert answer.status_code < 500, (answer.text, data.hex())
        if answer.status_code != 200:
            assert answer.json()["error"]["message"]

    damage()
    after = held()
    grown = {what: after[what] - before[what] for what in before}
    assert grown.pop("bytes") < _MOST_GROWTH
    assert grown["temporary files"] == 0
    assert all(more <= 4 for more in grown.values()), grown
