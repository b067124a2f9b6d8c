"""A batch on hosts that join while it runs, and one that goes: nothing lost, nothing twice."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from benchmarks.kill_report import BUCKET, Report, Watcher, check, outputs_of, s3_client
from benchmarks.undisturbed import SCENE, make_images, reference
from infra.lab.hosts import Lab
from tests.plugins.hosts import HEAD, await_that

from rayscale.storage import connect

IMAGES, CORRUPT = 200, 4


@pytest.fixture
def hosts(lab_s3: Lab) -> Iterator[Lab]:
    """The lab, with its store well and its head alone again after the test."""
    yield lab_s3
    lab_s3.break_store("s3", "")
    for name in [name for name in lab_s3.hosts if name not in (HEAD, "store")]:
        lab_s3.pull(name)


def works(lab: Lab, host: str) -> bool:
    """Whether a worker of the batch is there."""
    return any("UpscaleActor" in title for title in lab.hosts[host].titles())


@pytest.mark.timeout(900)
def test_workers_join_a_running_batch_and_a_lost_host_loses_nothing(
    hosts: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 images and a scene in windows on one host; two more join, and the plug of one is pulled."""
    pytest.importorskip("rasterio", reason="needs the extra geo")
    from benchmarks.scene_memory import make_scene

    monkeypatch.setenv("RAYSCALE_SCENE_PIXELS", "1000000")
    files = make_images(IMAGES, CORRUPT, seed=5)
    make_scene(tmp_path / "scene.tif", 3)
    expected = reference(files, "bicubic", tmp_path / "scene.tif")
    s3_client().create_bucket(Bucket=BUCKET)
    source, target = connect(f"s3://{BUCKET}/in"), connect(f"s3://{BUCKET}/out")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(source.write, files, files.values()))
    source.write_file(SCENE, tmp_path / "scene.tif")
    report = Report("bicubic", IMAGES, CORRUPT)
    watcher = Watcher(target, expected, report)

    hosts.break_store("s3", "slow")  # until all hosts work
    command = [sys.executable, "jobs/upscale_bucket.py", source.uri, target.uri]
    command += ["--model", "bicubic", "--scale", "2", "--device", "cpu", "--json"]
    batch = hosts.start(HEAD, command, "batch.log", RAYSCALE_SCENE_PIXELS="1000000")
    log = hosts.folder / "batch.log"

    def there(what: bool) -> bool:
        assert batch.poll() is None, log.read_text()[-4000:]
        return what

    await_that(lambda: there(bool(outputs_of(target))), log)
    hosts.add("host-2")
    hosts.add("host-3")
    for host in ("host-2", "host-3"):
        await_that(lambda host=host: there(works(hosts, host)), log)
    watcher.start()
    try:
        hosts.break_store("s3", "")
        before = len(outputs_of(target))
        await_that(lambda: len(outputs_of(target)) > before, log)
        hosts.pull("host-3")
        assert batch.wait(300) == 3, log.read_text()[-4000:]
    finally:
        watcher.stop.set()
        watcher.join()
    check(target, {*files, SCENE}, expected.outputs, report, hosts.folder / HEAD / "tmp")
    assert report.faults == []
