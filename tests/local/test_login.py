"""MLflow of the stack: its login, and the database of an older one."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayscale.local.login import USER, Login, upgrade
from rayscale.local.mlflow import client_environment, password, service

PASSWORD = "0123456789abcdef"


async def greet(scope: Any, receive: Any, send: Any) -> None:
    """The application behind the login."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def ask(path: str = "/api", **how: Any) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app=Login(greet, PASSWORD))
        async with httpx.AsyncClient(transport=transport, base_url="http://mlflow") as client:
            return await client.post(path, **how)

    return asyncio.run(call())


def test_who_knows_the_password_comes_in() -> None:
    assert ask(auth=(USER, PASSWORD)).text == "inside"


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"auth": (USER, PASSWORD[:-1])},
        {"auth": (USER, "")},
        {"auth": ("admin", PASSWORD)},
        {"headers": {"Authorization": f"Bearer {PASSWORD}"}},
        {"headers": {"Authorization": "Basic"}},
        {"headers": {"Authorization": "Basic %%%"}},
        {"headers": {"Authorization": b"Basic \xfc"}},
    ],
)
@pytest.mark.parametrize("path", ["/api", "/", "/health/../api", "/health/", "//health"])
def test_others_stay_outside(path: str, how: dict[str, Any]) -> None:
    answer = ask(path, **how)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert PASSWORD not in answer.text


def test_a_probe_needs_no_password() -> None:
    assert ask("/health").text == "inside"


def test_a_socket_without_the_password_is_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/api", "headers": []}
    asyncio.run(Login(greet, PASSWORD)(scope, None, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_the_password_is_its_owners_and_no_argument(tmp_path: Path) -> None:
    secret = password(tmp_path).read_text()
    assert password(tmp_path).read_text() == secret
    assert stat.S_IMODE(password(tmp_path).stat().st_mode) == 0o600
    assert client_environment(tmp_path, 5000)["MLFLOW_TRACKING_PASSWORD"] == secret
    how = service(tmp_path, 5000)
    assert secret not in " ".join([*how.command, *how.environment.values()])


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_a_database_of_before_is_brought_up_to_date(tmp_path: Path) -> None:
    """One of an earlier schema of MLflow, as MLflow's own migrations make it, with a model and its alias in it."""
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    database = tmp_path / "mlflow.db"
    assert upgrade(database) is None  # there is none
    engine = create_engine(f"sqlite:///{database}")
    Base.metadata.create_all(engine)
    config = _get_alembic_config(f"sqlite:///{database}")
    old = [each.revision for each in ScriptDirectory.from_config(config).walk_revisions()][12]
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, old)
    engine.dispose()
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO registered_models (name) VALUES ('roofs')")
        connection.execute(
            "INSERT INTO model_versions (name, version, current_stage) VALUES ('roofs', 3, 'None')"
        )
        connection.execute(
            "INSERT INTO registered_model_aliases (alias, version, name) VALUES ('production', 3, 'roofs')"
        )

    assert upgrade(database) == tmp_path / f"mlflow.db.{old}"
    store = SqlAlchemyStore(f"sqlite:///{database}")
    assert store.get_model_version_by_alias("roofs", "production").version == 3
    assert upgrade(database) is None
    with sqlite3.connect(tmp_path / f"mlflow.db.{old}") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (old,)
