"""From files to files: which output belongs to which input, and how each is read, changed and written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import typer

from rayscale.cli.console import emit, note
from rayscale.errors import ConfigError, NotFoundError, RayscaleError, quantity
from rayscale.files import check_distinct

logger = logging.getLogger(__name__)

_NAMED = 10


@dataclass(frozen=True)
class Files:
    """Pairs of input and output (paths, or as texts also objects), and the files of a folder that are not images."""

    pairs: list[tuple[Any, Any]]
    passed_over: list[Path]


def is_bucket(place: str) -> bool:
    """Whether a place is a bucket, a prefix or an object there."""
    return place.startswith("s3://")


def names_file(place: str) -> bool:
    """Whether a place is meant as one file or object rather than a folder: its name ends like that of an image."""
    from rayscale.imaging import ending_of

    return bool(ending_of(place)) and not Path(place).is_dir()


def match_files(source: Path, target: Path, format: str | None = None) -> Files:
    """What there is to do; a folder is walked, its output folder and hidden files left out.

    With ``format`` outputs of a folder get its ending; a single output keeps the name that it was given.

    Names without ending are looked into: those of DICOM files often have none, or a number.
    """
    from rayscale.storage import is_hidden

    if source.is_file():
        made = target / source.name if target.is_dir() else target
        check_distinct(source, made)
        return Files([(source, made)], [])
    if not source.is_dir():
        raise NotFoundError(f"there is no file or folder {source}")
    if target.is_file():
        raise ConfigError(f"{target} is a file, but the input {source} is a folder; name a folder")
    if source.resolve() == target.resolve():
        raise ConfigError(f"input and output are the same folder {source}; name another output")
    files = Files([], [])
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if (
            is_hidden(name.as_posix())
            or not path.is_file()
            or target.resolve() in path.resolve().parents
        ):
            continue
        if _is_image(path):
            files.pairs.append((path, target / (name if format is None else _rename(name, format))))
        else:
            files.passed_over.append(path)
    if not files.pairs:
        raise NotFoundError(
            f"no images in {source}; {quantity(len(files.passed_over), 'file')} of another format passed over"
        )
    _check_names(files)
    return files


def _rename(name: Path, format: str) -> Path:
    """The name with the ending of a format, unless it has one of its endings."""
    from rayscale.imaging import CONTAINERS, EXTENSIONS, ending_of
    from rayscale.inference.files import stem_of

    suffixes = CONTAINERS[EXTENSIONS[f".{format}"]].suffixes
    return name if ending_of(name.name) in suffixes else name.with_name(stem_of(name) + suffixes[0])


def _check_names(files: Files) -> None:
    """Raise ConfigError when two inputs would have one output."""
    seen: dict[Path, Path] = {}
    for source, target in files.pairs:
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


class Outcome(Protocol):
    """What is said of an output: of a ``Written``, or of the answer of a service."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def residual(self) -> dict[str, float] | None: ...
    @property
    def uncertainty(self) -> str | None: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


def for_each(files: Files, convert: Callable[[Any, Any], Outcome], json_: bool) -> None:
    """Make each output of its input; report failures and what was passed over, then exit with the code that tells."""
    import time

    done: list[dict[str, object]] = []
    failed: list[dict[str, object]] = []
    count = len(files.pairs)
    for number, (source, target) in enumerate(files.pairs, 1):
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
    if files.passed_over:
        names = [path.name for path in files.passed_over]
        more = f" and {len(names) - _NAMED} more" * (len(names) > _NAMED)
        note(f"skipped, not an image format that is read: {', '.join(names[:_NAMED])}{more}")
    if json_:
        passed_over = [str(path) for path in files.passed_over]
        emit({"done": done, "failed": failed, "passed_over": passed_over})
    if failed:
        raise typer.Exit(3 if done else 1)


def check_apart(files: Files) -> None:
    """Raise ConfigError when two outputs would share a file of uncertainty."""
    from rayscale.inference.files import stem_of

    seen: dict[Path, Path] = {}
    for _, target in files.pairs:
        other = seen.setdefault(target.with_name(stem_of(target)), target)
        if other != target:
            raise ConfigError(
                f"{other.name} and {target.name} differ in their ending alone, so both would have the uncertainty "
                f"{stem_of(target)}.uncertainty; rename one"
            )
