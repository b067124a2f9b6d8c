"""From file to file on this machine: formats by name, scenes by windows, sidecars heeded, uncertainty beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rayscale.errors import ConfigError, NotFoundError
from rayscale.files import check_distinct
from rayscale.imaging import (
    CONTAINERS,
    Handling,
    container_for,
    ending_of,
    heed_name,
    sidecars,
)
from rayscale.imaging.scene import Scene, is_scene
from rayscale.inference.pipeline import Output, Pipeline
from rayscale.options import Format
from rayscale.storage import connect, split

Change = Callable[[bytes, str | None], Output]
"""The bytes of a file, and the container of its result where it is another, to what is made of it."""


@dataclass(frozen=True)
class Written:
    """A finished file: its size, what is left of ``|down(SR) - LR|``, the file of its uncertainty, and what its reader
    notes."""

    width: int
    height: int
    residual: dict[str, float] | None = None
    uncertainty: str | None = None
    notes: tuple[str, ...] = ()

    def with_notes(self, notes: tuple[str, ...]) -> Written:
        """The same with notes added."""
        return replace(self, notes=self.notes + notes)


def upscale_file(
    source: Path,
    target: Path,
    pipeline_for: Callable[[int], Pipeline],
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Enlarge one file into another; a GeoTIFF that stays one goes by windows, so that it may be larger than memory.

    Args:
        pipeline_for: the pipeline for a number of measured channels; all have the same options.
        progress: called with the number of windows done and of all, for a scene.

    Raises OSError; ConfigError where both are one file; and the errors of reading, enlarging and writing.
    """
    check_distinct(source, target)
    first = pipeline_for(3)
    notes = heed_sidecars(source, repeats=first.upscaler.repeats)
    if first.keeps_tiff and is_scene_to_scene(source, target):
        written = _upscale_scene(source, target, pipeline_for, first.upscaler.handling, progress)
    else:

        def enlarge(data: bytes, container: str | None) -> Output:
            image = first.read(data, container)
            return pipeline_for(len(image.measured)).run_image(image)

        written = convert_file(source, target, enlarge, first.options.format)
    return written.with_notes(notes)


def upscale_object(
    source: str,
    target: str,
    pipeline_for: Callable[[int], Pipeline],
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """:func:`upscale_file` from and to any place, ``s3://bucket/key`` or a path, by way of files of this machine.

    Raises NotFoundError where there is no such object, and the errors of both stores.
    """
    (root, key), (home, name) = split(source), split(target)
    store, sink = connect(root), connect(home)
    if (store, key) == (sink, name):
        raise ConfigError(f"input and output are the same object {source}; name another output")
    with TemporaryDirectory(prefix="rayscale-") as scratch:
        near, far = Path(scratch, "source", key), Path(scratch, "target", name)
        try:
            store.fetch(key, near)
        except NotFoundError as error:
            raise NotFoundError(
                f"{error}; for all objects below it, name a folder as output"
            ) from None
        there = (
            {entry.key for entry in store.list(stem_of(near))} if sidecars.is_raster(key) else set()
        )
        for beside in sidecars.names_beside(key, there.__contains__):
            store.fetch(beside, near.with_name(beside))
        written = upscale_file(near, far, pipeline_for, progress)
        for path in far.parent.iterdir():
            sink.write_file(path.name, path)
    if written.uncertainty is None:
        return written
    return replace(written, uncertainty=sink.locate(Path(written.uncertainty).name))


def convert_file(
    source: Path, target: Path, change: Change, format: Format | None = None
) -> Written:
    """Read a file whole, change it, and write what it became; in ``format`` where one is asked for."""
    data = source.read_bytes()
    output = change(data, container_for(data, source.name, str(target), format))
    store = connect(target.parent)
    store.write(target.name, output.data)
    beside = None
    if output.uncertainty is not None:
        deviations, container = output.uncertainty
        path = _beside(target, container)
        store.write(path.name, deviations)
        beside = str(path)
    notes = output.notes + heed_name(target.name, output.container)
    return Written(output.width, output.height, output.residual, beside, notes)


def heed_sidecars(source: Path, *, repeats: bool = False) -> tuple[str, ...]:
    """Notes of what files beside ``source`` tell of it, which is not read; see :func:`rayscale.imaging.sidecars.heed`."""

    def read(name: str) -> bytes:
        return source.with_name(name).read_bytes()

    beside = sidecars.names_beside(source.name, lambda name: source.with_name(name).exists())
    if not beside:
        return ()
    tags = sidecars.tags_of_file(source)
    return sidecars.heed(source.name, beside, tags, read, repeats=repeats)


def is_scene_to_scene(source: Path, target: Path) -> bool:
    """Whether a GeoTIFF is to become one; what else it might become is refused elsewhere."""
    return ending_of(target.name) in CONTAINERS["geotiff"].suffixes and is_scene(source)


def stem_of(path: Path) -> str:
    """The name without its ending, ``.nii.gz`` being one."""
    return path.name[: len(path.name) - len(ending_of(path.name))]


def _upscale_scene(
    source: Path,
    target: Path,
    pipeline_for: Callable[[int], Pipeline],
    handling: Handling,
    progress: Callable[[int, int], None] | None,
) -> Written:
    with Scene(source, handling=handling) as scene:
        pipeline = pipeline_for(scene.channels - len(scene.labels))
    beside = _beside(target, "geotiff") if pipeline.options.uncertainty else None
    larger = pipeline.run_scene(source, target, uncertainty=beside, progress=progress)
    residual = None if larger.residual is None else larger.residual.describe()
    named = None if beside is None else str(beside)
    return Written(larger.width, larger.height, residual, named, larger.notes)


def _beside(target: Path, container: str) -> Path:
    """The file of the uncertainty of ``target``."""
    ending, suffixes = ending_of(target.name), CONTAINERS[container].suffixes
    ending = ending if ending in suffixes else suffixes[0]
    return target.with_name(f"{stem_of(target)}.uncertainty{ending}")
