"""What ``rayscale gc`` finds, and what it never touches."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from tests.plugins.stack import Bucket

from rayscale.cli import run
from rayscale.data import Manifest
from rayscale.errors import ConfigError
from rayscale.operations.leftovers import delete, find
from rayscale.storage import connect

OLD = time.time() - 10 * 86400
DAY = 86400.0


def put(root: Path, key: str, content: str = "x" * 100, when: float = OLD) -> Path:
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (when, when))
    return path


def checkpoint(root: Path, step: int, *, committed: bool = True, when: float = OLD) -> None:
    folder = f"checkpoints/step-{step:08d}"
    put(root, f"{folder}/state.pt", when=when)
    if committed:
        put(root, f"{folder}/COMMITTED", "{}", when=when)


def places(root: Path, **options: object) -> dict[str, str]:
    found = find(connect(root), **{"age_s": DAY, **options})  # type: ignore[arg-type]
    return {each.place: each.reason for each in found}


def test_a_finished_run_keeps_its_newest_checkpoint(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        checkpoint(tmp_path / "runs/a", step)
        checkpoint(tmp_path / "runs/b", step)
    put(tmp_path / "runs/a", "result.json", json.dumps({"complete": True}))
    put(tmp_path / "runs/b", "result.json", json.dumps({"complete": False}))
    steps = {f"runs/a/checkpoints/step-{step:08d}" for step in (10, 20)}
    assert set(places(tmp_path)) == steps
    assert set(places(tmp_path, keep=2)) == {"runs/a/checkpoints/step-00000010"}


def test_what_was_never_committed_goes_unless_it_is_young_or_somebody_works(tmp_path: Path) -> None:
    checkpoint(tmp_path / "idle", 10, committed=False)
    checkpoint(tmp_path / "young", 10, committed=False, when=time.time())
    checkpoint(tmp_path / "works", 10, committed=False)
    put(tmp_path / "works", "lease/00000001.json", '{"state": "held"}', time.time())
    assert places(tmp_path) == {"idle/checkpoints/step-00000010": "it was never committed"}
    # A holder that has not moved since the age began is dead.
    put(tmp_path / "works", "lease/00000001.json", '{"state": "held"}', OLD)
    assert len(places(tmp_path)) == 2


def test_older_best_weights_go(tmp_path: Path) -> None:
    put(tmp_path, "checkpoints/best-00000010.safetensors")
    put(tmp_path, "checkpoints/best-00000020.safetensors")
    assert places(tmp_path) == {}  # nobody says which is the best
    put(tmp_path, "checkpoints/best.json", '{"file": "best-00000020.safetensors"}')
    assert list(places(tmp_path)) == ["checkpoints/best-00000010.safetensors"]


def test_shards_that_the_manifest_does_not_name_go(dataset: Path) -> None:
    stale = "shards/00000-0123456789ab"
    for suffix in (".json", ".hr.arrow", ".1.x2.arrow"):
        put(dataset, stale + suffix)
    for path in dataset.rglob("*"):
        os.utime(path, (OLD, OLD))
    store = connect(dataset)
    (found,) = find(store, age_s=DAY)
    assert (found.place, len(found.entries), found.bytes) == (stale, 3, 300)
    delete(store, found)
    assert find(store, age_s=DAY) == []
    assert Manifest.load(str(dataset)).counts.images == 4


def test_a_damaged_manifest_condemns_no_shard(dataset: Path) -> None:
    (dataset / "manifest.json").write_text("{")
    assert places(dataset, age_s=-10.0) == {}
    (dataset / "manifest.json").unlink()
    assert set(places(dataset, age_s=-10.0).values()) == {"its dataset was never finished"}


def test_windows_of_scenes_that_nobody_goes_on_with_go(tmp_path: Path) -> None:
    scene = "_rayscale/scenes/" + "ab" * 16
    put(tmp_path / "out", f"{scene}/000000.npz")
    put(tmp_path / "out", f"{scene}/scene.json", '"a.tif"')
    put(tmp_path / "out", "a.tif")
    assert list(places(tmp_path)) == [f"out/{scene}"]
    put(tmp_path / "out", f"{scene}/000001.npz", when=time.time())  # one part is young: all stay
    assert places(tmp_path) == {}


def test_results_end_by_the_time_in_their_names(tmp_path: Path) -> None:
    ends = {"over": time.time() - 5, "kept": time.time() + 60}
    names = {key: f"{int(when):010x}-{key:_<22}" for key, when in ends.items()}
    for name in names.values():
        put(tmp_path, f"{name}/before", when=time.time())
        put(tmp_path, f"{name}/record.json", when=time.time())
    (found,) = find(connect(tmp_path), age_s=DAY)
    assert (found.place, found.kind) == (names["over"], "result")
    assert found.entries[0].key.endswith("record.json")


def test_images_and_foreign_files_are_never_found(tmp_path: Path) -> None:
    for key in ("step-00000001/a.png", "checkpoints/a.png", "shards/a.arrow", "best.safetensors"):
        put(tmp_path, key)
    assert places(tmp_path, age_s=-10.0) == {}


def test_a_kind_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown kind 'photos'; use one of checkpoint, shard"):
        find(connect(tmp_path), age_s=0, kinds=["photos"])


def test_the_command_deletes_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(tmp_path, 10, committed=False)
    assert run("gc", str(tmp_path), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["bytes"], told["deleted"], len(told["leftovers"])) == (100, False, 1)
    assert (tmp_path / "checkpoints/step-00000010/state.pt").is_file()
    assert run("gc", str(tmp_path), "--older-than", "20d") == 0
    assert "nothing to delete" in capsys.readouterr().err
    assert run("gc", str(tmp_path), "--delete") == 0
    assert "deleted 100 bytes" in capsys.readouterr().out
    assert not (tmp_path / "checkpoints/step-00000010/state.pt").exists()


def test_uploads_whose_writer_died_go(s3: Bucket) -> None:
    from rayscale.storage.s3_client import get_client

    client, place = get_client(), {"Bucket": s3.name, "Key": "out/a.tif"}
    begun = client.create_multipart_upload(**place)
    client.upload_part(**place, UploadId=begun["UploadId"], PartNumber=1, Body=b"x" * 1000)
    store = connect(f"{s3.uri}/out")
    assert find(store, age_s=DAY) == []
    (found,) = find(store, age_s=0, now=time.time() + 60)
    assert (found.kind, found.place, found.bytes) == ("upload", "a.tif", 1000)
    delete(store, found)
    assert find(store, age_s=0, now=time.time() + 60) == []
