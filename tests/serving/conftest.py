"""Helpers of the service's tests: images in every container, a tiny trained-looking model, a caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from tests.serving.deployed import KEY, NAMED_KEYS, Line, client_of

from rayscale.errors import NotFoundError
from rayscale.imaging import Image, write_image
from rayscale.models.network import SuperResolver
from rayscale.models.systems import create_model
from rayscale.models.weights import save_model
from rayscale.registry import ModelVersion, models
from rayscale.registry.client import tracking_uri
from rayscale.serving.api import create_app
from rayscale.serving.engine import Engine
from rayscale.serving.keys import render_keys
from rayscale.serving.settings import ServeSettings, get_serve_settings
from rayscale.settings import get_settings


def make_image(
    height: int,
    width: int,
    *,
    channels: int = 3,
    bits: int = 8,
    container: str = "png",
    seed: int = 0,
) -> Image:
    """Noise over smooth ramps: every region differs from every other."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 0.7, height * width * channels).reshape(height, width, channels)
    values = ramp + 0.3 * random.random((height, width, channels))
    dtype = np.uint8 if bits == 8 else np.uint16
    return Image((values * (2**bits - 1)).astype(dtype), container=container)


def encoded(*size: int, **kinds: Any) -> bytes:
    """The file of :func:`make_image`."""
    return write_image(make_image(*size, **kinds))


def tiny_model(seed: int = 0, scale: int = 2, channels: int = 3) -> SuperResolver:
    """A small EDSR whose random weights are a function of ``seed``."""
    torch.manual_seed(seed)
    model = create_model("edsr-baseline", scale=scale, channels=channels, filters=8, blocks=2)
    return model.eval()


@dataclass
class FakeRegistry:
    """A registry in memory: references to versions, versions to networks; counts what is asked of it.

    Its three methods stand for those of ``rayscale.registry.models``.
    """

    meanings: dict[str, ModelVersion] = field(default_factory=dict)
    networks: dict[str, SuperResolver] = field(default_factory=dict)
    gone: Exception | None = None
    loads: list[str] = field(default_factory=list)
    before_load: Callable[[], None] = lambda: None

    def add(self, name: str, version: int, *aliases: str, seed: int | None = None) -> ModelVersion:
        model = tiny_model(version if seed is None else seed)
        found = ModelVersion(name, version, f"{version:064x}", model.spec, "", aliases)
        self.networks[found.ref] = model
        for reference in (name, found.ref, *(f"{name}@{alias}" for alias in aliases)):
            self.meanings[reference] = found
        return found

    def resolve(self, reference: str) -> ModelVersion:
        tracking_uri()
        if self.gone is not None:
            raise self.gone
        if reference not in self.meanings:
            raise NotFoundError(f"there is no model {reference!r}")
        return self.meanings[reference]

    def load(self, version: ModelVersion) -> SuperResolver:
        self.before_load()
        self.loads.append(version.ref)
        return self.networks[version.ref]

    def list_models(self) -> list[ModelVersion]:
        tracking_uri()
        if self.gone is not None:
            raise self.gone
        return list({version.ref: version for version in self.meanings.values()}.values())


@pytest.fixture(autouse=True)
def _fresh_settings() -> Iterator[None]:
    """Settings are read once per process; tests change the environment."""
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    """An empty registry that is configured."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://registry.invalid")
    fake = FakeRegistry()
    monkeypatch.setattr(models, "resolve", fake.resolve)
    monkeypatch.setattr(models, "load", fake.load)
    monkeypatch.setattr(models, "list_models", fake.list_models)
    return fake


@pytest.fixture
def make_app(registry: FakeRegistry) -> Iterator[Callable[..., FastAPI]]:
    """Makes the application over an engine in this process; keyword arguments are settings."""
    engines: list[Engine] = []

    def make(backend: Any = None, **settings: Any) -> FastAPI:
        chosen = ServeSettings(**settings)
        if backend is None:
            backend = Engine(chosen)
            backend.start()
            engines.append(backend)
        return create_app(backend, chosen)

    yield make
    for engine in engines:
        engine.close()


def call(app: FastAPI, method: str, path: str, **kinds: Any) -> httpx.Response:
    """One request to an application in this process."""

    async def run() -> httpx.Response:
        async with client(app) as http:
            return await http.request(method, path, **kinds)

    return asyncio.run(run())


def client(app: FastAPI) -> httpx.AsyncClient:
    """A client of an application in this process; errors that escape the application fail the test."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


class Tools:
    """The helpers above, for tests: modules of tests cannot import each other."""

    make_image = staticmethod(make_image)
    encoded = staticmethod(encoded)
    tiny_model = staticmethod(tiny_model)
    call = staticmethod(call)
    client = staticmethod(client)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(scope="package")
def line(stack: Any) -> Line:
    """What the service has for MLflow."""
    url = urlsplit(stack.mlflow)
    return Line(str(url.hostname), int(url.port or 80))


@pytest.fixture(scope="package")
def service(
    stack: Any, line: Line, tools: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of the service on the stack, with ``roofs@prod`` (version 1 of 2) as its default."""
    from rayscale import cluster, registry
    from rayscale.serving.deploy import deploy, shutdown
    from rayscale.storage.s3_client import get_client

    for seed in (1, 2):
        path = tmp_path_factory.mktemp("weights") / "model.safetensors"
        save_model(tools.tiny_model(seed), path)
        registry.publish(path, "roofs", scores={})
    registry.set_alias("roofs", "prod", 1)
    get_client().create_bucket(Bucket="batches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYSCALE_SERVE_REFRESH_S", "0.5")
        # Slow enough to be overloaded, fast enough for a test: one image at a time on one core.
        patch.setenv("RAYSCALE_SERVE_THREADS", "1")
        patch.setenv("RAYSCALE_SERVE_PRECISION", "float32")
        patch.setenv("RAYSCALE_SERVE_BODY_IDLE_S", "8")
        patch.setenv("RAYSCALE_SERVE_API_KEYS", KEY)
        patch.setenv("RAYSCALE_SERVE_KEYS", render_keys(NAMED_KEYS))
        patch.setenv("RAYSCALE_SERVE_BATCHES_URI", "s3://batches/records")
        patch.setenv("RAYSCALE_SERVE_BATCH_PREFIXES", "s3://batches/data")
        patch.setenv("RAYSCALE_SERVE_WEBHOOK_HOSTS", "127.0.0.1")
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{line.port}")
        get_serve_settings.cache_clear()
        address = deploy(model="roofs@prod")
    get_serve_settings.cache_clear()
    yield address
    shutdown()
    cluster.shutdown()


@pytest.fixture
def http(service: str) -> Iterator[httpx.Client]:
    with client_of(service) as client:
        yield client
