"""``/metrics``: the counts of all replicas, for Prometheus."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, Response

from rayscale.errors import RayscaleError
from rayscale.serving.metrics import CONTENT_TYPE, Snapshot, render, take_snapshot
from rayscale.serving.refusals import documented
from rayscale.serving.service import Service

log = logging.getLogger("ray.serve")


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
        own = (service.backend.name(), take_snapshot(service.measured().registry))
        found = [own, *await service.backend.metrics(), *await _count_batches(service)]
        return Response(render(found), media_type=CONTENT_TYPE)

    return router


async def _count_batches(service: Service) -> list[tuple[str, Snapshot]]:
    """Batches by state. They are those of the store, whichever ingress is asked, and so of no replica."""
    if service.batches is None:
        return []
    try:
        counts = await asyncio.to_thread(service.batches.count)
    except RayscaleError as error:
        log.warning("the batches cannot be counted: %s", error)
        return []
    name = "rayscale_batches"
    samples = [(name, {"state": state}, float(count)) for state, count in counts.items()]
    return [("", [(name, "The latest 200 batches by state", "gauge", samples)])]
