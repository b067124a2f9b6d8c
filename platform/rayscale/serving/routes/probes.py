"""``/healthz`` and ``/readyz``: open to everyone, and never behind an image."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from rayscale import __version__
from rayscale.serving.service import Service

_PACKAGES = ("ray", "torch", "mlflow", "numpy", "fastapi")


class State(BaseModel):
    """The answer of ``/readyz``."""

    status: str


class Health(State):
    """The answer of ``/healthz``."""

    versions: dict[str, str] = Field(description="of rayscale, Python and what it stands on")


def router(service: Service) -> APIRouter:
    """Both probes."""
    router = APIRouter(tags=["probes"])

    @router.get("/healthz", summary="Alive, with the versions", response_model=Health)
    async def healthz() -> dict[str, object]:
        return {"status": "alive", "versions": versions()}

    @router.get(
        "/readyz",
        summary="Ready: the default model is loaded",
        response_model=State,
        responses={503: {"model": State, "description": "The default model is not loaded yet."}},
    )
    async def readyz() -> Response:
        ready = await service.readiness()
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    return router


@cache
def versions() -> dict[str, str]:
    """Of rayscale, Python and the packages it stands on; nothing is imported for it."""
    found = {"rayscale": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
