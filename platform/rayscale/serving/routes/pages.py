"""The page for people."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

_PAGE = Path(__file__).parents[1] / "docs.html"
_POLICY = "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob:"


def router() -> APIRouter:
    """``/`` and ``/docs``. No redirect: nothing here knows under which path a proxy shows the service."""
    router = APIRouter(include_in_schema=False)
    page = _PAGE.read_text(encoding="utf-8")

    @router.get("/")
    @router.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    return router
