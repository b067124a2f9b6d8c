"""``rayscale info``: what is known of a file, and what an upscale would do with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayscale.cli.console import emit, print_table
from rayscale.cli.options import JsonOption, takes_options
from rayscale.errors import quantity
from rayscale.options import Options

if TYPE_CHECKING:
    from rayscale.inference.inspection import Inspection


@takes_options(leave_out=("format",))
def info(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An image.", exists=True, dir_okay=False)
    ],
    *,
    options: Options,
    json_: JsonOption = False,
) -> None:
    """Show what a file holds and what an upscale would do with it.

    Nothing is enlarged and nothing is written. The exit code is 0 even when an upscale would refuse the file.
    """
    from rayscale.inference.files import heed_sidecars
    from rayscale.inference.inspection import inspect_file

    found = inspect_file(file, options, lambda path, _: heed_sidecars(path))
    if json_:
        emit(found.to_dict())
        return
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _rows(found):
        table.add_row(name, value)
    print_table(table)


def _rows(found: Inspection) -> list[tuple[str, str]]:
    """What to show: a name and its value, unknown ones left out."""
    rows = [("file", f"{found.file} ({found.bytes:,} bytes)")]
    if found.container is not None:
        size = f"{found.width} x {found.height}"
        if found.slices > 1:
            size += f", {found.slices} slices"
        if found.pages > 1:
            size += f", {found.pages} pages"
        what = quantity(found.channels or 0, "channel")
        kind = found.pixel_type or f"{found.bits} bit"
        rows += [
            ("container", found.container),
            ("pixels", f"{size}, {what}{' and alpha' * found.alpha}, {kind}"),
        ]
    rows += [(name.replace("_", " "), _text(value)) for name, value in found.metadata.items()]
    if found.levels is not None:
        ends = zip(found.levels["black"], found.levels["white"], strict=True)
        ranges = ", ".join(f"{black:g}..{white:g}" for black, white in ends)
        rows.append(("levels", f"{ranges} ({found.levels['rule']})"))
    if found.missing:
        rows.append(("missing", f"{found.missing:.2%} of the values"))
    if found.labels:
        numbers = ", ".join(str(channel + 1) for channel in found.labels)
        rows.append(("labels", f"channel {numbers}, enlarged by nearest neighbour"))
    rows += [("note", note) for note in found.notes]
    if found.refusal is not None:
        rows.append((f"upscale x{found.scale:g}", f"refused: {found.refusal}"))
    else:
        how = "by windows"
        if found.memory_bytes is not None:
            how = f"as a whole, in about {found.memory_bytes >> 20} MiB of memory"
        size = f"{found.output_width} x {found.output_height}"
        rows.append((f"upscale x{found.scale:g}", f"{size}, {how}"))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        return " ".join(f"{name}={_text(part)}" for name, part in value.items())
    return str(value)
