"""A batch on Ray is followed by its id: its rows, the lines of its workers, and its figures at the nodes' metrics ports."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import ray

from rayscale import correlation
from rayscale.batch import run, upscale_bucket
from rayscale.machine import Energy
from rayscale.operations import logs
from rayscale.operations.figures import DASHBOARDS
from rayscale.options import Options

ID = "an-id-of-this-test-0123"


@pytest.mark.slow
def test_a_batch_is_followed_to_its_tasks(
    stack: Any, tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row, the line of the worker with its Ray task, the costs, and every figure of the dashboard."""
    monkeypatch.setenv(correlation.VARIABLE, ID)
    joules = tmp_path / "powercap/intel-rapl:0"
    joules.mkdir(parents=True)
    (joules / "max_energy_range_uj").write_text("10000000\n")

    def counters() -> Energy:
        """The machine takes 2 J while the batch runs."""
        (joules / "energy_uj").write_text("9000000\n")
        energy = Energy(joules.parent)
        (joules / "energy_uj").write_text("1000000\n")
        return energy

    monkeypatch.setattr(run, "Energy", counters)
    (tmp_path / "in").mkdir()
    (inputs / "photo.png").rename(tmp_path / "in/photo.png")
    summary = upscale_bucket(
        tmp_path / "in", tmp_path / "out", model="bicubic", options=Options(scale=2)
    )
    assert summary.source_bytes == (tmp_path / "in/photo.png").stat().st_size
    assert summary.output_bytes == (tmp_path / "out/photo.png").stat().st_size
    assert summary.work_seconds > 0
    assert summary.joules == 2.0
    (row,) = logs.find_rows(str(tmp_path / "out"), ID)
    assert json.loads(row.text)["key"] == "photo.png"
    (line,) = [line for line in logs.find_on_nodes(ID) if '"event": "input"' in line.text]
    told = json.loads(line.text[line.text.index("{") :])
    assert len(told["task"]) > 30
    assert told["source"] == json.loads(row.text)["source_etag"]
    assert "photo" not in line.text

    figures = (*DASHBOARDS["batch"], *DASHBOARDS["costs"])
    queries = [query.expression for figure in figures for query in figure.queries]
    wanted = set(re.findall(r"ray_rayscale_batch_\w+", " ".join(queries)))
    assert {"ray_rayscale_batch_finished", "ray_rayscale_batch_joules"} <= wanted
    lines = await_figures(wanted)
    assert any(line.startswith("ray_rayscale_batch_finished{") for line in lines)


def await_figures(wanted: set[str]) -> list[str]:
    """The lines of these figures with the id, once the node of this machine has them all."""
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    end = time.monotonic() + 120
    while True:
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = [line for line in answer.read().decode().splitlines() if f'run="{ID}"' in line]
        missing = wanted - {line.partition("{")[0] for line in found}
        if not missing:
            return found
        assert time.monotonic() < end, missing
        time.sleep(0.5)
