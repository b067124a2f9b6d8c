"""``python -m rayscale.serving.batchrun RECORD``: the job of one batch. It writes how far it is into its record."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import Any

from rayscale import correlation, interruption, strictjson
from rayscale.batch import Progress, upscale_bucket
from rayscale.errors import RayscaleError
from rayscale.options import Options
from rayscale.serving.batches import Record, Records, tell
from rayscale.serving.rayjobs import charge
from rayscale.serving.settings import get_serve_settings
from rayscale.storage import connect, split

_EVERY_S = 2.0
_FAILURES = 100  # of those that the record lists; the target has all


def run(uri: str) -> int:
    """Work on the batch of a record; the exit code of its summary."""
    parent, name = split(uri)
    records = Records(connect(parent))
    record = records.read(name.removesuffix(".json"))
    correlation.begin(record.request or record.id)
    correlation.tell("batch", batch=record.id, attempt=record.attempt)
    record = records.change(record.id, record.attempt, state="running")
    if record.state != "running":  # cancelled before it began
        return interruption.FAILED
    try:
        code, values = _work(record, records)
    except RayscaleError as error:
        code, values = interruption.FAILED, {"state": "failed", "message": str(error)}
    except BaseException:
        _end(record, records, {"state": "failed", "message": "its job was ended"})
        raise
    _end(record, records, values)
    return code


def _end(record: Record, records: Records, values: dict[str, Any]) -> None:
    record, ended = records.end(record.id, record.attempt, **values)
    if ended:
        tell(record, records, get_serve_settings())


def _work(record: Record, records: Records) -> tuple[int, dict[str, Any]]:
    asked, told, charged = record.asked, 0.0, 0.0

    def progress(now: Progress) -> None:
        nonlocal told, charged
        if time.monotonic() - told > _EVERY_S or now.finished == now.todo:
            told = time.monotonic()
            if now.megapixels > charged and charge(record.owner, now.megapixels - charged):
                charged = now.megapixels
            records.change(record.id, record.attempt, progress=asdict(now))

    summary = upscale_bucket(
        asked.source,
        asked.target,
        model=asked.model,
        options=Options.parse(**asked.options),
        keys=_write_keys(record, records),
        limit=asked.limit,
        overwrite=asked.overwrite,
        actors=get_serve_settings().batch_actors,
        progress=progress,
    )
    values = summary.to_dict()
    values["failed_count"], values["noted_count"] = len(values["failed"]), len(values["noted"])
    values["failed"], values["noted"] = values["failed"][:_FAILURES], []
    state = {0: "done", interruption.PARTIAL: "partial"}.get(summary.exit_code, "failed")
    return summary.exit_code, {"state": state, "summary": values}


def _write_keys(record: Record, records: Records) -> str | None:
    """The list of keys as an object, where the batch has one."""
    if record.asked.keys is None:
        return None
    name = f"keys/{record.id}.jsonl"
    lines = (strictjson.dumps({"key": key}) for key in record.asked.keys)
    records.store.write(name, "\n".join(lines).encode())
    return records.store.locate(name)


if __name__ == "__main__":
    sys.exit(interruption.run(lambda: run(sys.argv[1])))
