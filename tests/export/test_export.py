"""An export computes what the network computes, says what it is, and is refused where it loses too much."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.export.conftest import small
from typer.testing import CliRunner

from rayscale.cli import run
from rayscale.cli.app import app
from rayscale.errors import ConfigError, InputError, UnsupportedError
from rayscale.export import export_model, job
from rayscale.export.job import LossError
from rayscale.inference import Options, Upscaler, exported
from rayscale.inference.exported import open_export
from rayscale.models.builtin import open_builtin
from rayscale.models.spec import ModelSpec
from rayscale.models.weights import WeightsError, save_model

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
openvino = pytest.importorskip("openvino", reason="needs the extra openvino")

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed is small."""
    monkeypatch.setattr(job, "_SIDE", 16)
    monkeypatch.setattr(job, "_ROUNDS", 1)


ENDINGS = {"onnx": "onnx", "openvino": "xml"}


@pytest.mark.parametrize(
    ("system", "scale", "kind"),
    [
        ("edsr-baseline", 2, "onnx"),
        ("edsr-baseline", 2, "openvino"),
        ("mdsr-baseline", 3, "onnx"),
        ("srresnet", 4, "onnx"),
        ("vdsr", 2.5, "onnx"),
    ],
)
def test_what_was_written_enlarges_as_the_network(
    tmp_path: Path, system: str, scale: float, kind: Any
) -> None:
    opened = small(system, scale)
    path = tmp_path / f"small.{ENDINGS[kind]}"
    exported = export_model(opened, kind, path, scale)
    assert exported.parity < 0.01
    again = open_export(path)
    assert again.network.spec == opened.network.spec
    pixels = np.random.default_rng(1).integers(0, 256, (40, 32, 3), np.uint8)
    options = Options(scale=scale, precision="float32", tile=24)  # several, with halo
    want, found = (
        Upscaler(each, options).upscale_pixels(pixels).astype(int)
        for each in (opened.network, again.network)
    )
    assert np.abs(want - found).max() <= 1  # a rounded half, and the same radiometry


@pytest.mark.parametrize("kind", ENDINGS)
@pytest.mark.parametrize("system", ["edsr-baseline", "vdsr"])
def test_it_travels_to_workers(tmp_path: Path, kind: Any, system: str) -> None:
    path = tmp_path / f"small.{ENDINGS[kind]}"
    export_model(small(system), kind, path)
    network = open_export(path).network
    path.unlink()  # which they need not have
    again = pickle.loads(pickle.dumps(network))
    pixels = np.random.default_rng(1).integers(0, 256, (20, 32, 3), np.uint8)
    options = Options(scale=2, precision="float32")
    want, found = (Upscaler(each, options).upscale_pixels(pixels) for each in (network, again))
    np.testing.assert_array_equal(found, want)


def test_onnx_is_what_anyone_can_run(tmp_path: Path) -> None:
    opened = small("edsr-baseline")
    export_model(opened, "onnx", tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    assert ModelSpec.from_json(facts["rayscale.spec"]) == opened.network.spec
    assert int(facts["rayscale.halo"]) == opened.network.halo(2)
    assert facts["rayscale.levels"] == "0..255"
    (y,) = session.run(None, {"x": np.zeros((3, 3, 20, 33), np.float32)})
    assert y.shape == (3, 3, 40, 66)


def test_luma_is_exported_as_what_follows_bicubic(tmp_path: Path) -> None:
    export_model(small("srcnn-955"), "onnx", tmp_path / "y.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "y.onnx")
    assert session.get_modelmeta().custom_metadata_map["rayscale.input"] == "luma"
    (y,) = session.run(None, {"x": np.zeros((2, 1, 31, 47), np.float32)})
    assert y.shape == (2, 1, 31, 47)


@pytest.mark.parametrize("kind", ENDINGS)
def test_int8_keeps_its_quality_and_loads_back(
    tmp_path: Path, photographs: Path, kind: Any
) -> None:
    if kind == "openvino":
        pytest.importorskip("nncf", reason="needs the extra openvino")
    path = tmp_path / f"small.{ENDINGS[kind]}"
    exported = export_model(
        small("edsr-baseline", filters=32),
        kind,
        path,
        calibration=photographs / "LR",
        data=[str(photographs)],
    )
    (loss,) = exported.losses
    assert abs(loss.db) <= 0.05
    assert 0 < exported.parity < 8  # other numbers, near the same
    if kind == "onnx":
        kinds = [node.op_type for node in onnx.load(path).graph.node]
        assert kinds.count("Conv") == 8
        assert kinds.count("QuantizeLinear") == 5  # what goes into the trunk, and nothing else
    assert open_export(path).network.spec.system == "edsr-baseline"


def test_a_loss_above_the_limit_leaves_nothing(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job.kinds.write

    def damage(kind: Any, source: Any, target: Path) -> Any:
        made(kind, source, target)
        return small("edsr-baseline", filters=17).network  # another one

    monkeypatch.setattr(job.kinds, "write", damage)
    opened = open_builtin("edsr-baseline-x2")
    with pytest.raises(
        LossError, match=r"loses [0-9.]+ dB on .*over the 0.05 dB .*raise the limit"
    ):
        export_model(opened, "onnx", tmp_path / "out" / "a.onnx", data=[str(photographs)])
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "name", "more", "told"),
    [
        ("onnx", "a.xml", {}, "ends in .onnx"),
        ("torch-export", "a.pt2", {"calibration": Path()}, "torch-export has no int8"),
        ("onnx", "a.onnx", {"calibration": Path()}, "name one as data"),
    ],
)
def test_what_cannot_be_is_an_error_before_any_work(
    tmp_path: Path, kind: Any, name: str, more: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        export_model(small("edsr-baseline"), kind, tmp_path / name, **more)


def test_systems_that_are_not_layers_alone_are_refused(tmp_path: Path) -> None:
    for name in ("bicubic", "aplus-x2"):
        with pytest.raises(UnsupportedError, match="not made of layers alone"):
            export_model(open_builtin(name), "onnx", tmp_path / "a.onnx")


def test_int8_needs_convolutions_that_are_worth_it(tmp_path: Path, photographs: Path) -> None:
    more = {"calibration": photographs / "LR", "data": [str(photographs)]}
    with pytest.raises(UnsupportedError, match="export it in float32"):
        export_model(small("srcnn"), "onnx", tmp_path / "a.onnx", **more)


@pytest.mark.parametrize("name", ["a.onnx", "a.xml"])
def test_other_files_are_errors_of_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a network")
    with pytest.raises(WeightsError, match=re.escape(name)):
        open_export(tmp_path / name)


def test_onnx_of_somebody_else_is_told_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    export_model(small("edsr-baseline"), "onnx", path)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(WeightsError, match=r"lacks .*spec.*rayscale export"):
        open_export(path)


@pytest.mark.parametrize("kind", ENDINGS)
def test_an_export_that_the_signed_list_does_not_name_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a library reads it; a list that names the weights it was made of is not enough."""
    asked: list[str] = []

    def refuse(digest: str) -> None:
        asked.append(digest)
        raise InputError("the signed list does not name these weights")

    monkeypatch.setattr(exported, "require_signed", refuse)
    files = [tmp_path / f"a.{ENDINGS[kind]}"]
    files += [tmp_path / "a.bin"] if kind == "openvino" else []
    for number, file in enumerate(files):
        file.write_bytes(b"no library reads this" * number)
    with pytest.raises(WeightsError, match="signed list"):
        open_export(files[0])
    content = b"".join(file.read_bytes() for file in files)
    assert asked == [hashlib.sha256(content).hexdigest()]


def test_a_program_of_torch_is_written_but_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    assert export_model(small("edsr-baseline"), "torch-export", path).parity < 0.01
    with pytest.raises(UnsupportedError, match="may run code"):
        open_export(path)


def test_a_repository_for_triton_keeps_its_other_models(tmp_path: Path) -> None:
    (tmp_path / "repository" / "other").mkdir(parents=True)
    export_model(small("edsr-baseline"), "triton", tmp_path / "repository")
    model = tmp_path / "repository" / "small-edsr-baseline-x2"
    config = (model / "config.pbtxt").read_text()
    assert 'name: "small-edsr-baseline-x2"' in config
    assert "dims: [-1, 3, -1, -1]" in config
    assert open_export(model / "1" / "model.onnx").network.halo(2) > 0
    assert (tmp_path / "repository" / "other").is_dir()


def test_the_commands(tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(small("edsr-baseline").network, "small.safetensors")
    words = ["export", "edsr-baseline", "small.onnx", "--to", "onnx", "--weights"]
    answer = CliRunner().invoke(
        app, [*words, "small.safetensors", "--data", str(photographs), "--json"]
    )
    assert answer.exit_code == 0, answer.stderr
    told = json.loads(answer.stdout)
    assert abs(told["losses"][0]["loss_db"]) < 1e-3
    assert told["bytes"] == Path("small.onnx").stat().st_size
    source = str(photographs / "LR" / "0.png")
    assert run("upscale", source, "big.png", "-m", "edsr-baseline", "--weights", "small.onnx") == 0
    assert run("upscale", source, "b.png", "-m", "vdsr", "--weights", "small.onnx") != 0
    assert run("export", "edsr-baseline-x2", "a.onnx", "--to", "tflite") == 2
    assert run("export", "edsr-baseline-x2", "a.onnx", "--to", "onnx", "--int8") == 2
