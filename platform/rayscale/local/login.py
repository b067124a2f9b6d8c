"""MLflow behind a login: what uvicorn runs, in the embedded stack and in ``infra/docker/compose.yaml``.

MLflow itself knows no users, and whoever may use the machine may use its loopback: another user could put an alias on
weights of his own. So every request needs the password, as a browser and MLflow's clients send it (RFC 7617).

``MLFLOW_BACKEND_STORE_URI`` names the database, by default a file of the working directory, ``MLFLOW_TRACKING_PASSWORD`` the
password, by default made at first use and kept there.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from rayscale import strictjson
from rayscale.local.tokens import token

USER = "rayscale"
PASSWORD = Path("password")
_DATABASE = Path("mlflow.db")
ARTIFACTS = "RAYSCALE_MLFLOW_ARTIFACTS"
"""Variable with the place of artifacts, ``s3://BUCKET/PREFIX``."""

_OPEN = "/health"
# In the form of MLflow's own errors, which its clients read.
_REFUSAL = strictjson.dumps(
    {
        "error_code": "UNAUTHENTICATED",
        "message": f"the name is {USER}; of a local stack, the password is in mlflow/{PASSWORD} of its folder (RAYSCALE_HOME)",
    }
).encode()


def create() -> Login:
    """The server as an ASGI application, a database of its own brought up to date."""
    from mlflow.server import constants

    database, artifacts = os.environ.get("MLFLOW_BACKEND_STORE_URI"), "mlflow-artifacts:/"
    if not database:
        upgrade(_DATABASE)
        # Relative to the working directory: a path with % or ? would not survive in a database URI.
        database = f"sqlite:///{_DATABASE}"
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: database,
        constants.REGISTRY_STORE_URI_ENV_VAR: database,
        constants.ARTIFACT_ROOT_ENV_VAR: artifacts,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: os.environ[ARTIFACTS],
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(database, database, artifacts)
    return Login(app, os.environ.get("MLFLOW_TRACKING_PASSWORD") or token(PASSWORD))


def upgrade(database: Path) -> Path | None:
    """Bring a database of an older MLflow up to date; returns the copy of it as it was, None where nothing was to do.

    The copy is ``mlflow.db.REVISION``, named by the schema that it has: to go back, put it in the place of the database.
    """
    if not database.is_file():
        return None
    with sqlite3.connect(database) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
        if ("alembic_version",) not in tables:
            return None
        (found,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    from mlflow.store.db.utils import (
        _get_latest_schema_revision,
        _upgrade_db,
        create_sqlalchemy_engine,
    )

    if found == _get_latest_schema_revision():
        return None
    copy = database.with_name(f"{database.name}.{found}")
    shutil.copy2(database, copy)
    engine = create_sqlalchemy_engine(f"sqlite:///{database}")
    try:
        _upgrade_db(engine)
    finally:
        engine.dispose()
    return copy


class Login:
    """An ASGI application that asks for the password before another one; only ``/health`` is open."""

    def __init__(self, application: Any, password: str) -> None:
        self._application = application
        self._expected = f"{USER}:{password}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or scope.get("path") == _OPEN or self._knows(scope):
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [
                (b"www-authenticate", b'Basic realm="MLflow of rayscale", charset="UTF-8"'),
                (b"content-type", b"application/json"),
            ]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})

    def _knows(self, scope: Any) -> bool:
        sent = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, value = sent.partition(b" ")
        try:
            given = base64.b64decode(value.strip(), validate=True)
        except binascii.Error:
            return False
        return kind.lower() == b"basic" and hmac.compare_digest(given, self._expected)
