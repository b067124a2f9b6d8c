"""The user's options of reading and writing: parsed once, obeyed by whole images and scenes alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from rayscale.errors import ConfigError
from rayscale.imaging import Handling, read_image
from rayscale.options import parse_levels


def test_levels_are_parsed() -> None:
    assert parse_levels("0..10000") == (0, 10000)
    assert parse_levels("-1024..3071.5") == (-1024, 3071.5)


@pytest.mark.parametrize("text", ["", "5", "a..b", "0..", "0-10"])
def test_other_text_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"BLACK\.\.WHITE"):
        parse_levels(text)


@pytest.mark.parametrize("ends", [(1.0, 1.0), (2.0, 1.0), (0.0, float("inf"))])
def test_levels_that_span_nothing_are_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="black below white"):
        Handling(levels=ends)


def test_an_unknown_policy_hears_which_there_are() -> None:
    with pytest.raises(ConfigError, match="refuse, nearest"):
        Handling.parse(labels="linear")


def test_only_what_was_chosen_enters_a_recipe() -> None:
    assert Handling().to_dict() == {}
    assert Handling(levels=(0, 10000)).to_dict() == {"levels": [0, 10000]}


def test_set_levels_hold_for_every_type_and_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for dtype in (np.uint8, np.uint16):
        tifffile.imwrite(path, np.full((8, 8), 100, dtype))
        image = read_image(path.read_bytes(), handling=Handling(levels=(0, 200)))
        assert image.levels is not None
        assert (image.levels.black, image.levels.white) == ((0,), (200,))
        assert image.levels.describe()["rule"] == "0 to 200, as set"
