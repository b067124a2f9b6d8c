"""A small kill run, and that its checks can fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import kill_run


def test_the_images_are_what_they_are_called() -> None:
    files = kill_run.make_images(32, 8, seed=1)
    expected = kill_run.reference(files)
    assert len(files) == 32
    assert files.keys() - expected.keys() == set(sorted(files, key=lambda key: key[2:])[24:])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_double(tmp_path: Path) -> None:
    report = kill_run.run(tmp_path, images=60, kills=4, seed=3)
    assert report.faults == []
    assert report.kills.total() == 4
    assert report.samples > 0
