from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rayscale.data.cutting import Cut
from rayscale.data.shards import ShardWriter, open_shard, read_places
from rayscale.errors import StorageError


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3, 13])
def test_rows_come_back_as_views(
    tmp_path: Path, make_noise: Callable[..., np.ndarray], bits: int, channels: int
) -> None:
    first = [make_noise(7, 5, channels, bits, seed) for seed in range(3)]
    second = [make_noise(4, 9, channels, bits, seed=9)]
    path = tmp_path / "a.arrow"
    with ShardWriter(path, 2, bits) as writer:
        writer.add("ä b.png", [Cut(0, n, 7, 5) for n in range(3)], first)
        writer.add("b.png", [Cut(12, 24, 4, 9)], second)
    rows = open_shard(path)
    assert [row.dtype.itemsize * 8 for row in rows] == [bits] * 4
    for row, pixels in zip(rows, first + second, strict=True):
        np.testing.assert_array_equal(row.transpose(1, 2, 0), pixels)
        assert not row.flags.writeable
        assert not row.flags.owndata
    assert read_places(path)[1] == ("ä b.png", Cut(0, 1, 7, 5))
    assert read_places(path)[3] == ("b.png", Cut(12, 24, 4, 9))


def test_equal_content_is_equal_bytes(
    tmp_path: Path, make_noise: Callable[..., np.ndarray]
) -> None:
    for name in ("a", "b"):
        with ShardWriter(tmp_path / name, 1, 8) as writer:
            writer.add("x.png", [Cut(0, 0, 8, 8)], [make_noise(8, 8)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    path.write_bytes(b"not arrow at all" * 10)
    with pytest.raises(StorageError, match="not a shard"):
        open_shard(path)
    with pytest.raises(FileNotFoundError):
        open_shard(tmp_path / "missing.arrow")
