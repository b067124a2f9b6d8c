"""From files to files: which output belongs to which input, and how each is read, changed and written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rayscale.cli.console import emit, note, progress_line
from rayscale.errors import ConfigError, NotFoundError, RayscaleError

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from rayscale.imaging import Handling
    from rayscale.inference.pipeline import Output, Pipeline

    Change = Callable[[bytes, str | None], Output]
    """The bytes of a file, and the container of its result where it is another, to what the command makes of it."""


_NAMED = 10


@dataclass(frozen=True)
class Written:
    """A finished file: its size, what is left of ``|down(SR) - LR|``, the name of the file of its uncertainty, and what
    its reader notes."""

    width: int
    height: int
    residual: dict[str, float] | None = None
    uncertainty: str | None = None
    notes: tuple[str, ...] = ()

    def with_notes(self, notes: tuple[str, ...]) -> Written:
        """The same with notes added."""
        return replace(self, notes=self.notes + notes)


@dataclass(frozen=True)
class Jobs:
    """Pairs of input and output file, and the files of a folder that are no images which can be read."""

    pairs: list[tuple[Path, Path]]
    passed_over: list[Path]


def file_jobs(source: Path, target: Path, format: str | None = None) -> Jobs:
    """What there is to do; a folder is walked, its output folder and hidden files left out.

    With ``format`` outputs of a folder get its ending; a single output keeps the name that it was given.

    Names without ending are looked into: those of DICOM files often have none, or a number.
    """
    from rayscale.storage import is_hidden

    if source.is_file():
        made = target / source.name if target.is_dir() else target
        if made.exists() and made.samefile(source):
            raise ConfigError(f"input and output are the same file {source}; name another output")
        return Jobs([(source, made)], [])
    if not source.is_dir():
        raise NotFoundError(f"there is no file or folder {source}")
    if target.is_file():
        raise ConfigError(f"{target} is a file, but the input {source} is a folder; name a folder")
    if source.resolve() == target.resolve():
        raise ConfigError(f"input and output are the same folder {source}; name another output")
    jobs = Jobs([], [])
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if (
            is_hidden(name.as_posix())
            or not path.is_file()
            or target.resolve() in path.resolve().parents
        ):
            continue
        if _is_image(path):
            jobs.pairs.append((path, target / (name if format is None else _renamed(name, format))))
        else:
            jobs.passed_over.append(path)
    if not jobs.pairs:
        raise NotFoundError(
            f"no images in {source}; none of its {len(jobs.passed_over)} files is of a format that is read"
        )
    _check_names(jobs)
    return jobs


def _renamed(name: Path, format: str) -> Path:
    """The name with the ending of a format, unless it has one of its endings."""
    from rayscale.imaging import CONTAINERS, EXTENSIONS, ending_of

    suffixes = CONTAINERS[EXTENSIONS[f".{format}"]].suffixes
    return name if ending_of(name.name) in suffixes else name.with_name(_stem(name) + suffixes[0])


def _check_names(jobs: Jobs) -> None:
    """Raise ConfigError when two inputs would have one output."""
    seen: dict[Path, Path] = {}
    for source, target in jobs.pairs:
        if (other := seen.setdefault(target, source)) != source:
            raise ConfigError(f"{other} and {source} would both become {target}; rename one")


def _is_image(path: Path) -> bool:
    from rayscale.imaging import is_image

    def head(length: int) -> bytes:
        with path.open("rb") as file:
            return file.read(length)

    try:
        return is_image(path.name, head)
    except OSError:
        return True  # a failure of this one


def for_each(jobs: Jobs, convert: Callable[[Path, Path], Written], json_: bool) -> None:
    """Make each output of its input; report failures and what was passed over, then exit with the code that tells."""
    import time

    done: list[dict[str, object]] = []
    failed: list[dict[str, object]] = []
    count = len(jobs.pairs)
    for number, (source, target) in enumerate(jobs.pairs, 1):
        start = time.perf_counter()
        try:
            written = convert(source, target)
        except Exception as error:  # whatever one file does, the others are converted
            text = str(error)
            if not isinstance(error, (RayscaleError, OSError)):
                text = f"{type(error).__name__}: {text}"
                logger.error("unexpected failure of one input", exc_info=error)
            failed.append({"input": str(source), "error": text})
            note(f"[{number}/{count}] {source}: FAILED: {text}")
        else:
            facts: dict[str, object] = {
                "residual": written.residual,
                "uncertainty": written.uncertainty,
            }
            known = {name: fact for name, fact in facts.items() if fact is not None}
            if written.notes:
                known["notes"] = list(written.notes)
            done.append({"input": str(source), "output": str(target), **known})
            told = [f"{written.width}x{written.height}", f"{time.perf_counter() - start:.1f} s"]
            if written.residual is not None:
                told += ["residual max {max:g}, RMS {rms:g}".format(**written.residual)]
            note(f"[{number}/{count}] {source} -> {target} ({', '.join(told)})")
            for text in written.notes:
                note(f"  note: {text}")
    if jobs.passed_over:
        names = [path.name for path in jobs.passed_over]
        more = f" and {len(names) - _NAMED} more" * (len(names) > _NAMED)
        note(f"no images that are read: {', '.join(names[:_NAMED])}{more}")
    if json_:
        passed_over = [str(path) for path in jobs.passed_over]
        emit({"done": done, "failed": failed, "passed_over": passed_over})
    if failed:
        raise typer.Exit(3 if done else 1)


def convert(source: Path, target: Path, change: Change) -> Written:
    """Read a file whole, change it, and write what it became."""
    from rayscale.imaging import CONTAINERS, EXTENSIONS, ending_of, probe
    from rayscale.storage import connect

    ending = ending_of(target.name)
    # A name without ending may stay one, as the content says what it is; another is likely a folder that is not there.
    kept = target.suffix == source.suffix and bool(target.suffix or target.name == source.name)
    if not ending and not kept:
        raise ConfigError(
            f"{target}: cannot tell the format from {target.suffix or 'a missing ending'!r}; "
            f"use one of {', '.join(sorted(EXTENSIONS))}"
        )
    data, container = source.read_bytes(), None
    if not kept and ending not in CONTAINERS[probe(data).container].suffixes:
        container = EXTENSIONS[ending]
    output = change(data, container)
    store = connect(target.parent)
    store.write(target.name, output.data)
    beside = None
    if output.uncertainty is not None:
        deviations, container = output.uncertainty
        path = _beside(target, container)
        store.write(path.name, deviations)
        beside = str(path)
    return Written(output.width, output.height, output.residual, beside, output.notes)


def heed_sidecars(source: Path, *, repeats: bool = False) -> tuple[str, ...]:
    """Notes of what files beside ``source`` tell of it, which is not read; see :func:`rayscale.imaging.sidecars.heed`."""
    from rayscale.imaging import sidecars

    def read(name: str) -> bytes:
        return source.with_name(name).read_bytes()

    beside = sidecars.names_beside(source.name, lambda name: source.with_name(name).exists())
    if not beside:
        return ()
    tags = sidecars.tags_of_file(source)
    return sidecars.heed(source.name, beside, tags, read, repeats=repeats)


def is_scene_to_scene(source: Path, target: Path) -> bool:
    """Whether a GeoTIFF is to become one; what else it might become is refused elsewhere."""
    from rayscale.imaging import CONTAINERS, ending_of
    from rayscale.imaging.scene import is_scene

    return ending_of(target.name) in CONTAINERS["geotiff"].suffixes and is_scene(source)


def convert_scene(
    source: Path,
    target: Path,
    pipeline_for: Callable[[int], Pipeline],
    handling: Handling,
) -> Written:
    """Enlarge a GeoTIFF by windows, with the pipeline for its number of channels."""
    from rayscale.imaging.scene import Scene

    with Scene(source, handling=handling) as scene:
        pipeline = pipeline_for(scene.channels - len(scene.labels))
    with progress_line() as show:

        def progress(done: int, count: int) -> None:
            if count > 1:
                show(f"{source}: {done} of {count} windows")

        beside = _beside(target, "geotiff") if pipeline.options.uncertainty else None
        larger = pipeline.run_scene(source, target, uncertainty=beside, progress=progress)
    residual = None if larger.residual is None else larger.residual.describe()
    return Written(
        larger.width,
        larger.height,
        residual,
        None if beside is None else str(beside),
        larger.notes,
    )


def _beside(target: Path, container: str) -> Path:
    """The file of the uncertainty of ``target``."""
    from rayscale.imaging import CONTAINERS, ending_of

    ending, suffixes = ending_of(target.name), CONTAINERS[container].suffixes
    return target.with_name(
        f"{_stem(target)}.uncertainty{ending if ending in suffixes else suffixes[0]}"
    )


def _stem(path: Path) -> str:
    """The name without its ending, ``.nii.gz`` being one."""
    from rayscale.imaging import ending_of

    return path.name[: len(path.name) - len(ending_of(path.name))]


def check_apart(jobs: Jobs) -> None:
    """Raise ConfigError when two outputs would share a file of uncertainty."""
    seen: dict[Path, Path] = {}
    for _, target in jobs.pairs:
        other = seen.setdefault(target.with_name(_stem(target)), target)
        if other != target:
            raise ConfigError(
                f"{other.name} and {target.name} differ in their ending alone, so both would have the uncertainty "
                f"{_stem(target)}.uncertainty; rename one"
            )
