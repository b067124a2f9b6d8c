"""From a model to a file that another library runs, with the proof of what it loses: ``rayscale export``."""

from rayscale.export.job import Exported, Loss, export_model
from rayscale.export.kinds import KINDS, Kind

__all__ = ["KINDS", "Exported", "Kind", "Loss", "export_model"]
