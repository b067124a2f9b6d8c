"""Settings of the HTTP service alone, from the environment (``RAYSCALE_SERVE_*``).

Limits on the size of images are shared with the rest of rayscale and live in ``rayscale.settings``; how
many replicas there are and how long their queues may be is in ``serve/config.yaml``.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from rayscale.settings import MIB


class ServeSettings(BaseSettings):
    """What one replica of the service reads at its start."""

    model_config = SettingsConfigDict(env_prefix="RAYSCALE_SERVE_", extra="ignore")

    model: str = Field(
        default="bicubic",
        description="the default model: name, name@alias or name/version of the registry, or a built-in",
    )
    api_keys: SecretStr = Field(
        default=SecretStr(""),
        description="comma-separated keys that /v1 asks for; empty: open to everyone who reaches the port",
    )
    max_models: int = Field(default=4, gt=0, description="models one replica keeps loaded")
    refresh_s: float = Field(
        default=10.0, gt=0, description="seconds after which a moved alias is seen by a replica"
    )
    threads: int = Field(
        default=2, gt=0, description="images one replica works on at once (the rest of it waits)"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 for 8-bit images on hardware that has it"
    )
    max_pending_bytes: int = Field(
        default=256 * MIB, gt=0, description="bytes of all bodies one ingress replica holds at once"
    )
    body_timeout_s: float = Field(
        default=60.0, gt=0, description="seconds a client may take to send its body"
    )
    request_timeout_s: float = Field(
        default=110.0, gt=0, description="seconds from the whole body to the answer"
    )
    retry_after_s: int = Field(
        default=2, gt=0, description="seconds a refused client is told to wait"
    )

    def keys(self) -> tuple[str, ...]:
        """The API keys, without blanks; empty when the service is open."""
        listed = self.api_keys.get_secret_value().split(",")
        return tuple(key.strip() for key in listed if key.strip())


@cache
def get_serve_settings() -> ServeSettings:
    """The settings of this process, read from the environment at first use."""
    return ServeSettings()
