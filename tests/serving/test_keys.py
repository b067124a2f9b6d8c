"""API keys on their way from the shell to the replicas: hashed, never dropped, never an open service by mistake."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from rayscale.errors import ConfigError
from rayscale.serving import deploy
from rayscale.serving.settings import ServeSettings, get_serve_settings

KEY = "a-key-of-more-than-sixteen-characters"
HASH = hashlib.sha256(KEY.encode()).hexdigest()


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    get_serve_settings.cache_clear()
    yield
    get_serve_settings.cache_clear()


def told() -> dict[str, str]:
    """The environment that the replicas get."""
    schema = deploy._schema(deploy.CONFIG, None, None, None)
    return dict(schema.applications[0].runtime_env["env_vars"])


def test_replicas_get_hashes_and_never_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSCALE_SERVE_API_KEYS", f" {KEY} ,{KEY}2")
    variables = told()
    assert KEY not in str(variables)
    monkeypatch.delenv("RAYSCALE_SERVE_API_KEYS")
    monkeypatch.setenv("RAYSCALE_SERVE_API_KEY_HASHES", variables["RAYSCALE_SERVE_API_KEY_HASHES"])
    assert ServeSettings().key_hashes()[0] == HASH
    assert ServeSettings().access() == "keys: 2"


def test_a_replica_that_knows_hashes_lets_their_keys_in(make_app: Any, tools: Any) -> None:
    app = make_app(api_key_hashes=HASH.upper())
    for key, status in ((KEY, 200), (HASH, 401), ("", 401)):
        answer = tools.call(app, "GET", "/v1/models", headers={"X-API-Key": key})
        assert answer.status_code == status


def test_hashes_pass_on_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSCALE_SERVE_API_KEY_HASHES", HASH)
    assert told()["RAYSCALE_SERVE_API_KEY_HASHES"] == HASH


def test_no_key_is_handed_over_where_none_is_set() -> None:
    assert "RAYSCALE_SERVE_API_KEY_HASHES" not in told()
    assert ServeSettings().access() == "open"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_KEYS", ""),
        ("API_KEYS", " , "),
        ("API_KEY_HASHES", ""),
        ("API_KEY_HASHES", KEY),
        ("API_KEYS", "short"),
    ],
)
def test_a_variable_that_yields_no_safe_key_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"RAYSCALE_SERVE_{name}", value)
    with pytest.raises(ConfigError, match=f"RAYSCALE_SERVE_{name}"):
        told()


def test_an_impossible_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSCALE_SERVE_PEER_SHARE", "7")
    with pytest.raises(ConfigError, match=r"RAYSCALE_SERVE_PEER_SHARE: .*less than or equal to 1"):
        get_serve_settings()
