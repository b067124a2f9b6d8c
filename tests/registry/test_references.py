"""What is refused before or without a server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rayscale import registry
from rayscale.errors import ConfigError, NotFoundError, without_passwords
from rayscale.registry import client


@pytest.fixture(autouse=True)
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    "ref",
    [
        "", " edsr", "edsr ", "edsr\n", "edsr/0", "edsr/01", "edsr/-1", "edsr/latest", "edsr@", "edsr@a/1",
        "edsr@a@b", "models:/edsr/1", "s3://bucket/edsr", "file:///etc/passwd", "/etc/passwd", "../edsr",
        "http://169.254.169.254/x", "edsr'; drop", "runs:/abc/model", "x" * 101, "édsr",
    ],
)  # fmt: skip
def test_only_three_forms_are_references(ref: str) -> None:
    with pytest.raises(ConfigError, match="NAME@ALIAS"):
        registry.resolve(ref)


def test_without_a_server_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is not set"):
        registry.resolve("edsr")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is not set"):
        registry.MlflowLogger("experiment", "run")


@pytest.mark.slow
def test_a_dead_server_is_named_soon() -> None:
    with pytest.raises(registry.RegistryError, match=r"http://127\.0\.0\.1:9 does not answer"):
        registry.resolve("edsr")


@pytest.mark.parametrize(
    ("uri", "bare", "login"),
    [
        ("http://ann:p%40ss@127.0.0.1:9/x", "http://127.0.0.1:9/x", ("ann", "p@ss")),
        ("http://127.0.0.1:9/a@b", "http://127.0.0.1:9/a@b", None),
    ],
)
def test_a_password_in_the_address_goes_its_own_way(
    monkeypatch: pytest.MonkeyPatch, uri: str, bare: str, login: tuple[str, str] | None
) -> None:
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is as before when the test is over
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert client.tracking_uri() == bare
    assert tuple(map(os.environ.get, names)) == (login or (None, None))


@pytest.mark.slow
def test_no_message_holds_a_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:9/x")
    with pytest.raises(registry.RegistryError) as caught:
        registry.resolve("edsr")
    assert "127.0.0.1:9" in str(caught.value)
    logger = registry.MlflowLogger("experiment", "run", interval_s=0.01)
    logger.log_metrics({"loss": 1.0}, 1)
    logger.close(timeout_s=6.0)
    assert "127.0.0.1:9" in caplog.text
    assert "hunter2" not in f"{caught.value} {caplog.text}"
    quoted = "cannot open postgresql://ann:hunter2@db/x?a=b@c"
    assert without_passwords(quoted) == "cannot open postgresql://***@db/x?a=b@c"


def test_what_cannot_be_published(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"")
    for name in ("bicubic", "a/b", "a@b", ""):
        with pytest.raises(ConfigError):
            registry.publish(weights, name)
    with pytest.raises(ConfigError, match="such as my-aplus-x4"):
        registry.check_name("aplus-x4")
    assert registry.check_name("my-aplus-x4") == "my-aplus-x4"
    for alias in ("latest", "v3", "3", "a b"):
        with pytest.raises(ConfigError, match="alias"):
            registry.publish(weights, "edsr", alias=alias)
    with pytest.raises(ConfigError, match=r"figures of Set5\.x2 name no protocol"):
        registry.publish(weights, "edsr", scores={"Set5": {"x2": {"psnr": 33.0}}})
    with pytest.raises(NotFoundError, match="missing"):
        registry.publish(tmp_path / "missing", "edsr")
