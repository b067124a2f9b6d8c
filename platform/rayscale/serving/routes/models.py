"""``/v1/models``: what can be asked for."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from rayscale.errors import NotFoundError
from rayscale.registry.reference import PATTERN
from rayscale.serving.refusals import documented
from rayscale.serving.requests import check_reference
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
    scale_range: list[float] | None = Field(
        default=None,
        min_length=2,
        max_length=2,
        description="every scale above the first and up to the second is served too",
    )
    channels: int | None = Field(description="null: any number")


class Models(BaseModel):
    """The answer of ``GET /v1/models``."""

    default: str = Field(description="what is used when `model` is left out")
    models: list[Model]


class Card(Model):
    """The answer of ``GET /v1/models/{name}``; null is what nobody wrote down."""

    summary: str | None
    licence: str | None = Field(description="of the weights")
    data: str | None = Field(description="what it was trained on")
    data_licence: str | None
    scores: list[dict[str, Any]] = Field(description="each with its set, scale and protocol")
    levels: list[float] | None = Field(
        min_length=2,
        max_length=2,
        description="values of the network that are black and white; null for an interpolation",
    )
    memory_per_megapixel: dict[str, int] = Field(
        description="bytes that an 8-bit PNG of a megapixel takes in a replica, by scale"
    )


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

    @router.get(
        "/models/{name:path}",
        summary="The card of a model",
        response_model=Card,
        responses=documented(*refused, 403, 404, 422, 429, 500, 503),
    )
    async def card(
        name: Annotated[
            str,
            Path(
                max_length=256,
                description="name, name@alias or name/version",
                json_schema_extra={"pattern": PATTERN},
            ),
        ],
    ) -> dict[str, Any]:
        if not name:
            raise NotFoundError("nothing is served at this address; the list is at /v1/models")
        check_reference(name)
        return await service.backend.card(name)

    return router
