"""``/v1/views``: what the page shows of an image and its enlargement, tile by tile. No part of the interface for programs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from rayscale.errors import InputError, TooLargeError
from rayscale.imaging import MIME, Image, probe, read_image
from rayscale.imaging.limits import check_output
from rayscale.imaging.metrics import EDSR_PAPER, RGB, psnr, ssim
from rayscale.imaging.series import order_slices, stack_slices
from rayscale.options import Handling, Options
from rayscale.serving.errors import BadParameterError
from rayscale.serving.keys import ANYONE, key_of
from rayscale.serving.options import query_options
from rayscale.serving.parcels import zip_files
from rayscale.serving.requests import Result, UpscaleRequest, check_reference
from rayscale.serving.results import LAYERS, Record, Results
from rayscale.serving.routes.upscale import ModelQuery
from rayscale.serving.service import Caller, Service
from rayscale.serving.viewing import Picture, Pictures, Stretch, disagreement
from rayscale.settings import get_settings

T = TypeVar("T")

DISAGREEMENT = "consistency"
_THREADS = 4
_MOST_COMPARED = 25_000_000
"""Pixels: SSIM takes a hundred bytes for each."""

_MOST_SLICES = 4096

_Numbers = Annotated[str, Query(max_length=200)]
_KEPT = {"Cache-Control": "private, max-age=3600, immutable"}


class Series(BaseModel):
    """Results to be joined."""

    model_config = ConfigDict(extra="forbid")

    views: list[str] = Field(min_length=2, max_length=_MOST_SLICES)


class Viewer:
    """The results of one service and the pictures of them that this process looked at last."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.pictures = Pictures(service.settings.results_bytes)
        # Of its own: whoever waits for a picture to be decoded takes no thread of what is asked of the API.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="view")

    @cached_property
    def results(self) -> Results:
        """Opened when the first is asked for: most services show no page."""
        return Results(self.service.settings)

    async def run(self, work: Callable[[], T]) -> T:
        """``work`` in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def keep(self, data: bytes, result: Result, options: Options, owner: str) -> dict[str, Any]:
        """Store a result; what the page needs to show it."""
        files = {
            "before": (data, probe(data).container),
            "after": (result.data, result.container),
        }
        if result.uncertainty is not None:
            files["uncertainty"] = result.uncertainty
        facts = {
            "model": result.model,
            "weights_sha256": result.digest,
            "scale": result.scale,
            "seconds": result.seconds,
            "notes": list(result.notes),
            "residual": result.residual,
            "container": result.container,
            "bytes": len(result.data),
            "reading": Handling(options.levels, options.labels).to_texts(),
        }
        return self.describe(self.results.put(files, owner, facts))

    def describe(self, record: Record) -> dict[str, Any]:
        """A record with its two pictures."""
        shown = {layer: self.picture(record, layer).describe() for layer in ("before", "after")}
        overlays = [layer for layer in record.containers if layer not in shown]
        return {"id": record.id, **record.facts, **shown, "overlays": [*overlays, DISAGREEMENT]}

    def picture(self, record: Record, layer: str) -> Picture:
        """A layer, decoded."""

        def make() -> Picture:
            if layer == DISAGREEMENT:
                return disagreement(before, after, record.facts["scale"])
            if not record.slices:
                return Picture(self._decode(record, layer))
            images = [self._decode(part, layer) for part in self.slices(record)]
            return Picture(stack_slices(images), [image.metadata for image in images])

        if layer == DISAGREEMENT:
            before, after = (self.picture(record, name) for name in ("before", "after"))
        return self.pictures.get((record.id, layer), make)

    def slices(self, record: Record) -> list[Record]:
        """The results that a series is made of."""
        return [self.results.get(name, record.owner) for name in record.slices]

    def archive(self, record: Record, layer: str) -> Iterator[bytes]:
        """The files of a series, in their order."""
        return zip_files(
            (f"{number:04d}.dcm", self.results.read(part, layer))
            for number, part in enumerate(self.slices(record), 1)
        )

    def join(self, names: list[str], owner: str) -> dict[str, Any]:
        """Keep a series of results of single slices; what the page needs to show it. Raises InputError."""
        records = [self.results.get(name, owner) for name in names]
        facts = join_facts([record.facts for record in records])
        header = probe(self.results.read(records[0], "before"))
        check_output(replace(header, slices=len(records)), facts["scale"])  # before any is decoded
        images = [self._decode(record, "before") for record in records]
        records = [records[at] for at in order_slices(images)]
        del images
        return self.describe(self.results.put({}, owner, facts, [each.id for each in records]))

    def _decode(self, record: Record, layer: str) -> Image:
        limits = get_settings()
        most = max(limits.max_input_pixels, limits.max_output_pixels)
        handling = Handling.parse(**record.facts["reading"])
        return read_image(self.results.read(record, layer), max_pixels=most, handling=handling)

    def find(self, request: Request, name: str) -> Record:
        """The record of a result that the caller may see."""
        return self.results.get(name, _owner(request))


def router(service: Service, refused: tuple[int, ...]) -> APIRouter:
    """Below ``/v1``."""
    router = APIRouter(prefix="/views", include_in_schema=False)
    viewer = Viewer(service)
    asked = Depends(query_options(Options(precision=service.settings.precision)))

    @router.post("")
    async def make(
        request: Request, options: Options = asked, model: ModelQuery = None
    ) -> dict[str, Any]:
        if model is not None:
            check_reference(model)
        service.check_room(Caller.of(request))
        data = await request.body()
        result = await service.upscale(UpscaleRequest(data, model, options), Caller.of(request))
        return await viewer.run(partial(viewer.keep, data, result, options, _owner(request)))

    @router.post("/series")
    async def join(request: Request, series: Series) -> dict[str, Any]:
        """Results of the slices of one DICOM series as one volume; each stays what it is."""
        return await viewer.run(lambda: viewer.join(series.views, _owner(request)))

    @router.get("/{name}")
    async def show(request: Request, name: str) -> dict[str, Any]:
        return await viewer.run(lambda: viewer.describe(viewer.find(request, name)))

    @router.get("/{name}/layers/{layer}")
    async def show_layer(request: Request, name: str, layer: str) -> dict[str, Any]:
        return await viewer.run(
            lambda: viewer.picture(viewer.find(request, name), layer).describe()
        )

    _add_pictures(router, viewer)
    return router


def _add_pictures(router: APIRouter, viewer: Viewer) -> None:
    """What is seen of a result, and its files."""

    @router.get("/{name}/tiles/{layer}/{level}/{column}/{row}")
    async def tile(
        request: Request, name: str, layer: str, level: int, column: int, row: int,
        slice: int = 0, bands: _Numbers = "0", black: _Numbers = "0", white: _Numbers = "255", heat: bool = False,
    ) -> Response:  # fmt: skip
        stretch = _stretch(bands, black, white, heat)

        def work() -> bytes:
            picture = viewer.picture(viewer.find(request, name), layer)
            return picture.tile(level, column, row, slice, stretch)

        return Response(await viewer.run(work), media_type="image/png", headers=_KEPT)

    @router.get("/{name}/point")
    async def point(
        request: Request, name: str, row: int, column: int, slice: int = 0
    ) -> dict[str, Any]:
        """Stored values at a pixel of the result, and of the source pixel that it lies in."""
        return await viewer.run(
            lambda: _point(viewer, viewer.find(request, name), slice, row, column)
        )

    @router.get("/{name}/files/{layer}")
    async def file(request: Request, name: str, layer: str) -> Response:
        record = await viewer.run(lambda: viewer.find(request, name))
        if record.slices:
            archive = await viewer.run(partial(viewer.archive, record, layer))
            return StreamingResponse(archive, media_type="application/zip")
        data = await viewer.run(lambda: viewer.results.read(record, layer))
        return Response(data, media_type=MIME[record.containers[layer]], headers=_KEPT)

    @router.post("/{name}/reference")
    async def reference(request: Request, name: str) -> list[dict[str, Any]]:
        """PSNR and SSIM of the result against a picture of its size."""
        data = await request.body()
        return await viewer.run(lambda: _compare(viewer, viewer.find(request, name), data))


def join_facts(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """What is known of a series, from what is known of its slices. Raises InputError where they were not made alike."""
    first = facts[0]
    alike = ("weights_sha256", "scale", "reading", "container")
    if any(each[name] != first[name] for each in facts for name in alike):
        raise InputError("the slices were enlarged by different models, scales or options")
    residuals = [each["residual"] for each in facts if each["residual"] is not None]
    residual = None
    if len(residuals) == len(facts):
        squares = sum(each["rms"] ** 2 for each in residuals) / len(residuals)
        residual = {"max": max(each["max"] for each in residuals), "rms": squares**0.5}
    seconds = {name: sum(each["seconds"][name] for each in facts) for name in first["seconds"]}
    return {
        **first,
        "seconds": seconds,
        "notes": list(dict.fromkeys(note for each in facts for note in each["notes"])),
        "residual": residual,
        "bytes": sum(each["bytes"] for each in facts),
    }


def _owner(request: Request) -> str:
    key = key_of(request.scope)
    return "" if key is ANYONE else key.id


def _stretch(bands: str, black: str, white: str, heat: bool) -> Stretch:
    try:
        low, high = (tuple(map(float, text.split(","))) for text in (black, white))
        return Stretch(tuple(map(int, bands.split(","))), low, high, heat)
    except InputError as error:
        raise BadParameterError(str(error)) from None
    except ValueError:
        raise BadParameterError(
            "bands, black and white are numbers separated by commas, such as bands=3,2,1"
        ) from None


def _point(viewer: Viewer, record: Record, index: int, row: int, column: int) -> dict[str, Any]:
    after, before = (viewer.picture(record, layer) for layer in ("after", "before"))
    _, height, width, _ = before.shape
    scale = record.facts["scale"]
    at = (
        min(int((row + 0.5) / scale), height - 1),
        min(int((column + 0.5) / scale), width - 1),
    )
    found = {
        "after": after.values(index, row, column),
        "before": before.values(index, *at),
        "source_row": at[0],
        "source_column": at[1],
        "place": after.place(index, row, column),
    }
    if LAYERS[2] in record.containers:
        found[LAYERS[2]] = viewer.picture(record, LAYERS[2]).values(index, row, column)
    return found


def _compare(viewer: Viewer, record: Record, data: bytes) -> list[dict[str, Any]]:
    after = viewer.picture(record, "after")
    slices, height, width, channels = after.shape
    if width * height > _MOST_COMPARED:
        raise TooLargeError(
            f"the result has {width * height} pixels, over the {_MOST_COMPARED} that the page compares; use "
            "`rayscale evaluate`"
        )
    wanted = read_image(data, max_pixels=_MOST_COMPARED)
    wanted.check_picture("a reference")
    if slices > 1:
        raise InputError("a reference is compared with a single picture, not with a volume")
    pixels, scale = after.levels[0][0], record.facts["scale"]
    protocols = [RGB] if channels not in (1, 3) else [RGB, EDSR_PAPER]
    return [
        {
            "protocol": protocol.name,
            "description": protocol.description,
            "psnr": _finite(psnr(pixels, wanted.pixels, protocol, scale)),
            "ssim": ssim(pixels, wanted.pixels, protocol, scale),
        }
        for protocol in protocols
    ]


def _finite(value: float) -> float | None:
    """None for equal pictures, whose PSNR has no end and JSON no word for it."""
    return value if value < float("inf") else None
