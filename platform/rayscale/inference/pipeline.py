"""Read, enlarge, write: the one flow from the bytes of a file to those of its enlargement, with provenance inside.

Command line, batch, HTTP and Python go through :class:`Pipeline`, so that the same source, model and options give the
same bytes at each of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from rayscale.imaging import (
    EXTENSIONS,
    Image,
    Provenance,
    convert_image,
    read_image,
    write_image,
)
from rayscale.inference.packs import upscale_pack
from rayscale.inference.scenes import UpscaledScene, upscale_scene
from rayscale.inference.upscaler import UNCERTAINTY, Upscaled, Upscaler
from rayscale.models.builtin import OpenedModel
from rayscale.options import Options


@dataclass(frozen=True)
class Output:
    """An enlarged file and what is known of it.

    Attributes:
        data: the file. container: its format. width, height: its pixels.
        notes: what there is to know of how the source was read.
        residual: ``max`` and ``rms`` of ``|down(SR) - LR|``, with ``consistency``.
        uncertainty: the file of the standard deviations and its format, with ``uncertainty``.
        seconds: of ``decode``, ``upscale`` and ``encode``.
    """

    data: bytes = field(repr=False)
    container: str
    width: int
    height: int
    notes: tuple[str, ...] = ()
    residual: dict[str, float] | None = None
    uncertainty: tuple[bytes, str] | None = field(default=None, repr=False)
    seconds: dict[str, float] = field(default_factory=dict)


class Pipeline:
    """A model with options, from file to file.

    Args:
        model: as :func:`rayscale.registry.open_model` gives it.
        device, watch: as in :class:`Upscaler`.
    """

    def __init__(
        self,
        model: OpenedModel,
        options: Options,
        *,
        device: str = "auto",
        watch: Callable[[], None] | None = None,
    ) -> None:
        self.upscaler = Upscaler(model.network, options, device=device, watch=watch)
        self.provenance = Provenance(model.label, model.digest, self.upscaler.describe())

    def with_options(self, options: Options) -> Pipeline:
        """The same with other ways to read and write files; the network and what was measured of it are shared."""
        made = copy(self)
        made.upscaler = self.upscaler.with_options(options)
        made.provenance = replace(self.provenance, parameters=made.upscaler.describe())
        return made

    @property
    def options(self) -> Options:
        """What was asked."""
        return self.upscaler.options

    @property
    def keeps_tiff(self) -> bool:
        """Whether a TIFF stays one, so that a scene may go by windows."""
        return self.options.format in (None, "tiff")

    def read(
        self, data: bytes, container: str | None = None, *, max_pixels: int | None = None
    ) -> Image:
        """Decode a file, to be written as ``container`` (None is that of the options, or its own); errors as in ``read_image``."""
        image = read_image(data, max_pixels=max_pixels, handling=self.upscaler.handling)
        if container is None and self.options.format is not None:
            container = EXTENSIONS[f".{self.options.format}"]
        if container is None or container == image.container:
            return image
        if container == "tiff" and image.container == "geotiff":
            return image  # which is a TIFF
        return convert_image(image, container)

    def enlarge(self, image: Image) -> Upscaled:
        """The enlarged image."""
        return self.upscaler.run(image)

    def enlarge_many(self, images: list[Image]) -> list[Upscaled]:
        """Small pictures in one batch, as :func:`upscale_pack`."""
        return [Upscaled(image) for image in upscale_pack(self.upscaler, images)]

    def write(self, larger: Upscaled) -> bytes:
        """Encode an enlarged image; errors as in ``write_image``."""
        return write_image(larger.image, self.provenance.with_measures(**larger.measures))

    def run(
        self,
        data: bytes,
        container: str | None = None,
        *,
        max_pixels: int | None = None,
        enlarge: Callable[[Image], Upscaled] | None = None,
    ) -> Output:
        """From file to file; ``enlarge`` as in :meth:`run_image`, other arguments as in :meth:`read`."""
        start = time.perf_counter()
        image = self.read(data, container, max_pixels=max_pixels)
        return self.run_image(image, time.perf_counter() - start, enlarge)

    def run_image(
        self,
        image: Image,
        decode_s: float = 0.0,
        enlarge: Callable[[Image], Upscaled] | None = None,
    ) -> Output:
        """From an image that another pipeline of the same options has read; ``enlarge`` stands in for :meth:`enlarge`."""
        clock = [time.perf_counter()]
        larger = (enlarge or self.enlarge)(image)
        clock.append(time.perf_counter())
        data = self.write(larger)
        uncertainty = None
        if larger.uncertainty is not None:
            made = self.provenance.with_measures(**larger.measures, content=UNCERTAINTY)
            uncertainty = write_image(larger.uncertainty, made), larger.uncertainty.container
        clock.append(time.perf_counter())
        image = larger.image
        stages = {"upscale": clock[1] - clock[0], "encode": clock[2] - clock[1]}
        return Output(
            data,
            image.container,
            image.width,
            image.height,
            image.notes,
            larger.measures.get("residual"),
            uncertainty,
            {"decode": decode_s, **stages},
        )

    def run_scene(
        self,
        source: Path,
        target: Path,
        *,
        uncertainty: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> UpscaledScene:
        """A GeoTIFF on disk into another by windows, as :func:`upscale_scene`."""
        return upscale_scene(
            self.upscaler,
            source,
            target,
            self.provenance,
            uncertainty=uncertainty,
            progress=progress,
        )


def pick_by_channels(
    names: tuple[str, str],
    open_one: Callable[[str], OpenedModel],
    options: Options,
    device: str = "auto",
) -> Callable[[int], Pipeline]:
    """The pipeline for a number of measured channels, opened when it is first needed.

    Args:
        names: the model for images of three channels, and that for others (``models.builtin.default_models``).
    """

    @cache
    def pipeline(name: str) -> Pipeline:
        return Pipeline(open_one(name), options, device=device)

    return lambda channels: pipeline(names[0] if channels == 3 else names[1])
