"""How many workers, and what each takes of a cluster that changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rayscale.cli.train import configuration
from rayscale.errors import ConfigError
from rayscale.training.config import TrainConfig
from rayscale.training.ray import _resources

Make = Callable[..., TrainConfig]


def test_the_command_line_takes_a_range() -> None:
    workers = configuration(None, [], workers="1:8").workers
    assert (workers.minimum, workers.count) == (1, 8)
    workers = configuration(None, [], workers="4").workers
    assert (workers.minimum, workers.count) == (None, 4)
    for wrong in ("1:", ":8", "0", "a", "1:2:3", "-1"):
        with pytest.raises(ConfigError, match=f"--workers {wrong}: give a number"):
            configuration(None, [], workers=wrong)
    with pytest.raises(ConfigError, match=r"minimum 9 is above workers\.count 8"):
        configuration(None, [], workers="9:8")


def test_workers_that_come_and_go_take_whole_cpus(make_config: Make) -> None:
    """On a lone machine too: shares of a CPU would let all start there and none anywhere else."""
    one = [{"Alive": True, "Resources": {"CPU": 2.0}}]
    config = make_config("workers.count=4", "workers.minimum=1")
    assert _resources(config, False, one) == {"CPU": 1.0}
