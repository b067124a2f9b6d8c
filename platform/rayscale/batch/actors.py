"""The worker of a batch run: one model in memory, one input after the other, a row for each.

Whatever an input does becomes a failure row; only the death of the process is left to the driver.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from rayscale.batch.manifest import Row
from rayscale.batch.plan import Recipe
from rayscale.errors import (
    InputError,
    NotFoundError,
    RayscaleError,
    TooLargeError,
    UnsupportedError,
)
from rayscale.resampling import enlarged
from rayscale.settings import get_settings
from rayscale.storage import Entry, Store

if TYPE_CHECKING:
    from rayscale.inference import Upscaler

logger = logging.getLogger(__name__)

_BYTES_PER_PIXEL = 8  # RGBA in 16 bit, uncompressed: no usable input has more
_HEADER_BYTES = 1 << 16


class ChangedError(RayscaleError):
    """The source was replaced between the listing and the reading."""

    code: ClassVar[str] = "changed"


def start_row(entry: Entry, recipe: Recipe) -> Row:
    """The row of an input before anything is known of its fate."""
    return Row(
        entry.key, entry.etag, entry.size, recipe.id, recipe.model, recipe.digest, recipe.scale
    )


def process(source: Store, target: Store, upscaler: Upscaler, recipe: Recipe, entry: Entry) -> Row:
    """Upscale one input to the same key of the target and return its row; never raises an Exception."""
    start = time.monotonic()
    row = start_row(entry, recipe)
    try:
        output = _upscaled(_read(source, entry), upscaler, recipe)
        etag = target.write(entry.key, output) or ""
        row = replace(row, output_etag=etag, output_size=len(output))
    except RayscaleError as error:
        row = replace(row, error=error.code, message=str(error))
    except Exception as error:
        from rayscale.inference.memory import is_out_of_memory

        short = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:500]
        if is_out_of_memory(error):
            row = replace(row, error="out_of_memory", message=short)
        else:
            logger.exception("unexpected failure of one input")
            row = replace(row, error="error", message=short)
    return replace(row, seconds=round(time.monotonic() - start, 3))


def _read(source: Store, entry: Entry) -> bytes:
    from rayscale.imaging import EXTENSIONS, ending_of, sniff

    if entry.size == 0:
        raise InputError("the object is empty")
    limit = get_settings().max_input_pixels * _BYTES_PER_PIXEL
    if not ending_of(entry.key) and sniff(source.read_range(entry.key, 0, _HEADER_BYTES)) is None:
        raise UnsupportedError(
            f"{PurePosixPath(entry.key).suffix or 'a name without suffix'} and its content are of no image format that is read; these "
            f"are: {', '.join(sorted(EXTENSIONS))}"
        )
    if entry.size > limit:
        raise TooLargeError(
            f"{entry.size} bytes are more than {limit}, the bytes of RAYSCALE_MAX_INPUT_PIXELS pixels"
        )
    data = source.read(entry.key)
    try:
        now = source.stat(entry.key).etag
    except NotFoundError:
        now = "(deleted)"
    if now != entry.etag:
        raise ChangedError(
            f"the source was replaced during the run (version {entry.etag} became {now}); run again to take "
            "the new one"
        )
    return data


def _upscaled(data: bytes, upscaler: Upscaler, recipe: Recipe) -> bytes:
    from rayscale.imaging import Provenance, probe, read_image, write_image

    header = probe(data)
    limit = get_settings().max_output_pixels
    width, height = (enlarged(side, upscaler.scale) for side in (header.width, header.height))
    if width * height * header.slices > limit:  # before anything is decoded
        raise TooLargeError(
            f"{header.width}x{header.height} pixels at x{upscaler.scale} make more than {limit} output pixels; "
            "raise RAYSCALE_MAX_OUTPUT_PIXELS or cut the image"
        )
    result = upscaler.run(read_image(data))
    provenance = Provenance(recipe.model, recipe.digest, upscaler.describe())
    return write_image(result.image, provenance.with_measures(**result.measures))


class UpscaleActor:
    """The callable class that Ray Data keeps in its actor pool.

    Args:
        model: reference to the network in Ray's object store: read once per node, verified by the driver.
        variables: limits of the driver (``RAYSCALE_...``), which hold for its workers too.
        threads: of torch; the actor's share of the machine.
    """

    def __init__(
        self,
        source: Store,
        target: Store,
        model: Any,
        recipe: Recipe,
        *,
        device: str,
        threads: int,
        variables: Mapping[str, str],
    ) -> None:
        os.environ.update(variables)
        get_settings.cache_clear()
        import ray
        import torch

        from rayscale.inference import Upscaler

        torch.set_num_threads(threads)
        self._source, self._target, self._recipe = source, target, recipe
        self._upscaler = Upscaler(
            ray.get(model),
            recipe.scale,
            device=device,
            precision=recipe.precision,  # type: ignore[arg-type]
            ensemble=recipe.ensemble,
            consistency=recipe.consistency,
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """``{"task": [...]}`` (entries as JSON) to ``{"row": [...]}`` (rows as JSON)."""
        rows = []
        for task in batch["task"]:
            entry = Entry(**json.loads(str(task)))
            row = process(self._source, self._target, self._upscaler, self._recipe, entry)
            rows.append(row.to_json())
        return {"row": rows}
