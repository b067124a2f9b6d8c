"""The pages for people: ``/``, its files, and ``/docs``."""

from __future__ import annotations

from html import escape
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from rayscale.errors import NotFoundError

_PAGE = Path(__file__).parents[1] / "page"
# blob: for tiles, which are fetched with the key of the caller, and for what is about to be sent.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_KINDS = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain",
}


def router() -> APIRouter:
    """No redirect: nothing here knows under which path a proxy shows the service."""
    router = APIRouter(include_in_schema=False)
    pages = {"/": "index.html", "/docs": "docs.html"}
    texts = {path: (_PAGE / name).read_text(encoding="utf-8") for path, name in pages.items()}
    files = {
        path.relative_to(_PAGE).as_posix(): path.read_bytes()
        for path in sorted(_PAGE.rglob("*"))
        if path.suffix in _KINDS
    }

    @router.get("/")
    @router.get("/docs")
    async def page(request: Request) -> HTMLResponse:
        text = texts[request.scope["route"].path]
        root = request.scope.get("root_path", "")
        # /rayscale without a slash at its end would look for the files of the page beside it.
        base = f'<base href="{escape(root)}/">' if root else ""
        return HTMLResponse(text.replace("<!-- base -->", base), headers=_HEADERS)

    @router.get("/page/{name:path}")
    async def file(name: str) -> Response:
        if name not in files:
            raise NotFoundError("the page has no such file")
        kind = _KINDS[Path(name).suffix]
        return Response(files[name], media_type=kind, headers=_HEADERS)

    return router
