"""A small kill run, and that its checks can fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import kill_run
from benchmarks.kill_report import Report, Watcher
from benchmarks.undisturbed import SCENE, Expected, Output, make_images, reference

from rayscale.storage.local import LocalStore


def test_the_images_are_what_they_are_called() -> None:
    files = make_images(32, 8, seed=1)
    outputs = reference(files).outputs
    assert len(files) == 32
    assert files.keys() - outputs.keys() == set(sorted(files, key=lambda key: key[2:])[24:])


def test_what_was_seen_must_stay(tmp_path: Path) -> None:
    """An object that is wrong, written again, or gone is a fault; a part counts as progress."""
    target, right = LocalStore(tmp_path), Output.of(b"right")
    expected = Expected({"a": right, "b": right, SCENE: right}, 4, 0.0)
    watcher = Watcher(target, expected, report := Report("bicubic", 2, 0))
    target.write("a", b"right")
    target.write("_rayscale/scenes/x/000000.npz", b"part")
    watcher.look()
    assert (watcher.progress, report.faults) == (0.75, [])
    target.write("b", b"wrong")
    target.write("a", b"right")
    watcher.look()
    target.delete("b")
    target.write(SCENE, b"righ")
    watcher.look()
    assert watcher.progress == 3
    assert report.faults == [
        "during the run, a was written again",
        "during the run, b was not what it must be",
        "during the run, b was there and then not",
        f"during the run, {SCENE} was not what it must be",
    ]


@pytest.mark.slow
@pytest.mark.stack
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_double(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scene of four windows among images, so that workers of each kind die."""
    pytest.importorskip("rasterio", reason="needs the extra geo")
    monkeypatch.setenv("RAYSCALE_SCENE_PIXELS", "1000000")
    for seed in (3, 4, 5):  # the assembly may end before its kill comes, which proves nothing
        folder = tmp_path / str(seed)
        folder.mkdir()
        report = kill_run.run(folder, images=40, kills=4, scene=3, model="bicubic", seed=seed)
        if report.faults != ["the work ended after 3 of 4 kills"]:
            break
    assert report.faults == []
    assert report.kills.total() == 4
    assert report.phases["assembly"]
    assert report.windows == 4
    assert report.samples > 0
