"""``/v1/models``: what can be asked for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from rayscale.serving.refusals import documented
from rayscale.serving.service import Service


class Model(BaseModel):
    """One model that ``model=`` may name."""

    model_config = ConfigDict(extra="allow")

    reference: str = Field(description="always means exactly this model")
    name: str
    version: str | None = Field(description="null for a built-in")
    aliases: list[str]
    weights_sha256: str = Field(description="`none` for an interpolation, which has no weights")
    system: str
    scales: list[int]
    scale_range: tuple[float, float] | None = Field(
        default=None,
        description="every scale above the first and up to the second is served too",
    )
    channels: int | None = Field(description="null: any number")


class Models(BaseModel):
    """The answer of ``GET /v1/models``."""

    default: str = Field(description="what is used when `model` is left out")
    models: list[Model]


def router(service: Service, refused: tuple[int, ...]) -> APIRouter:
    """Below ``/v1``."""
    router = APIRouter()

    @router.get(
        "/models",
        summary="The models that can be asked for",
        response_model=Models,
        responses=documented(*refused, 422, 429, 500, 503),
    )
    async def models() -> dict[str, Any]:
        return {"default": service.settings.model, "models": await service.backend.models()}

    return router
