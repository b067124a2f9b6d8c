"""From files to files: which output belongs to which input, and how each is read, changed and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rayscale.cli.console import emit, note
from rayscale.errors import ConfigError, NotFoundError, RayscaleError

if TYPE_CHECKING:
    from rayscale.imaging import Image, Provenance

    Change = Callable[[Image], "Changed"]

UNCERTAINTY = "standard deviation over the eight outputs of the self-ensemble, in stored units"
"""What the provenance of the file beside an output says of its values."""


@dataclass(frozen=True)
class Converted:
    """What is told of a file that was written: its size, what is left of ``|down(SR) - LR|``, the file of uncertainty."""

    width: int
    height: int
    residual: dict[str, float] | None = None
    uncertainty: Path | None = None

    def facts(self) -> dict[str, object]:
        """What JSON tells besides the names."""
        facts: dict[str, object] = {}
        if self.residual is not None:
            facts["residual"] = self.residual
        if self.uncertainty is not None:
            facts["uncertainty"] = str(self.uncertainty)
        return facts


@dataclass(frozen=True)
class Changed:
    """What a command makes of an image: the result, who made it, what is left of ``|down(SR) - LR|``, its uncertainty."""

    image: Image
    provenance: Provenance | None = None
    residual: dict[str, float] | None = None
    uncertainty: Image | None = None


def file_jobs(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """Pairs of input and output file; a folder is walked, its output folder left out."""
    from rayscale.imaging import EXTENSIONS, ending_of

    if source.is_file():
        yield source, target / source.name if target.is_dir() else target
        return
    if not source.is_dir():
        raise NotFoundError(f"there is no file or folder {source}")
    if target.is_file():
        raise ConfigError(f"{target} is a file, but the input {source} is a folder; name a folder")
    if source.resolve() == target.resolve():
        raise ConfigError(f"input and output are the same folder {source}; name another output")
    found = False
    for path in sorted(source.rglob("*")):
        inside_target = target.resolve() in path.resolve().parents
        if path.is_file() and ending_of(path.name) and not inside_target:
            found = True
            yield path, target / path.relative_to(source)
    if not found:
        raise NotFoundError(f"no images in {source}; looked for {', '.join(sorted(EXTENSIONS))}")


def for_each(
    jobs: list[tuple[Path, Path]],
    convert: Callable[[Path, Path], Converted],
    json_: bool,
) -> None:
    """Make each output; report failures, then exit with the code that tells."""
    import time

    done, failed = [], []
    for number, (source, target) in enumerate(jobs, 1):
        start = time.perf_counter()
        try:
            result = convert(source, target)
        except (RayscaleError, OSError) as error:
            failed.append({"input": str(source), "error": str(error)})
            note(f"[{number}/{len(jobs)}] {source}: FAILED: {error}")
        else:
            done.append({"input": str(source), "output": str(target), **result.facts()})
            told = [f"{result.width}x{result.height}"]
            told += [f"{time.perf_counter() - start:.1f} s"]
            if result.residual is not None:
                told += ["residual max {max:g}, RMS {rms:g}".format(**result.residual)]
            note(f"[{number}/{len(jobs)}] {source} -> {target} ({', '.join(told)})")
    if json_:
        emit({"done": done, "failed": failed})
    if failed:
        raise typer.Exit(3 if done else 1)


def convert_file(source: Path, target: Path, change: Change) -> Converted:
    """Read, change and write one file, and its uncertainty beside it."""
    from dataclasses import replace

    from rayscale.imaging import CONTAINERS, EXTENSIONS, ending_of, read_image, write_image
    from rayscale.storage import connect

    ending = ending_of(target.name)
    if not ending:
        raise ConfigError(
            f"{target}: cannot tell the format from {target.suffix or 'a missing ending'!r}; "
            f"use one of {', '.join(sorted(EXTENSIONS))}"
        )
    image = read_image(source.read_bytes())
    if ending not in CONTAINERS[image.container].suffixes and ending != ending_of(source.name):
        image = replace(image, container=EXTENSIONS[ending], encoding={})
    result = change(image)
    store = connect(target.parent)
    store.write(target.name, write_image(result.image, result.provenance))
    beside = None
    if result.uncertainty is not None:
        suffixes = CONTAINERS[result.uncertainty.container].suffixes
        name = f"{_stem(target)}.uncertainty{ending if ending in suffixes else suffixes[0]}"
        made = result.provenance and result.provenance.with_measures(content=UNCERTAINTY)
        store.write(name, write_image(result.uncertainty, made))
        beside = target.with_name(name)
    return Converted(result.image.width, result.image.height, result.residual, beside)


def _stem(path: Path) -> str:
    """The name without its ending, ``.nii.gz`` being one."""
    from rayscale.imaging import ending_of

    return path.name[: len(path.name) - len(ending_of(path.name))]


def check_apart(jobs: list[tuple[Path, Path]]) -> None:
    """Raise ConfigError when two outputs would share a file of uncertainty."""
    seen: dict[Path, Path] = {}
    for _, target in jobs:
        other = seen.setdefault(target.with_name(_stem(target)), target)
        if other != target:
            raise ConfigError(
                f"{other.name} and {target.name} differ in their ending alone, so both would have the uncertainty "
                f"{_stem(target)}.uncertainty; rename one"
            )
