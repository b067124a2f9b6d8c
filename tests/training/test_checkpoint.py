"""A checkpoint exists when its marker does, whatever happens before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rayscale.errors import InputError, NotFoundError, StorageError
from rayscale.models.systems import create_model
from rayscale.models.weights import load_model
from rayscale.storage import connect
from rayscale.training.checkpoint import FORMAT, Checkpoints, DamagedError

STATE = {"step": 0, "model": {"w": torch.arange(6.0).reshape(2, 3)}, "list": [1, 2.5, None, "x"]}


def model() -> torch.nn.Module:
    return create_model("edsr-baseline", scale=2, blocks=1, filters=4)


def save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(step, STATE | {"step": step}, model())  # type: ignore[arg-type]
    checkpoints.wait()


def folders(root: Path) -> set[str]:
    return {path.parent.name for path in root.rglob("*") if path.is_file()}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(connect(tmp_path))
    assert checkpoints.latest() is None
    save(checkpoints, 7)
    found = checkpoints.latest()
    assert found is not None
    assert found.step == found.state["step"] == 7
    assert torch.equal(found.state["model"]["w"], STATE["model"]["w"])  # type: ignore[index]
    assert found.state["list"] == STATE["list"]
    assert load_model(tmp_path / "step-00000007" / "weights.safetensors").scales == (2,)


def test_the_marker_names_sizes_and_digests(tmp_path: Path) -> None:
    save(Checkpoints(connect(tmp_path)), 7)
    folder = tmp_path / "step-00000007"
    marker = json.loads((folder / "COMMITTED").read_text())
    assert marker["step"] == 7
    assert {name: file["bytes"] for name, file in marker["files"].items()} == {
        name: (folder / name).stat().st_size for name in ("state.pt", "weights.safetensors")
    }


def test_markers_without_a_format_are_read_and_later_ones_are_no_damage(tmp_path: Path) -> None:
    checkpoints = Checkpoints(connect(tmp_path))
    save(checkpoints, 1)
    save(checkpoints, 2)
    marker = tmp_path / "step-00000002" / "COMMITTED"
    content = json.loads(marker.read_text())
    assert content.pop("format") == FORMAT
    marker.write_text(json.dumps(content))  # as before there was a number
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 2
    marker.write_text(json.dumps({**content, "format": FORMAT + 1}))
    with pytest.raises(InputError, match="has format 2, this version reads 1; resume with the"):
        checkpoints.latest()


def test_only_the_newest_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(connect(tmp_path), keep=2)
    for step in (1, 2, 3, 10):
        save(checkpoints, step)
    assert checkpoints.steps() == [3, 10]
    assert folders(tmp_path) == {"step-00000003", "step-00000010"}


def test_weights_are_fetched_as_they_were_committed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(connect(tmp_path / "run"))
    save(checkpoints, 3)
    saved = tmp_path / "run" / "step-00000003" / "weights.safetensors"
    checkpoints.fetch_weights(3, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == saved.read_bytes()
    saved.write_bytes(saved.read_bytes()[:-1])
    with pytest.raises(DamagedError, match="not what was committed"):
        checkpoints.fetch_weights(3, tmp_path / "copy")
    with pytest.raises(NotFoundError):
        checkpoints.fetch_weights(4, tmp_path / "copy")


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "marker"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(connect(tmp_path))
    save(checkpoints, 1)
    save(checkpoints, 2)
    state = tmp_path / "step-00000002" / "state.pt"
    data = state.read_bytes()
    if damage == "truncate":
        state.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        state.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    elif damage == "remove":
        state.unlink()
    else:
        (tmp_path / "step-00000002" / "COMMITTED").write_text("{")
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1
    save(checkpoints, 2)  # the run comes by again and replaces it
    again = checkpoints.latest()
    assert again is not None
    assert again.step == 2


def test_a_damaged_checkpoint_takes_no_whole_ones_place(tmp_path: Path) -> None:
    checkpoints = Checkpoints(connect(tmp_path))
    for step in (2, 4, 6):
        save(checkpoints, step)
    (tmp_path / "step-00000006" / "state.pt").write_bytes(b"")
    again = Checkpoints(connect(tmp_path), keep=1)
    found = again.latest()
    assert found is not None
    assert found.step == 4
    again.sweep()
    assert again.steps() == [4, 6], "the newest whole one, and the damaged one that is ahead"
    save(again, 5)
    assert again.steps() == [5, 6]
    save(again, 6)
    assert again.steps() == [6], "written anew, it is whole"
    (tmp_path / "step-00000006" / "state.pt").write_bytes(b"")
    last = Checkpoints(connect(tmp_path), keep=1)
    assert last.latest() is None
    last.sweep()
    assert last.steps() == [6], "the only one is not thrown away"
    save(last, 7)
    assert last.steps() == [7]


KILLED = """
import sys, time
from rayscale.models.systems import create_model
from rayscale.storage import connect
from rayscale.storage.local import LocalStore
from rayscale.training.checkpoint import FORMAT, Checkpoints, DamagedError

def write_file(self, key, path, original=LocalStore.write_file):
    if "slow" in sys.argv and key == "weights.safetensors":
        print("half", flush=True)
        time.sleep(60)
    return original(self, key, path)

LocalStore.write_file = write_file
checkpoints = Checkpoints(connect(sys.argv[1]))
checkpoints.save(int(sys.argv[2]), {"step": int(sys.argv[2])},
                 create_model("edsr-baseline", scale=2, blocks=1, filters=4))
checkpoints.wait()
"""


def test_kill_in_mid_checkpoint_leaves_the_last_committed(tmp_path: Path, checkout: Path) -> None:
    checkpoints = Checkpoints(connect(tmp_path))
    save(checkpoints, 1)
    environment = os.environ | {"PYTHONPATH": str(checkout / "platform")}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), "2", "slow"],
        stdout=subprocess.PIPE,
        env=environment,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "step-00000002" / "state.pt").exists()
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1
    checkpoints.sweep()
    assert folders(tmp_path) == {"step-00000001"}


def test_an_error_of_the_background_save_surfaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(connect(tmp_path))

    def refuse(*_: object) -> str:
        raise StorageError("disk full")

    monkeypatch.setattr(type(checkpoints.store), "write_file", refuse)
    checkpoints.save(1, {"step": 1}, model())  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="disk full"):
        checkpoints.wait()
    checkpoints.wait()  # raised once
    assert checkpoints.steps() == []
