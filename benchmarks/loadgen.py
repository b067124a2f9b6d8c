"""LoadGen of MLCommons drives the service over HTTP: SingleStream, Server and Offline, with its own clock and arrivals.

    pip install mlcommons-loadgen
    python benchmarks/loadgen.py                                     # a service of its own, bicubic
    python benchmarks/loadgen.py --address http://HOST:8000 --model edsr-baseline --rate 2

A query is a PNG of 256 x 256 that comes back twice as large. The images are made here and nothing judges the answers but their
status, so the figures compare one service with itself, and with no published result. What LoadGen measured is printed, all its logs
lie in ``--logs``.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.batch_throughput import make_images
from benchmarks.serve_contenders import PATH, running

_IMAGES = 16
_CLIENTS = 8
SCENARIOS = ("SingleStream", "Server", "Offline")


class Driver:
    """Answers the queries of LoadGen by requests."""

    def __init__(self, address: str, model: str, key: str | None) -> None:
        self._address, self._headers = address, {"X-API-Key": key} if key else {}
        self._local = threading.local()
        self._loadgen: Any = importlib.import_module("mlperf_loadgen")
        self._path = PATH.format(model=model)
        self._images = list(make_images(_IMAGES, 256).values())
        self._pool = ThreadPoolExecutor(_CLIENTS)
        self.failed = 0

    def issue(self, samples: list[Any]) -> None:
        """Called by LoadGen, which does not wait for the answers."""
        for sample in samples:
            self._pool.submit(self._answer, sample.id, sample.index)

    def flush(self) -> None:
        """Nothing is held back."""

    def _answer(self, identity: int, index: int) -> None:
        if not hasattr(self._local, "http"):
            self._local.http = httpx.Client(
                base_url=self._address, headers=self._headers, timeout=120, trust_env=False
            )
        answer = self._local.http.post(self._path, content=self._images[index])
        self.failed += answer.status_code != 200
        done = self._loadgen.QuerySampleResponse(identity, 0, 0)
        self._loadgen.QuerySamplesComplete([done])


def drive(driver: Driver, scenario: str, options: argparse.Namespace) -> str:
    """One scenario; its summary."""
    loadgen: Any = importlib.import_module("mlperf_loadgen")
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(options.seconds * 1000)
    settings.min_query_count = 1 if scenario == "Offline" else 64
    settings.server_target_qps = options.rate
    settings.server_target_latency_ns = round(options.latency * 1e9)
    settings.offline_expected_qps = options.rate
    logs: Path = options.logs / scenario
    logs.mkdir(parents=True, exist_ok=True)
    written = loadgen.LogSettings()
    written.log_output.outdir = str(logs)
    written.log_output.copy_summary_to_stdout = False
    service = loadgen.ConstructSUT(driver.issue, driver.flush)
    library = loadgen.ConstructQSL(_IMAGES, _IMAGES, lambda _: None, lambda _: None)
    loadgen.StartTestWithLogSettings(service, library, settings, written)
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(service)
    told = (logs / "mlperf_log_summary.txt").read_text().partition("Test Parameters Used")[0]
    return "\n".join(line for line in told.splitlines() if re.search(r"latency|second|QPS", line))


def main() -> None:
    """Read the command line, start a service where none is named, and run the scenarios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--address", help="of a service that runs")
    parser.add_argument("--key")
    parser.add_argument("--contender", default="ray")
    parser.add_argument("--model", default="bicubic")
    parser.add_argument("--seconds", type=float, default=20, help="of each scenario, at least")
    parser.add_argument(
        "--rate", type=float, default=5, help="queries/s that Server sends and Offline expects"
    )
    parser.add_argument(
        "--latency", type=float, default=1, help="seconds that 99 %% of Server's answers may take"
    )
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir(), "loadgen"))
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile(suffix=".png") as image:
        image.write(make_images(1, 256)["0000.png"])
        image.flush()
        names = [] if options.address else [options.contender]
        with running(names, {}, {}, Path(image.name)) as found:
            address = options.address or found[options.contender].address
            driver = Driver(address, options.model, options.key)
            for scenario in SCENARIOS:
                print(f"--- {scenario}\n{drive(driver, scenario, options)}", flush=True)
            print(f"{driver.failed} requests failed")


if __name__ == "__main__":
    main()
