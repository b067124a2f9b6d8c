"""From a file of weights to a named, versioned, digested model and back; the only room that knows MLflow.

``publication`` puts a model there as a ``version``, ``models`` resolves and fetches it, ``reference`` is the grammar of names,
``opening`` finds and opens a model by whatever names it, ``tracking`` sends metrics,
``evaluations`` keeps the scores of a benchmark, ``flavor`` describes a model to MLflow's own tools, ``client`` is the
connection. Importing this package does not import MLflow.
"""

from rayscale.models.builtin import OpenedModel
from rayscale.registry.client import RegistryError
from rayscale.registry.evaluations import log_evaluation
from rayscale.registry.models import fetch, list_models, load, resolve, set_alias
from rayscale.registry.opening import open_model
from rayscale.registry.publication import publish
from rayscale.registry.reference import check_name
from rayscale.registry.tracking import MlflowLogger
from rayscale.registry.version import ModelVersion

__all__ = [
    "MlflowLogger",
    "ModelVersion",
    "OpenedModel",
    "RegistryError",
    "check_name",
    "fetch",
    "list_models",
    "load",
    "log_evaluation",
    "open_model",
    "publish",
    "resolve",
    "set_alias",
]
