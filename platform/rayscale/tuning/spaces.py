"""Search spaces: keys of the training configuration, and what to draw for each.

A space is a function, because Ray Tune's domains should be made only where a sweep runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Space = dict[str, Any]


def edsr() -> Space:
    """Residual scaling (Lim et al. 2017, section 3.3: 0.1 for wide trunks) and learning rate."""
    from ray import tune

    return {
        "model.residual_scaling": tune.choice([0.1, 0.2, 0.5, 1.0]),
        "optimizer.lr": tune.loguniform(5e-5, 2e-3),
    }


def learning_rate() -> Space:
    """The learning rate alone."""
    from ray import tune

    return {"optimizer.lr": tune.loguniform(5e-5, 2e-3)}


SPACES: dict[str, Callable[[], Space]] = {"edsr": edsr, "lr": learning_rate}
