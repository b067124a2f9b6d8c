"""The environment that processes on other nodes get from here."""

from __future__ import annotations

import logging
import os

from rayscale.errors import without_passwords
from rayscale.registry.client import split_password
from rayscale.settings import shared_variables

log = logging.getLogger(__name__)

# Not told to the replicas, because Ray shows runtime environments to everyone who may see its dashboard: credentials
# must be in the environment of the cluster. Of API keys the replicas are told the hashes.
_SECRET = ("KEY", "TOKEN", "PASSWORD", "SECRET")


def passed_on() -> dict[str, str]:
    """The variables of this shell that replicas get; Ray shows them to everybody, so never keys and passwords."""
    passed = shared_variables() | {
        name: value
        for name, value in os.environ.items()
        if (name.startswith("RAYSCALE_") or name == "MLFLOW_TRACKING_URI")
        and not any(word in name for word in _SECRET)
    }
    uri, user, _ = split_password(passed.get("MLFLOW_TRACKING_URI", ""))
    if user:
        log.warning(
            "the replicas get MLFLOW_TRACKING_URI without its password; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD on the nodes of the cluster"
        )
        passed["MLFLOW_TRACKING_URI"] = uri
    for name in [name for name, value in passed.items() if without_passwords(value) != value]:
        log.warning(
            "the replicas do not get %s, which holds a password; set it on the nodes of the cluster",
            name,
        )
        del passed[name]
    return passed
