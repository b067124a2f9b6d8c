"""The embedded stack of one machine: a real S3 server, MLflow and Ray, for laptops, the demo and the tests.

``stack`` starts and stops it, ``processes`` runs programs in the background, and ``s3``, ``mlflow``, ``ray`` and
``prometheus`` say how each service is run. Nothing here is needed where users bring their own S3, MLflow and Ray cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayscale.local.stack import (
        MONITORING,
        SERVICES,
        Addresses,
        ServiceStatus,
        down,
        environment,
        status,
        up,
    )

__all__ = [
    "MONITORING",
    "SERVICES",
    "Addresses",
    "ServiceStatus",
    "down",
    "environment",
    "status",
    "up",
]


def __getattr__(name: str) -> object:
    # At first use: the S3 server is a program of this package, and must patch sockets before much is imported.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rayscale.local import stack

    return getattr(stack, name)
