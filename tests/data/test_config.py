from __future__ import annotations

import pytest

from rayscale.data import PrepareConfig
from rayscale.errors import ConfigError


def test_defaults_hold_every_patch_of_the_paper() -> None:
    config = PrepareConfig()
    assert config.grain == 12
    assert config.size - config.step >= 48 * max(config.scales)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, "take 96 or 108"),
        ({"step": 5}, "take 12"),
        ({"size": 120, "step": 240}, "at most 120"),
        ({"scales": (1, 2)}, "integers from 2"),
        ({"scales": ()}, "integers from 2"),
        ({"bits": 12}, "8 and 16"),
        ({"channels": 0}, "at least|1 is grey"),
        ({"minimum": 0}, "at least 1"),
        ({"images_per_shard": 0}, "at least 1"),
        ({"sise": 100}, "sise"),
        ({"size": "many"}, "size"),
    ],
)
def test_what_cannot_work_is_refused_with_the_way_out(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareConfig.create(**options)


def test_scales_are_a_set() -> None:
    assert PrepareConfig(scales=(4, 2, 4)).scales == (2, 4)


def test_exclude_matches_whole_keys() -> None:
    config = PrepareConfig(exclude=("val/*", "*_test.png"))
    assert config.excludes("val/a.png")
    assert config.excludes("train/b_test.png")
    assert not config.excludes("train/val.png")
