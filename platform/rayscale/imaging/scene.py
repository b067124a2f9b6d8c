"""A GeoTIFF on disk, read and written by windows: what memory holds depends on the window, never on the scene.

Reads what ``containers.geotiff`` reads and writes what it writes, under the same guards. A window shares the levels and
the metadata of its scene, so that windows are enlarged as the whole would be; cutting a scene into windows
belongs to ``rayscale.inference.scenes``.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError, NotFoundError, StorageError, TooLargeError
from rayscale.imaging.containers import gdal, geotiff
from rayscale.imaging.containers.geometadata import metadata_of, placement, put_metadata
from rayscale.imaging.containers.ifd import Ifd
from rayscale.imaging.image import Header, Image
from rayscale.imaging.levels import Levels
from rayscale.imaging.limits import check_size
from rayscale.imaging.missing import Missing
from rayscale.imaging.provenance import Provenance
from rayscale.options import DEFAULTS, Handling
from rayscale.resampling import enlarged
from rayscale.settings import GIB, MIB, get_settings

_SCANNED_BYTES = 32 * MIB
_TEMPORARY_BLOCK = 512


def is_scene(path: Path) -> bool:
    """Whether a file is a GeoTIFF, judged by its first directory."""
    if not path.is_file() or path.stat().st_size < 16:
        return False
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return data[128:132] != b"DICM" and geotiff.claims(data)


def probe_scene(path: Path) -> Header:
    """The header of a GeoTIFF, which may be larger than memory; errors as in :func:`rayscale.imaging.probe`."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return geotiff.check_header(Ifd.first(data))


def _check(data: mmap) -> Ifd:
    """The first directory of a GeoTIFF that may be opened: its claims are within the limits."""
    settings, ifd = get_settings(), Ifd.first(data)
    header = geotiff.check_header(ifd)
    check_size(header, settings.max_scene_pixels, "RAYSCALE_MAX_SCENE_PIXELS")
    geotiff.check_pages(header)
    tile = geotiff.block(header, ifd.integer(322, 1), ifd.integer(323, 1))
    check_size(tile, settings.max_input_pixels)
    return ifd


class Scene:
    """A GeoTIFF open for reading by windows; close it, or use it as a context.

    Args:
        path: a file of this machine. GDAL gets it as an absolute path and may use its GTiff driver only.
        levels: those of an earlier opening of the same file, which spares a pass over it.
        handling: as in :func:`rayscale.imaging.read_image`.

    Attributes:
        height, width, channels: of the pixels, alpha left out. dtype: of the pixels.
        metadata: without the mask, which is read by windows.
        labels: as in ``Image``; bands that cannot be told by their first pixels take a pass over the file.

    Raises:
        NotFoundError: there is no such file.
        InputError: damaged. UnsupportedError: as in :func:`rayscale.imaging.read_image`.
        TooLargeError: over ``max_scene_pixels``, or in blocks over ``max_input_pixels``.
    """

    def __init__(
        self, path: str | Path, levels: Levels | None = None, handling: Handling = DEFAULTS
    ) -> None:
        self.handling = handling
        self.path = Path(os.path.realpath(path))
        # A URL of GDAL, such as /vsicurl/, is not a file; a folder of that name would be taken for one.
        if not self.path.is_file() or str(self.path).startswith("/vsi"):
            raise NotFoundError(f"there is no file {path}")
        if not self.path.stat().st_size:
            raise InputError("the file is empty (0 bytes)")
        with self.path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            ifd = _check(data)
            with gdal.reading() as rasterio:
                self._dataset = rasterio.open(str(self.path), driver="GTiff")
                try:
                    self._describe(ifd)
                except BaseException:
                    self.close()
                    raise
        if levels is not None:
            self.levels = levels

    def _describe(self, ifd: Ifd) -> None:
        dataset = self._dataset
        high, wide = dataset.block_shapes[0]
        strip = geotiff.block(geotiff.check_header(ifd), wide, high)
        check_size(strip, get_settings().max_input_pixels)
        layout = self._layout = geotiff.layout_of(dataset)
        self.metadata = metadata_of(dataset, ifd, layout.indexes, layout.alpha)
        self.height, self.width = int(dataset.height), int(dataset.width)
        self.channels, self.dtype = len(layout.indexes), np.dtype(dataset.dtypes[0])
        parts = (self._read(*square) for square in self._squares())
        self.labels, self._doubts = geotiff.labels_of(dataset, layout, self.handling, parts)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._dataset.close()

    @cached_property
    def levels(self) -> Levels:
        """Black and white of the whole scene; one pass over the file where they are measured."""
        squares = (self._read(rows, columns) for rows, columns in self._squares())
        pixels = self.height * self.width
        return geotiff.levels_of(self.dtype, self.metadata, squares, pixels, self.handling)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """As in ``Image``; one pass over an alpha band."""
        masks = (self.mask(*square) for square in self._squares())
        return self._doubts + geotiff.notes_of(self._layout, self.metadata, masks)

    @property
    def masked(self) -> bool:
        """Whether there is an alpha band or an internal mask: validity that is written as well."""
        return self._layout.masked or self._layout.alpha is not None

    @property
    def incomplete(self) -> bool:
        """Whether pixels may be missing, as far as known without reading them."""
        return self.masked or self.metadata.nodata is not None or self.dtype.kind == "f"

    def window(self, rows: slice, columns: slice) -> Image:
        """The pixels of some rows and columns, with the levels of the scene but not its metadata."""
        pixels, missing = self._read(rows, columns)
        return Image(pixels, "geotiff", levels=self.levels, missing=missing, labels=self.labels)

    def mask(self, rows: slice, columns: slice) -> NDArray[Any] | None:
        """Validity of some rows and columns as stored (alpha, or 0 and 255), None when not ``masked``."""
        with gdal.reading() as rasterio:
            window = rasterio.windows.Window.from_slices(rows, columns)
            return geotiff.read_mask(self._dataset, self._layout, window)

    def _read(self, rows: slice, columns: slice) -> tuple[NDArray[Any], Missing | None]:
        with gdal.reading() as rasterio:
            window = rasterio.windows.Window.from_slices(rows, columns)
            pixels = geotiff.read_bands(self._dataset, self._layout, window)
        mask = self.mask(rows, columns)
        return pixels, geotiff.missing_of(pixels, mask, self.metadata.nodata)

    def _squares(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of parts that cover the scene, for a pass over it."""
        side = max(math.isqrt(_SCANNED_BYTES // (self.channels * self.dtype.itemsize)), 64)
        for top in range(0, self.height, side):
            for left in range(0, self.width, side):
                yield (
                    slice(top, min(top + side, self.height)),
                    slice(left, min(left + side, self.width)),
                )


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of an enlarged scene.

    Attributes:
        row, column: where its first pixel lies in the output.
        pixels: ``(h, w, C)``. mask: ``(h, w)`` as in ``Scene.mask``, None for a scene without.
    """

    row: int
    column: int
    pixels: NDArray[Any]
    mask: NDArray[Any] | None = None


class SceneWriter:
    """The enlarged scene: takes its parts in any order and becomes a Cloud-Optimised GeoTIFF when all are there.

    A context; what it writes lies in a hidden folder beside ``target`` that is gone at the end, however that comes, and
    ``target`` appears whole or not at all. Not safe to share between threads.

    Args:
        target: the file to make, its folder too when missing. scene: the source. scale: how many times larger.
        deviations: the parts are standard deviations of the values, float32 with NaN where there are none.
        lossless: whatever the compression of the source, every value is kept. labels: some bands are, so that no overview
            may average.

    Raises:
        TooLargeError: over ``max_scene_pixels``, or a side over what GeoTIFF holds.
        StorageError: not enough free disk space, or any other reason not to be able to write.
    """

    def __init__(
        self,
        target: str | Path,
        scene: Scene,
        scale: float,
        *,
        deviations: bool = False,
        lossless: bool = False,
        labels: bool = False,
    ) -> None:
        self.target = Path(os.path.abspath(target))
        self.height, self.width = enlarged(scene.height, scale), enlarged(scene.width, scale)
        metadata = scene.metadata.scaled(scale)
        if lossless:
            metadata = metadata.without_loss()
        self._metadata = metadata.of_deviations() if deviations else metadata
        self._levels, self._labels = scene.levels, labels
        self._count = scene.channels + (self._metadata.alpha is not None)
        self._dtype = np.dtype(np.float32) if deviations else scene.dtype
        self._check_size(scene, scale)

    def __enter__(self) -> SceneWriter:
        with ExitStack() as stack:
            try:
                self.target.parent.mkdir(parents=True, exist_ok=True)
                self._check_space()
                # Of the names that a store leaves out of its listings.
                folder = TemporaryDirectory(
                    prefix=".rayscale-", suffix=".part", dir=self.target.parent
                )
            except OSError as error:
                raise StorageError(f"{self.target}: {error.strerror or error}") from error
            self._folder = Path(stack.enter_context(folder))
            with gdal.writing(str(self.target)) as rasterio:
                # Not compressed: a block that two windows share is written twice, in the same place.
                self._dataset = rasterio.open(
                    str(self._folder / "pixels.tif"), "w+", driver="GTiff", width=self.width, height=self.height,
                    count=self._count, dtype=self._dtype.name, tiled=True, blockxsize=_TEMPORARY_BLOCK,
                    blockysize=_TEMPORARY_BLOCK, interleave="pixel", BIGTIFF="IF_SAFER", **placement(self._metadata),
                )  # fmt: skip
                stack.callback(self._dataset.close)
                put_metadata(self._dataset, self._metadata)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def put(self, part: Part) -> None:
        """Write one part; writing it again does no harm."""
        height, width = part.pixels.shape[:2]
        with gdal.writing(str(self.target)) as rasterio:
            window = rasterio.windows.Window(part.column, part.row, width, height)
            geotiff.write_bands(self._dataset, self._metadata, part.pixels, part.mask, window)

    def finish(self, provenance: Provenance | None = None) -> None:
        """Make ``target`` of the parts, with its overviews; atomic, an existing file is replaced."""
        made = self._folder / "scene.tif"
        with gdal.writing(str(self.target)):
            if provenance is not None:
                provenance = provenance.with_parameters(levels=self._levels.describe())
                self._dataset.update_tags(RAYSCALE=provenance.to_json())
            gdal.write_cog(self._dataset, str(made), self._metadata, labels=self._labels)
        try:
            gdal.return_band_tags_of(made)
            gdal.put_epoch_into(made, self._metadata)
        except InputError as error:  # GDAL did not notice that the end of the file got lost
            raise StorageError(f"{self.target} could not be written whole: {error}") from error
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(self.target)

    def _check_size(self, scene: Scene, scale: float) -> None:
        pixels, limit = self.height * self.width, get_settings().max_scene_pixels
        size = (
            f"{scene.width} x {scene.height} pixels at x{scale:g} make {self.width} x {self.height}"
        )
        if pixels > limit:
            raise TooLargeError(
                f"{size}, over the limit of {limit} pixels of a scene; raise RAYSCALE_MAX_SCENE_PIXELS or cut the scene"
            )
        if max(self.height, self.width) > geotiff.MAX_SIDE:
            raise TooLargeError(f"{size}, but GeoTIFF holds sides of up to {geotiff.MAX_SIDE}")

    def _check_space(self) -> None:
        """The pixels as they come, and the result: as large when nothing compresses, its overviews a third more."""
        pixels = self.height * self.width * self._count * self._dtype.itemsize
        needed = (
            pixels + pixels * 4 // 3 + pixels // 3
        )  # GDAL makes the overviews in a file of their own
        free = shutil.disk_usage(self.target.parent).free
        if needed > free:
            raise StorageError(
                f"{self.target} of {self.width} x {self.height} pixels needs up to {needed / GIB:.2f} GiB of disk while "
                f"it is made, but {self.target.parent} has {free / GIB:.2f} GiB left; free some or name another disk"
            )
