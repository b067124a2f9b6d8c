"""Settings of the HTTP service alone, from the environment (``RAYSCALE_SERVE_*``).

Limits on the size of images are shared with the rest of rayscale and live in ``rayscale.settings``; how
many replicas there are and how long their queues may be is in ``config.yaml`` beside this file.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rayscale.errors import ConfigError
from rayscale.serving.keys import Key, hash_key, parse_keys, read_keys
from rayscale.settings import GIB, MIB


class ServeSettings(BaseSettings):
    """What one replica of the service reads at its start."""

    model_config = SettingsConfigDict(env_prefix="RAYSCALE_SERVE_", extra="ignore")

    model: str = Field(
        default="bicubic",
        description="the default model: name, name@alias or name/version of the registry, or a built-in",
    )
    weights: Path | None = Field(
        default=None,
        description="file that the default model is read from, at this path on every node: weights, or what `rayscale export` wrote",
    )
    api_keys: SecretStr | None = Field(
        default=None,
        description="comma-separated keys that /v1 asks for; unset: open to everyone who reaches the port",
    )
    api_key_hashes: str | None = Field(
        default=None,
        description="comma-separated sha256 of such keys, in their place where keys must not be seen",
    )
    keys: str | None = Field(
        default=None,
        description="JSON list of keys with their limits, as `rayscale keys` writes them; hashes, not the keys themselves",
    )
    keys_file: Path | None = Field(
        default=None,
        description="file of the same; `rayscale serve` reads it and hands its hashes to the cluster",
    )
    batches_uri: str = Field(
        default="",
        description="s3://bucket/prefix of the records of batches (or a folder that all nodes see); empty: no batches over HTTP",
    )
    batch_prefixes: str = Field(
        default="", description="comma-separated places below which batches may read and write"
    )
    batch_actors: int | None = Field(
        default=None,
        gt=0,
        description="most workers of one batch; unset: as many as the cluster has room for",
    )
    max_batches: int = Field(default=4, gt=0, description="active batches of one key")
    webhook_hosts: str = Field(
        default="",
        description="comma-separated hosts (or host:port) that learn of the end of batches; empty: none",
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        description="signs what they get (HMAC-SHA256); set it in the environment of the cluster",
    )
    ingresses: int = Field(
        default=1,
        gt=0,
        description="ingress replicas, which share the model replicas evenly; `rayscale serve` sets it",
    )
    sleeps: bool = Field(
        default=False,
        description="whether there may be no model replica until an image comes (min_replicas: 0); probes then start none. "
        "`rayscale serve` sets it",
    )
    max_waiting: int = Field(
        default=16,
        gt=0,
        description="images that may wait at one ingress replica until a model replica has room",
    )
    cors_origins: str = Field(
        default="",
        description="comma-separated origins whose pages may call the API from a browser, or *; empty: none",
    )
    access_log: bool = Field(
        default=True,
        description="write a line of JSON for every request into the log of the ingress",
    )
    traces_endpoint: str = Field(
        default="",
        description="OpenTelemetry collector that gets traces by OTLP over HTTP, such as http://collector:4318; empty: none",
    )
    path_prefix: str = Field(
        default="",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="path under which a proxy shows the service, such as /rayscale; it answers there, and without it too",
    )
    trusted_proxies: str = Field(
        default="127.0.0.1,::1",
        description="comma-separated addresses and networks of proxies whose X-Forwarded-For names the client; empty: none",
    )
    max_head_bytes: int = Field(
        default=64 << 10, ge=4096, description="bytes of a request line and all headers"
    )
    head_timeout_s: float = Field(
        default=20.0,
        gt=0,
        description="seconds from the first byte of a request to the end of its headers",
    )
    max_models: int = Field(default=4, gt=0, description="models one replica keeps loaded")
    refresh_s: float = Field(
        default=10.0, gt=0, description="seconds after which a moved alias is seen by a replica"
    )
    lookup_timeout_s: float = Field(
        default=20.0,
        gt=0,
        description="seconds a request waits until a model that is not in memory is found and loaded",
    )
    threads: int = Field(
        default=2, gt=0, description="images one replica works on at once (the rest of it waits)"
    )
    pack: int | None = Field(
        default=None,
        gt=0,
        le=64,
        description="small pictures of one shape that go through a network together, as many as there are threads at most; unset: "
        "8 on a GPU, each alone elsewhere",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 for 8-bit images on hardware that has it"
    )
    max_pending_bytes: int = Field(
        default=256 * MIB,
        gt=0,
        description="bytes of all bodies one ingress replica holds at once, counted as they arrive",
    )
    max_form_bytes: int = Field(
        default=64 * MIB,
        gt=0,
        description="bytes of one body of several images (multipart/form-data)",
    )
    max_parts: int = Field(default=64, gt=0, description="images in one such body")
    form_images: int = Field(
        default=2,
        gt=0,
        description="images of one such body that are worked on, or held for their client, at once",
    )
    max_arriving: int = Field(
        default=128,
        gt=0,
        description="bodies that may be on their way to one ingress replica at once; its other places are for probes",
    )
    peer_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="share of both that one address may take; 1 behind a proxy that hides its clients' addresses",
    )
    body_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="seconds a client may take to send its body, and one more for each body_rate bytes that came",
    )
    body_rate: float = Field(
        default=50_000.0, gt=0, description="bytes per second below which a body is too slow"
    )
    body_idle_s: float = Field(
        default=15.0, gt=0, description="seconds without a byte after which a body is given up"
    )
    request_timeout_s: float = Field(
        default=110.0, gt=0, description="seconds from the whole body to the answer"
    )
    grace_s: float = Field(
        default=60.0,
        gt=0,
        description="seconds that requests in progress have to finish after Ctrl-C or SIGTERM to `rayscale serve`",
    )
    results: str = Field(
        default="",
        description="where results of the page are kept, s3://bucket/prefix or a folder that all ingresses share; empty: a "
        "folder of this machine, for ingresses on one machine",
    )
    results_bytes: int = Field(
        default=4 * GIB, gt=0, description="bytes of all results of the page; the oldest make room"
    )
    results_s: float = Field(
        default=3600.0, gt=0, description="seconds for which a result of the page is kept"
    )
    retry_after_s: int = Field(
        default=2, gt=0, description="seconds that a refused client should wait (Retry-After)"
    )

    def key_hashes(self) -> tuple[str, ...]:
        """The sha256 of every API key; empty when the service is open.

        Raises ConfigError for a variable that is set and yields no key: a service meant to be closed must not be open.
        """
        if self.api_key_hashes is not None:
            hashes = tuple(text.lower() for text in _listed(self.api_key_hashes))
            if not hashes or any(re.fullmatch("[0-9a-f]{64}", text) is None for text in hashes):
                raise ConfigError(
                    "RAYSCALE_SERVE_API_KEY_HASHES must list sha256 sums of 64 hexadecimal digits; unset it to "
                    "use RAYSCALE_SERVE_API_KEYS or to serve everyone"
                )
            return hashes
        if self.api_keys is None:
            return ()
        keys = _listed(self.api_keys.get_secret_value())
        if not keys:
            raise ConfigError(
                "RAYSCALE_SERVE_API_KEYS is set but holds no key; list keys separated by commas, or unset it to "
                "serve everyone"
            )
        return tuple(map(hash_key, keys))

    def named_keys(self) -> tuple[Key, ...]:
        """The keys with limits, of ``keys`` or else ``keys_file``. Raises ConfigError."""
        if self.keys is not None:
            return parse_keys(self.keys, "RAYSCALE_SERVE_KEYS")
        return () if self.keys_file is None else read_keys(self.keys_file)

    def keyring(self) -> tuple[Key, ...]:
        """Every key; empty when the service is open. Raises ConfigError as :meth:`key_hashes` does."""
        plain = [Key(f"key-{n}", digest) for n, digest in enumerate(self.key_hashes(), 1)]
        return (*plain, *self.named_keys())

    def access(self) -> str:
        """Who may call the service: ``open``, or ``keys: n``."""
        count = len(self.keyring())
        return f"keys: {count}" if count else "open"

    def places(self) -> tuple[str, ...]:
        """Where batches may read and write."""
        return tuple(_listed(self.batch_prefixes))

    def hosts(self) -> tuple[str, ...]:
        """Hosts of webhooks."""
        return tuple(_listed(self.webhook_hosts))

    def origins(self) -> list[str]:
        """Origins whose pages may call the API from a browser."""
        return _listed(self.cors_origins)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


@cache
def get_serve_settings() -> ServeSettings:
    """The settings of this process, read from the environment at first use.

    Raises ConfigError for a variable with an impossible value.
    """
    try:
        return ServeSettings()
    except ValidationError as error:
        # Without the values, which may be keys.
        parts = [
            f"RAYSCALE_SERVE_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}"
            for e in error.errors(include_input=False)
        ]
        raise ConfigError("; ".join(parts)) from None
