"""Everything that is known of one id: lines in the logs of every node, rows of batches, runs in MLflow.

See ``rayscale.correlation`` for where an id comes from. Logs of Ray are where its nodes keep them; nothing is collected before
somebody asks.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rayscale import strictjson
from rayscale.correlation import SOUND
from rayscale.errors import ConfigError

SHORTEST = 8
"""Letters of an id that is looked for: a shorter one is a part of others."""

_MOST = 2000  # lines of a node


@dataclass(frozen=True)
class Line:
    """One line: the host, the file and the text; ``time`` in seconds since 1970 where the text says it, else 0."""

    host: str
    file: str
    text: str
    time: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` shows it."""
        return asdict(self)


def check_id(text: str) -> str:
    """Raise ConfigError for what is not an id, or is too short for one."""
    if SOUND.fullmatch(text) is None or len(text) < SHORTEST:
        raise ConfigError(
            f"{text[:80]!r} is not an id: give the X-Request-Id of an answer, the `run` of a row of a batch, or the RAYSCALE_ID "
            f"of a command, of {SHORTEST} letters at least"
        )
    return text


def find_lines(folders: Iterable[str | Path], wanted: str) -> list[Line]:
    """The lines below ``folders`` of this machine that hold the id."""
    found: dict[tuple[str, str], Line] = {}
    mark, host = wanted.encode(), socket.gethostname()
    for path in sorted({path.resolve() for top in folders for path in Path(top).rglob("*")}):
        if path.suffix not in (".log", ".err", ".out") or not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                for raw in file:
                    if mark in raw and len(found) < _MOST:
                        text = raw.decode(errors="replace").rstrip()
                        found.setdefault(
                            (path.name, text), Line(host, str(path), text, _time(text))
                        )
        except OSError:
            continue  # rotated away meanwhile, or not ours to read
    return list(found.values())


def find_on_nodes(wanted: str) -> list[Line]:
    """The lines of the logs of Ray on every node of the connected cluster."""
    from rayscale.operations.nodes import ask_nodes

    lines: list[Line] = []
    for name, answer, _ in ask_nodes(find_here, wanted):
        if isinstance(answer, str):
            lines.append(Line(name, "", f"its logs cannot be read: {answer}"))
        else:
            lines += [Line(**each) for each in answer["lines"]]
    return lines


def find_here(wanted: str) -> dict[str, Any]:
    """For a task on a node: its lines as plain values."""
    from ray._private import worker

    node: Any = worker._global_node
    return {"lines": [line.to_dict() for line in find_lines([node.get_logs_dir_path()], wanted)]}


def local_folders(home: Path) -> list[Path]:
    """Where logs are on this machine: those of its stack, and of a Ray that was started here."""
    from rayscale.local.ray import temporary_folder

    ray = [
        temporary_folder(home),
        Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray",
    ]
    return [home / "logs", *(folder / "session_latest" / "logs" for folder in ray)]


def find_rows(place: str, wanted: str) -> Iterator[Line]:
    """The rows of a batch's target that came of the id."""
    from rayscale.batch.manifest import Manifest
    from rayscale.storage import connect

    store = connect(place)
    for row in Manifest(store, 0).load().rows.values():
        if row.run == wanted:
            yield Line("", store.locate("_rayscale/manifest"), row.to_json())


def find_runs(wanted: str) -> Iterator[Line]:
    """The runs in MLflow that came of the id."""
    from rayscale.registry.client import asking, connect, tracking_uri
    from rayscale.registry.tracking import ID_TAG

    client = connect()
    with asking("search runs"):
        experiments = [each.experiment_id for each in client.search_experiments()]
        for run in client.search_runs(
            experiments, f"tags.`{ID_TAG}` = '{wanted}'", max_results=100
        ):
            facts = {"run": run.info.run_id, "name": run.info.run_name, "status": run.info.status}
            yield Line("", tracking_uri(), strictjson.dumps(facts), run.info.start_time / 1000)


def _time(text: str) -> float:
    start = text.find("{")
    if start < 0:
        return 0.0
    try:
        return float(json.loads(text[start:]).get("time", 0.0))
    except (ValueError, TypeError, AttributeError):
        return 0.0
