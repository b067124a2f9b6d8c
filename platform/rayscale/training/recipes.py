"""How each system is trained: as published (``paper``), and within hours on a CPU (``short``).

A recipe holds the keys in which a system differs from the defaults of ``rayscale.training.sections``, which are
those of EDSR. Marked are choices where papers leave something open or the loop differs, and figures that come from
memory of a paper and not from its code.

The short recipes rest on one measurement (docs/lab.md): on a CPU small patches and many updates win. An eighth of the
pixels per step makes eight times the steps, and with a higher learning rate that falls in a cosine and a running
mean of the weights, it gains more than large batches do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayscale.errors import ConfigError

Values = dict[str, Any]

ADVERSARIAL = ("srgan", "meta-srgan")
"""The systems with a GAN stage."""

# MDSR and VDSR: one network; Meta-SR: 1.1 to 4.0.
_INTEGERS: Values = {"model.scale": None, "model.scales": (2, 3, 4)}
_TENTHS: Values = {
    "model.scale": None,
    "model.scales": tuple(tenths / 10 for tenths in range(11, 41)),
}

_SHORT: Values = {
    "data.patch": 24,
    "data.batch": 8,
    "optimizer.lr": 5e-4,
    "optimizer.schedule": "cosine",
    "optimizer.ema": 0.999,
    "optimizer.steps": 20_000,
}

# Dong et al. 2014: 33x33 sub-images (here 16 LR pixels), about 8e8 backpropagations; in batches of 128, from memory.
_SRCNN: Values = {
    "data.patch": 16,
    "data.batch": 128,
    "optimizer.algorithm": "sgd",
    "optimizer.last_layer_lr": 0.1,
    "optimizer.decay": 1.0,
    "optimizer.loss": "euclidean",
    "optimizer.steps": 6_250_000,
}
# Adam in place of SGD: the published schedule needs millions of steps to leave bicubic behind. A network that computes
# the image itself, not a residual, loses what it learns late in the 8 bits of bfloat16.
_SRCNN_SHORT: Values = {
    **_SHORT,
    "precision": "float32",
    "data.patch": 16,
    "data.batch": 4,
    "optimizer.loss": "mse",
    "optimizer.steps": 28_000,
}

# Ledig et al. 2017: 96x96 HR crops, MSE, a constant rate for 1e6 updates.
_SRRESNET: Values = {
    "model.scale": 4,
    "data.patch": 24,
    "optimizer.decay": 1.0,
    "optimizer.loss": "mse",
    "optimizer.steps": 1_000_000,
}

# GANs leave their equilibrium now and then.
_GUARDED: Values = {"guard.spike": 10.0}

RECIPES: dict[str, dict[str, Values]] = {
    "edsr-baseline": {"paper": {}, "short": _SHORT},
    # The official code skips updates whose loss is far above the last epoch's: the wide network can diverge.
    "edsr": {"paper": _GUARDED, "short": {**_GUARDED, **_SHORT, "optimizer.lr": 2e-4}},
    "mdsr-baseline": {
        "paper": {**_INTEGERS, "optimizer.steps": 650_000},
        "short": {**_INTEGERS, **_SHORT},
    },
    "mdsr": {
        "paper": {**_INTEGERS, "optimizer.steps": 650_000},
        "short": {**_INTEGERS, **_SHORT, "optimizer.lr": 2e-4},
    },
    "srcnn": {"paper": _SRCNN, "short": _SRCNN_SHORT},
    "srcnn-955": {"paper": _SRCNN, "short": _SRCNN_SHORT},
    # Kim et al. 2016: 80 epochs, 9960 steps from memory, the rate falls to a tenth every 20. Batches of 64 patches of 41x41
    # on the target's grid are here 48 of 48x48, as many pixels, which three scales share. The bound is open in the paper. The 0.4 of ports is one on the norm and diverges at once here; from
    # 1e-3 on all activations die and bicubic is left, 1e-4 learns (docs/lab.md).
    "vdsr": {
        "paper": {
            **_INTEGERS,
            **_GUARDED,
            "data.mixed": True,
            "data.patch": 24,
            "data.batch": 48,
            "optimizer.algorithm": "sgd",
            "optimizer.lr": 0.1,
            "optimizer.weight_decay": 1e-4,
            "optimizer.decay_every": 2490,
            "optimizer.decay": 0.1,
            "optimizer.clip": "adjustable",
            "optimizer.clip_at": 1e-4,
            "optimizer.loss": "euclidean",
            "optimizer.steps": 9960,
        },
        "short": {
            **_INTEGERS,
            **_SHORT,
            "data.mixed": True,
            "data.patch": 18,
            "data.batch": 12,
            "optimizer.lr": 2e-4,
            "optimizer.last_layer_lr": 0.1,
        },
    },
    # Short: L1, as of EDSR, and a rate that batch normalisation bears (docs/lab.md).
    "srresnet": {
        "paper": _SRRESNET,
        "short": {**_SHORT, "model.scale": 4, "optimizer.lr": 1e-3},
    },
    # From SRResNet: 1e5 updates at 1e-4 and 1e5 at 1e-5.
    "srgan": {
        "paper": {
            **_SRRESNET,
            **_GUARDED,
            "optimizer.decay_every": 100_000,
            "optimizer.decay": 0.1,
            "optimizer.steps": 200_000,
        },
        "short": {
            **_SRRESNET,
            **_GUARDED,
            "data.batch": 8,
            "optimizer.decay": 1.0,
            "optimizer.ema": 0.999,
            "optimizer.steps": 2000,
        },
    },
    # Hu et al. 2019: LR patches of 50, the rate halved every 200 epochs (of 1000 steps).
    "meta-edsr": {
        "paper": {**_TENTHS, "data.patch": 50},
        "short": {**_TENTHS, **_SHORT, "data.patch": 20},
    },
    # Tan et al. 2020 in the form of their later MIASSR: L1 first (adversarial.weight=0), then 100 epochs against the
    # discriminator, the rate halved after 50. Epochs of 1000 steps are an assumption.
    "meta-srgan": {
        "paper": {
            **_TENTHS,
            **_GUARDED,
            "data.patch": 50,
            "adversarial.content": "l1",
            "optimizer.decay_every": 50_000,
            "optimizer.steps": 100_000,
        },
        "short": {
            **_TENTHS,
            **_GUARDED,
            **_SHORT,
            "data.patch": 20,
            "adversarial.content": "l1",
        },
    },
}


def recipe_of(system: str, recipe: object) -> Mapping[str, Any]:
    """``section.key`` and value of a recipe; empty for a system without any, whose error comes with the model.

    Raises ConfigError where the system has recipes, but not this one.
    """
    recipes = RECIPES.get(system) if isinstance(system, str) else None
    if recipes is None:
        return {}
    if recipe not in recipes:
        raise ConfigError(
            f"recipe: {recipe!r} is not a recipe; the recipes are {', '.join(recipes)}"
        )
    return recipes[str(recipe)]
