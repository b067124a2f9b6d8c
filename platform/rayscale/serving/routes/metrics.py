"""``/metrics``: the counts of all replicas, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response

from rayscale.serving.metrics import CONTENT_TYPE, render, take_snapshot
from rayscale.serving.refusals import documented
from rayscale.serving.service import Service


def router(service: Service, refused: tuple[int, ...]) -> APIRouter:
    """At the top."""
    router = APIRouter(tags=["probes"])

    @router.get(
        "/metrics",
        summary="Counts for Prometheus",
        response_class=Response,
        responses={
            200: {
                "description": "The text form, each sample with the `replica` that it is of.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **documented(*refused, 500),
        },
    )
    async def metrics() -> Response:
        own = take_snapshot(service.measured().registry)
        others = await service.backend.metrics()
        return Response(render([(service.backend.name(), own), *others]), media_type=CONTENT_TYPE)

    return router
