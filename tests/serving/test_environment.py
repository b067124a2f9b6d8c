"""What the replicas of a service get of the shell that deploys it."""

from __future__ import annotations

import pytest

from rayscale.serving.environment import passed_on


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("https://ann:s3cr%40t@mlflow.example.org/x", "https://mlflow.example.org/x"),
        ("postgresql://ann:s3cr%40t@host/mlflow", None),  # MLflow has no variables for its password
        ("https://mlflow.example.org/x", "https://mlflow.example.org/x"),
    ],
)
def test_replicas_get_settings_and_no_passwords(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, uri: str, told: str | None
) -> None:
    for name, value in {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_TRACKING_PASSWORD": "s3cr@t",
        "AWS_SECRET_ACCESS_KEY": "s3cr@t",
        "RAYSCALE_SERVE_API_KEYS": "s3cr@t",
        "RAYSCALE_SERVE_THREADS": "3",
        "RAYSCALE_S3_KMS_KEY_ID": "arn:aws:kms:eu-west-1:1:key/k",  # a name
    }.items():
        monkeypatch.setenv(name, value)
    passed = passed_on()
    assert "s3cr" not in str(passed) + caplog.text
    assert passed.get("MLFLOW_TRACKING_URI") == told
    assert passed["RAYSCALE_SERVE_THREADS"] == "3"
    assert passed["RAYSCALE_S3_KMS_KEY_ID"].startswith("arn:")
    assert ("on the nodes of the cluster" in caplog.text) is (told != uri)
