"""An adaptation is judged on images that it never saw, and wins only where it is better."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from rayscale.cli import run
from rayscale.data import Manifest
from rayscale.errors import ConfigError, NotFoundError
from rayscale.evaluation import Report
from rayscale.evaluation.benchmark import ImageScore
from rayscale.models.builtin import OpenedModel, open_builtin
from rayscale.models.systems import create_model
from rayscale.models.weights import read_weights
from rayscale.tuning.adaptation import Adaptation, NoGainError, adapt, hold_out


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """Six smooth pictures of 48 x 40."""
    (tmp_path / "archive").mkdir()
    random = np.random.default_rng(0)
    for index in range(6):
        coarse = PIL.Image.fromarray(random.integers(0, 256, (5, 6, 3), np.uint8))
        coarse.resize((48, 40)).save(tmp_path / "archive" / f"[{index}].png")
    return str(tmp_path / "archive")


def test_what_is_held_out_depends_on_the_names_alone(archive: str) -> None:
    held, rest = hold_out(archive, 0.34)
    assert (len(held), len(rest)) == (2, 4)
    assert not set(held) & set(rest)
    assert hold_out(archive, 0.34) == (held, rest)


def test_the_end_of_a_series_is_held_out(tmp_path: Path) -> None:
    """Its neighbours are nearly the same picture."""
    for index in range(10):
        (tmp_path / f"{index:02}.dcm").write_bytes(b"")
    assert hold_out(str(tmp_path), 0.3)[0] == ["07.dcm", "08.dcm", "09.dcm"]


def test_too_few_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no images in"):
        hold_out(str(tmp_path), 0.2)
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"has 3 images, too few .* at least 4"):
        hold_out(str(tmp_path), 0.2)
    with pytest.raises(ConfigError, match="between 0 and 1, not 1"):
        hold_out(str(tmp_path), 1)


def _report(name: str, *psnr: float) -> Report:
    scores = [ImageScore(str(i), each, 0.9, 0.1, 1.0) for i, each in enumerate(psnr)]
    return Report(name, 2, "rgb", scores, "bicubic")


@pytest.mark.parametrize(
    ("adapted", "wins"),
    [
        ((31, 32, 33), True),
        ((30, 30, 30), False),  # as good
        ((30, 29, 99), False),  # one image alone
        ((30.1, 30.1, 20), False),  # on most, but not in the mean
    ],
)
def test_it_wins_in_the_mean_and_on_most_images(adapted: tuple[float, ...], wins: bool) -> None:
    before = _report("edsr", 30, 30, 30)
    adaptation = Adaptation((before, _report("adapted", *adapted)), "w", 9, 3)
    assert adaptation.wins == wins
    if not wins:
        with pytest.raises(NoGainError, match=r"edsr 30\.000; nothing was registered"):
            adaptation.require_gain()


def test_nothing_held_out_is_trained_on_and_what_learned_nothing_does_not_win(
    tmp_path: Path, archive: str
) -> None:
    torch.manual_seed(0)
    network = create_model("edsr-baseline", scale=2, filters=4, blocks=1).eval()
    target = str(tmp_path / "adapted")
    seen: list[Any] = []

    def fit(config: Any) -> Any:
        """A training of no steps."""
        seen.append(config)
        return SimpleNamespace(weights=config.model.warm_start)

    adaptation = adapt(archive, target, OpenedModel(network, "0" * 64, "tiny"), fit, share=0.34)
    held = {path.name for path in Path(target, "held-out", "HR").iterdir()}
    manifest = Manifest.load(f"{target}/dataset")
    assert (adaptation.trained, adaptation.held_out) == (4, 2)
    assert len(held) == 2
    assert manifest.counts.images == 4
    assert seen[0].model.filters == 4
    assert read_weights(seen[0].model.warm_start).model.spec == network.spec
    assert [each.model for each in adaptation.reports] == ["bicubic", "tiny", "adapted"]
    assert adaptation.reports[1].psnr == adaptation.reports[2].psnr
    assert not adaptation.wins
    assert Path(target, "adaptation.json").is_file()


def test_a_model_of_several_scales_is_refused(archive: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="take a network of one scale"):
        adapt(archive, str(tmp_path / "a"), open_builtin("bicubic"), lambda _: None)  # type: ignore[arg-type, return-value]


def test_an_alias_needs_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("adapt", "in", "out", "--alias", "production") == 2
    assert "--register NAME" in capsys.readouterr().err
