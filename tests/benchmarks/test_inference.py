from __future__ import annotations

import sys

import pytest
import torch
from benchmarks import inference

from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.options import Options


def test_the_table_names_every_contestant_and_who_is_missing(monkeypatch, capsys):
    arguments = (
        "--model srcnn --scale 2 --width 40 --height 30 --tiles 16 24 --rounds 1 --device cpu"
    )
    monkeypatch.setattr(sys, "argv", ["inference.py", *arguments.split()])
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    inference.main()
    printed = capsys.readouterr().out
    assert "without" in printed
    for name in (inference.STRIPS, "tiles with halo", inference.BEST_TILE, inference.WHOLE):
        assert f"{name} | float32 | " in printed


def test_the_best_size_counts():
    contestant = inference.Contestant("x", "float32", {}, {1: [3.0, 1.0, 2.0], 4: [2.5, 0.5, 4.0]})
    assert contestant.rate == 2.5


def test_ratios_are_of_pairs():
    """A machine that becomes twice as slow in the third round changes no ratio."""
    fast, slow = [4.0, 4.0, 2.0, 2.0], [2.0, 2.0, 1.0, 1.0]
    assert inference.quartiles(fast, slow) == (2.0, 2.0, 2.0)
    assert inference.quartiles([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]) == (1.5, 2.0, 2.5)


def test_the_multiplications_are_those_of_the_folded_path():
    """By hand: 3 to 64 maps, 33 times 64 to 64, and the folded 5x5 from 64 to 12."""
    model = create_model("edsr-baseline", scale=2)
    path = inference.fold(model.path(2, 3))
    assert inference.multiplications(path) == 9 * 3 * 64 + 33 * 9 * 64**2 + 25 * 64 * 12


def test_a_network_that_hides_its_path_gives_the_same():
    model = create_model("edsr-baseline", scale=2, blocks=1, filters=4)
    x = torch.rand(1, 3, 40, 30) * 255
    hidden = Upscaler(
        inference.Tiled(model), Options(scale=2, tile=16), device="cpu"
    ).predictor.predict(x)
    assert (
        hidden - Upscaler(model, Options(scale=2), device="cpu").predictor.predict(x)
    ).abs().max() <= 1e-3


def test_a_model_without_a_path_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["inference.py", "--model", "bicubic"])
    with pytest.raises(SystemExit):
        inference.main()
