"""From models and benchmarks to a table; every figure names its protocol.

``benchmark`` scores a model on pairs of images, ``suites`` adds the measures of satellite and medical sets.
``published`` knows the figures of the literature, ``cost`` counts parameters and operations; ``table``, ``plots`` and
``crops`` show all of it. ``comparison`` scores many models on many sets on Ray; nothing else here knows Ray.
"""

from rayscale.evaluation.benchmark import (
    PLACEHOLDER,
    ImageScore,
    Pair,
    Report,
    at_scale,
    check_scales,
    enlarge_pair,
    evaluate,
    identify,
    list_pairs,
    parse_degradation,
    read_pairs,
)
from rayscale.evaluation.suites import SUITES

__all__ = [
    "PLACEHOLDER",
    "SUITES",
    "ImageScore",
    "Pair",
    "Report",
    "at_scale",
    "check_scales",
    "enlarge_pair",
    "evaluate",
    "identify",
    "list_pairs",
    "parse_degradation",
    "read_pairs",
]
