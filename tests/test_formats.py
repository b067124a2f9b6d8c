"""Formats: what an earlier rayscale wrote is read, what a later one writes is refused with a way out.

``stored/`` holds what rayscale wrote before results, rows and checkpoints had a number: a dataset of two images, a run on
it that ended at step 2, and the journal of a batch. It is never written again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from rayscale.batch.job import open_method
from rayscale.batch.manifest import Manifest
from rayscale.cli import batch
from rayscale.cli.app import app
from rayscale.data.manifest import Manifest as DatasetManifest
from rayscale.errors import StorageError, UnsupportedError
from rayscale.models.builtin import read_spec
from rayscale.models.weights import load_model
from rayscale.options import Options
from rayscale.registry.version import read_version
from rayscale.resampling import degrade
from rayscale.settings import get_settings
from rayscale.storage import connect
from rayscale.training.config import load_config
from rayscale.training.loop import train
from rayscale.training.run import read_result

STORED = Path(__file__).parent / "stored"
PART = "_rayscale/manifest/00000001-000000.jsonl"


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what was written, which may be changed and written on."""
    monkeypatch.setenv("RAYSCALE_CACHE_DIR", str(tmp_path / "cache"))
    get_settings.cache_clear()
    shutil.copytree(STORED, tmp_path / "stored")
    return tmp_path / "stored"


def renumber(path: Path, number: int = 2) -> None:
    """Make it a file of a later format."""
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": number}))


def test_a_run_of_before_goes_on(stored: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = stored / "runs/old"
    assert read_result(str(folder)).sha256 == read_result(str(STORED / "runs/old")).sha256
    assert load_model(folder / "model.safetensors").spec.system == "edsr-baseline"
    places = [f"data.uri={stored / 'dataset'}", f"run.uri={stored / 'runs'}"]
    config = load_config(folder / "config.yaml", [*places, "optimizer.steps=4"])
    with caplog.at_level("INFO"):
        assert train(config, device="cpu").steps == 4
    assert "from step 2" in caplog.text
    assert (folder / "checkpoints/step-00000004/COMMITTED").is_file()
    assert json.loads((folder / "result.json").read_text())["format"] == 1


def test_a_later_result_is_refused(stored: Path) -> None:
    renumber(stored / "runs/old/result.json")
    with pytest.raises(
        UnsupportedError, match=r"result\.json has format 2, this version reads 1; .*fresh=true"
    ):
        read_result(str(stored / "runs/old"))


def test_a_later_dataset_is_refused(stored: Path) -> None:
    manifest = DatasetManifest.load(stored / "dataset")
    assert (manifest.format, len(manifest.shards)) == (1, 1)  # its lists stand in the manifest
    renumber(stored / "dataset/manifest.json", 3)
    with pytest.raises(
        UnsupportedError, match=r"has format 3, .*use the rayscale that wrote it, or prepare"
    ):
        DatasetManifest.load(stored / "dataset")


def test_rows_of_before_count_and_are_written_with_a_number(stored: Path) -> None:
    store = connect(stored / "target")
    manifest = Manifest(store, 2).load()
    assert {key: row.error for key, row in manifest.rows.items()} == {
        "0.png": "",
        "broken.png": "bad_image",
    }
    # The same model and options are the same method still: what was done is not done again.
    assert manifest.rows["0.png"].recipe == open_method("bicubic", Options(scale=2))[1].id
    manifest.publish()
    lines = store.read("_rayscale/manifest.jsonl").splitlines()
    assert [json.loads(line)["format"] for line in lines] == [1, 1]
    manifest.append(list(manifest.rows.values()))
    manifest.flush()
    written = store.read("_rayscale/manifest/00000002-000000.jsonl").splitlines()
    assert [json.loads(line)["format"] for line in written] == [1, 1]


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ('{"key": "a", "format": 2}', UnsupportedError, "format 2, this version reads 1; use the"),
        ("[1, 2]", StorageError, "is not an object"),
    ],
)
def test_a_later_row_is_refused(
    stored: Path, line: str, error: type[Exception], message: str
) -> None:
    (stored / "target" / PART).write_text(f"{line}\n")
    with pytest.raises(error, match=rf"00000001-000000\.jsonl.*{message}"):
        Manifest(connect(stored / "target"), 2).load()


def test_a_later_registration_is_refused() -> None:
    spec, digest = read_spec("edsr-baseline-x2")
    tags = {"rayscale.sha256": digest, "rayscale.spec": spec.to_json()}

    def read(**more: str) -> Any:
        found = SimpleNamespace(
            name="roofs", version="3", tags={**tags, **more}, source="s3://a", run_id="", description="",
            creation_timestamp=0,
        )  # fmt: skip
        return read_version(found, {})

    assert read().digest == digest
    with pytest.raises(
        UnsupportedError, match=r"roofs/3 was registered in format 2, .*rayscale 0\.9"
    ):
        read(**{"rayscale.format": "2", "rayscale.version": "0.9"})


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``photo.png`` and the benchmark ``set/`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYSCALE_HOME", str(tmp_path / "home"))
    get_settings.cache_clear()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    PIL.Image.fromarray(pixels).save("photo.png")
    for folder, made in (("HR", pixels), ("LR", degrade(pixels, 2))):
        Path("set", folder).mkdir(parents=True)
        PIL.Image.fromarray(made).save(f"set/{folder}/a.png")


@pytest.mark.parametrize(
    "command",
    [
        "upscale photo.png larger.png -m bicubic",
        "upscale s3://a s3://b",
        "degrade photo.png smaller.png",
        "info photo.png",
        "evaluate -m bicubic --data set -s 2",
        "models",
        "settings",
        "status",
    ],
)
def test_what_a_command_prints_begins_with_its_format(
    pictures: None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise StorageError("there is no bucket")

    monkeypatch.setattr(batch, "run_batch", fail)
    monkeypatch.setattr("rayscale.cli.images.run_batch", fail)
    answer = CliRunner().invoke(app, [*command.split(), "--json"])
    found = json.loads(answer.stdout)
    for each in found if isinstance(found, list) else [found]:
        assert next(iter(each.items())) == ("format", 1)


def test_commands_print_json_by_one_function(checkout: Path) -> None:
    for path in (checkout / "platform/rayscale/cli").glob("*.py"):
        assert "json.dumps" not in path.read_text(), path
