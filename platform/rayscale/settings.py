"""Limits and places, read once from the environment (``RAYSCALE_*``); ``rayscale settings`` shows them.

Object storage, MLflow and Ray are configured by the variables their own users know (``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, ``MLFLOW_TRACKING_URI``, ``RAY_ADDRESS``)
and are not repeated here.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1 << 20
GIB = 1 << 30


def checkout() -> Path | None:
    """The repository root when running from a checkout (``platform/rayscale`` in place), else None."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else None


def _default_home() -> Path:
    return (checkout() or Path.home()) / ".rayscale"


class Settings(BaseSettings):
    """Every limit and default place of rayscale, with its unit in the description."""

    model_config = SettingsConfigDict(env_prefix="RAYSCALE_", extra="ignore")

    home: Path = Field(default_factory=_default_home, description="state of the local stack")
    cache_dir: Path = Field(
        default_factory=lambda: Path.home() / ".cache" / "rayscale",
        description="local copies of shards and registered weights",
    )
    cache_bytes: int = Field(default=20 * GIB, gt=0, description="bytes the shard cache may hold")
    max_input_bytes: int = Field(default=32 * MIB, gt=0, description="bytes of one HTTP body")
    max_input_pixels: int = Field(default=64_000_000, gt=0, description="pixels of one input image")
    max_output_pixels: int = Field(
        default=256_000_000, gt=0, description="pixels of one output image (input x scale^2)"
    )
    memory_bytes: int | None = Field(
        default=None,
        gt=0,
        description="bytes of memory that one worker or replica may take for images; default: 3/4 of the container or "
        "machine, divided by its cores",
    )
    max_scene_pixels: int = Field(
        default=4_000_000_000,
        gt=0,
        description="pixels of one GeoTIFF on disk, read or written by windows",
    )
    scene_pixels: int = Field(
        default=1 << 24,
        gt=0,
        description="pixels from which all workers share one GeoTIFF of a bucket, window by window",
    )
    storage_attempts: int = Field(default=10, gt=0, description="attempts of one storage request")
    storage_timeout_s: float = Field(
        default=60.0, gt=0, description="seconds without a byte before a storage request is retried"
    )
    signed_weights: Path | None = Field(
        default=None,
        description="list of the weights that may be used, as sha256sum prints it, its Ed25519 signature beside it (.sig); "
        "needs RAYSCALE_WEIGHTS_SIGNER",
    )
    weights_signer: Path | None = Field(
        default=None, description="Ed25519 public key (PEM) of who signs RAYSCALE_SIGNED_WEIGHTS"
    )
    prometheus: str = Field(
        default="",
        description="URL of the Prometheus that `rayscale top` asks, such as http://127.0.0.1:9090",
    )
    s3_requester_pays: bool = Field(
        default=False, description="pay for requests to buckets whose owner lets the requester pay"
    )
    s3_encryption: Literal["", "AES256", "aws:kms", "aws:kms:dsse"] = Field(
        default="",
        description="how S3 encrypts what is written: AES256 (SSE-S3), aws:kms (SSE-KMS), aws:kms:dsse; empty: as the "
        "bucket says",
    )
    s3_kms_key_id: str = Field(
        default="", description="the key for aws:kms; empty: the account's own key for S3"
    )
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        description="where the bucket stands in the URL: path, or virtual for the host name; auto: path with an "
        "AWS_ENDPOINT_URL, else as boto3 does",
    )


def shared_variables() -> dict[str, str]:
    """The variables of this process that hold for its workers on other machines too: limits, never places or keys."""
    prefixes = tuple(f"RAYSCALE_{kind}_" for kind in ("MAX", "MEMORY", "SCENE", "STORAGE", "S3"))
    return {name: value for name, value in os.environ.items() if name.startswith(prefixes)}


@cache
def get_settings() -> Settings:
    """The settings of this process, read from the environment at first use."""
    return Settings()
