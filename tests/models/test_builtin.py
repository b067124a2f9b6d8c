"""The models that come with rayscale are what their cards say."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from rayscale.errors import ConfigError, NotFoundError
from rayscale.evaluation import evaluate, read_pairs
from rayscale.inference import Upscaler
from rayscale.models.builtin import (
    BUNDLED,
    builtin_names,
    bundled_names,
    default_models,
    find_bundled,
    open_builtin,
    read_card,
    read_spec,
    serving,
)
from rayscale.options import Options

NAMES = bundled_names()


def test_the_interpolations_and_the_first_model_are_there():
    assert {"bicubic", "bilinear", "edsr-baseline-x2"} <= set(builtin_names())


def test_every_file_has_its_card_and_the_other_way_round():
    assert {path.stem for path in BUNDLED.glob("*.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_card_file_and_network_agree(name):
    card = read_card(name)
    opened = open_builtin(name)
    model, digest = opened.network, opened.digest
    assert opened.label == name
    path = BUNDLED / f"{name}.safetensors"
    assert path.stat().st_size < 6_000_000
    assert digest == card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_spec(name) == (model.spec, digest)
    assert json.loads(model.spec.to_json()) == card["specification"]
    assert {"summary", "data", "command", "steps", "figures"} <= card.keys()
    assert card["licence"] == "Apache-2.0"
    assert card["data_licence"]
    assert all(row["protocol"] for row in card["figures"])
    assert not model.training


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_figures_of_the_card_are_reproduced(name, shared_data):
    model = open_builtin(name).network
    rows = [row for row in read_card(name)["figures"] if row["set"] == "Set5"]
    if not rows:
        pytest.skip("the model is not for photographs")
    row = rows[0]
    pairs = list(read_pairs(shared_data / "benchmarks" / "Set5" / f"x{row['scale']}", row["scale"]))
    report = evaluate(
        Upscaler(model, Options(scale=row["scale"], precision="float32"), calibrate=False),
        pairs,
    )
    assert report.protocol == row["protocol"]
    assert report.psnr == pytest.approx(row["psnr"], abs=0.01)
    assert report.ssim == pytest.approx(row["ssim"], abs=0.001)


def test_a_system_and_a_scale_mean_a_bundled_model():
    assert find_bundled("edsr-baseline", 2.0) == "edsr-baseline-x2"
    assert find_bundled("edsr-baseline", 2.5) is None
    assert find_bundled("edsr-baseline", None) == "edsr-baseline-x2"
    assert find_bundled("srresnet", None) == "srresnet-x4"
    assert find_bundled("edsr", 2) is None
    assert {find_bundled("mdsr-baseline", scale) for scale in (2, 3, 4)} == {"mdsr-baseline-x234"}
    assert find_bundled("mdsr-baseline", 2.5) is None


def test_the_default_depends_on_the_channels_and_the_scale():
    assert default_models(2) == ("edsr-baseline-x2", "aplus-x2")
    with pytest.raises(ConfigError, match=r"x2\.5; .*bicubic") as caught:
        default_models(2.5)
    assert "edsr-baseline-x2" not in str(caught.value)
    with pytest.raises(ConfigError, match="no built-in model"):
        default_models(17)


def test_the_models_that_serve_a_scale():
    assert {"bilinear", "bicubic", "aplus-x3"} <= set(serving(3))
    assert "aplus-x2" not in serving(3)


def test_asking_for_scales_reads_no_weights(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rayscale.models.weights.read_weights", None)
    assert find_bundled("vdsr", 2.5) == "vdsr-x234"
    assert {"bicubic", "vdsr-x234"} <= set(serving(2.5))
    assert find_bundled("vdsr", 2.51) == "vdsr-x234"
    assert find_bundled("vdsr", 9) is None


def test_an_unknown_model_names_those_there_are():
    with pytest.raises(NotFoundError, match="edsr-baseline-x2"):
        open_builtin("edsr-baseline-x9")


def test_names_cost_no_import_of_torch():
    code = "import sys; from rayscale.models.builtin import builtin_names; builtin_names(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
