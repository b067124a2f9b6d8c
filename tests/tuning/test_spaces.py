"""What may be drawn: texts and files of ranges, and whether what is drawn lies where they say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import scipy.stats

from rayscale.errors import ConfigError
from rayscale.training.config import load_config
from rayscale.tuning.samplers import Draws
from rayscale.tuning.spaces import SPACES, draw, grid, make_space
from rayscale.tuning.sweep import plan

CLIP = ["optimizer.clip_at=log:0.1:1:2 if optimizer.clip=norm", "optimizer.clip=choice:none,norm"]


def test_draws_have_the_distributions_of_their_ranges() -> None:
    space = make_space(
        "", ["a.log=log:1e-5:1e-2", "a.uniform=uniform:-1:3", "a.int=int:4:17:4", "a.b=choice:x,2"]
    )
    rows = [draw(space, Draws(1, number)) for number in range(2000)]
    logs = [(math.log10(row["a.log"]) + 5) / 3 for row in rows]
    flat = [(row["a.uniform"] + 1) / 4 for row in rows]
    for values in (logs, flat):
        assert scipy.stats.kstest(values, "uniform").pvalue > 1e-3
    for key, values in (("a.int", [4, 8, 12, 16]), ("a.b", ["x", 2])):
        counts = [sum(row[key] == value for row in rows) for value in values]
        assert sum(counts) == 2000
        assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_a_conditional_key_is_drawn_beside_its_value_only() -> None:
    space = make_space("", CLIP)
    assert [parameter.key for parameter in space] == ["optimizer.clip", "optimizer.clip_at"]
    rows = [draw(space, Draws(number)) for number in range(50)]
    assert {row["optimizer.clip"] for row in rows} == {"none", "norm"}
    for row in rows:
        assert ("optimizer.clip_at" in row) == (row["optimizer.clip"] == "norm")
    assert grid(space) == [
        {"optimizer.clip": "none"},
        {"optimizer.clip": "norm", "optimizer.clip_at": 0.1},
        {"optimizer.clip": "norm", "optimizer.clip_at": 1.0},
    ]


def test_a_grid_has_every_combination_and_both_ends() -> None:
    space = make_space("", ["a.x=log:1e-4:1e-1:4", "a.y=int:1:5:2", "a.z=uniform:0:1:3"])
    rows = grid(space)
    assert len(rows) == 4 * 3 * 3
    assert [row["a.x"] for row in rows[::9]] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert [row["a.z"] for row in rows[:3]] == [0.0, 0.5, 1.0]
    with pytest.raises(ConfigError, match=r"'log:1:2' of a.x has no points.*log:1:2:5"):
        grid(make_space("", ["a.x=log:1:2"]))


def test_a_file_and_the_command_line_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("optimizer:\n  clip: choice:none,norm\n  lr: log:1e-5:1e-2\n")
    assert make_space(str(file)) == make_space(
        "", ["optimizer.clip=choice:none,norm", "optimizer.lr=log:1e-5:1e-2"]
    )
    narrow = make_space(str(file), ["optimizer.lr=log:1e-4:1e-3"])
    assert narrow[1].low == 1e-4


def test_the_named_spaces_are_of_the_configuration() -> None:
    for name in SPACES:
        for key, value in draw(make_space(name), Draws(1)).items():
            load_config(None, [f"{key}={value}"])


@pytest.mark.parametrize(
    ("ranges", "told"),
    [
        (["optimizer.lr"], "'optimizer.lr' is not of the form KEY=RANGE"),
        (["optimizer.lr=log:0:1"], "'log:0:1' of optimizer.lr: a logarithm needs ends above 0"),
        (["optimizer.lr=log:1:0.1"], "1 is not below 0.1"),
        (["optimizer.lr=log:1e-4"], "expected log:LOW:HIGH"),
        (["optimizer.lr=normal:0:1"], "expected log:LOW:HIGH"),
        (["optimizer.lr=uniform:0:inf"], "inf is not finite"),
        (["optimizer.lr=log:a:b"], "could not convert"),
        (["model.blocks=int:1:2.5"], "whole"),
        (["model.blocks=int:1:4:0"], "above 0"),
        (["optimizer.clip=choice:"], "a choice needs values"),
        (["optimizer.clip=choice:none,none"], "each once"),
        (["optimizer.lr=log:1e-4:1 if model.blocks=3"], "model.blocks is not searched"),
        (["optimizer.lr=log:1e-4:1 if x"], "'x' of optimizer.lr is not of the form KEY=VALUE"),
        (["optimizer.lr=uniform:-1:1"], "optimizer.lr"),  # a limit of the configuration
        (["optimizer.rate=uniform:0:1"], "unknown key"),
        (["optimiser.lr=uniform:0:1"], "unknown key"),
        (["workers.count=int:1:2"], "workers.count cannot be searched"),
    ],
)
def test_a_wrong_range_is_named_before_anything_runs(ranges: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan(None, ["data.uri=s3://b/d"], ranges=ranges)
    assert told in str(error.value)


def test_wrong_names_are_named() -> None:
    for options, told in (
        ({"space": "edrs"}, "unknown space 'edrs'; use one of edsr, lr"),
        ({"sampler": "cma"}, "unknown sampler 'cma'; use one of random, grid, tpe, gp"),
        ({"scheduler": "x"}, "unknown scheduler 'x'; use one of asha, none, pbt"),
        ({"sampler": "grid"}, "has no points for a grid"),
        ({"samples": 0}, "samples"),
        ({"scheduler": "pbt", "space": "edsr"}, "model.residual_scaling cannot"),
        ({"scheduler": "pbt", "sampler": "gp"}, "starts at random"),
        ({"scheduler": "pbt", "steps": 9}, "steps 9 cannot be divided into 4 generations"),
    ):
        with pytest.raises(ConfigError, match=told):
            plan(None, ["data.uri=s3://b/d"], **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="schedule cannot be cosine"):
        plan(None, ["data.uri=s3://b/d", "optimizer.schedule=cosine"], scheduler="pbt")
