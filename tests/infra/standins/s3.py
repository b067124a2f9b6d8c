"""The S3 server of the local stack on port 8333 of every address, with the keys of its environment.

Its access keys hold a colon, ``account:user``.
"""

import json
import os
from pathlib import Path

from swift.common.middleware import healthcheck

from rayscale.local import s3

home = Path("/data")
(home / "s3").mkdir(exist_ok=True)
keys = {
    "access_key": os.environ["AWS_ACCESS_KEY_ID"],
    "secret_key": os.environ["AWS_SECRET_ACCESS_KEY"],
}
(home / "s3/keys.json").write_text(json.dumps(keys | {"hash_suffix": "0" * 32}))
s3.HOST = "0.0.0.0"
plain = healthcheck.HealthCheckMiddleware.__call__


def answer(self, environment, start_response):  # type: ignore[no-untyped-def]
    """SeaweedFS says that it is well under another path."""
    if environment["PATH_INFO"] == "/healthz":
        environment["PATH_INFO"] = "/healthcheck"
    return plain(self, environment, start_response)


healthcheck.HealthCheckMiddleware.__call__ = answer
s3.serve(home, 8333)
