"""The embedded stack of one machine: a real S3 server, MLflow and Ray, for laptops, the demo and the tests.

``stack`` starts and stops it, ``processes`` runs programs in the background, and ``s3``, ``mlflow`` and ``ray``
say how each service is run. Nothing here is needed where users bring their own S3, MLflow and Ray cluster.
"""

from rayscale.local.stack import Addresses, ServiceStatus, down, environment, status, up

__all__ = ["Addresses", "ServiceStatus", "down", "environment", "status", "up"]
