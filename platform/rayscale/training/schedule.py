"""The learning rate as a pure function of the step, so that resuming needs no state."""

from __future__ import annotations

import math

from rayscale.training.sections import OptimizerSection


def lr_at(step: int, config: OptimizerSection) -> float:
    """The learning rate of the update that takes the weights from ``step`` to ``step + 1``.

    ``step``: times ``decay`` every ``decay_every`` updates (halved every 200k in Lim et al. 2017). ``cosine``: half a
    cosine from ``lr`` at step 0 to 0 at ``steps`` (Loshchilov and Hutter 2017, without restarts).
    """
    if config.schedule == "step":
        return config.lr * config.decay ** (step // config.decay_every)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(step / config.steps, 1.0)))
