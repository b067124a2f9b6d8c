"""From a model and a benchmark to a table; every figure names its protocol."""

from rayscale.evaluation.benchmark import ImageScore, Pair, Report, evaluate, read_pairs

__all__ = ["ImageScore", "Pair", "Report", "evaluate", "read_pairs"]
