"""How the deployed service behaves over time and under too much: contenders of ``serve_contenders.py``, by default ``ray``;
``ray:PYTHONPATH=OLD/platform`` is another checkout. Fairness takes them in turn, the others one after the other.

python benchmarks/serve_load.py --overload          # 20 times what it can do: refusals, admitted requests, probes
python benchmarks/serve_load.py --soak 10000        # memory of its processes over so many requests
python benchmarks/serve_load.py --fairness          # one image at a time beside a client that always has 32 under way
python benchmarks/serve_load.py --autoscale         # replicas over time: up, down to none, and from none; --plot FILE
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
from benchmarks.http_load import Connection, load, percentile
from benchmarks.serve_contenders import PATH, Contender, running

KEYS = "first-key-of-the-benchmark", "second-key-of-the-benchmark"
_ACTORS = ["Ingress", "Upscaling", "ProxyActor"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured in place of the comparison."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--overload", action="store_true")
    group.add_argument("--soak", type=int, metavar="REQUESTS")
    group.add_argument("--fairness", action="store_true")
    group.add_argument("--autoscale", action="store_true")
    parser.add_argument("--plot", type=Path, help="where --autoscale draws its curve")


def run(options: argparse.Namespace, image: Path) -> bool:
    """Whether one of these was asked for, and done."""
    asked = [
        (options.overload, overload),
        (options.soak, soak),
        (options.autoscale, autoscale),
    ]
    measure = next((measure for wanted, measure in asked if wanted), None)
    if measure is not None or options.fairness:
        names = options.contender or ["ray"]
        variables = {"RAYSCALE_SERVE_API_KEYS": ",".join(KEYS)} if options.fairness else {}
        serve: dict[str, object] = dict(_TO_NONE) if options.autoscale else {}
        if options.fairness or options.soak:
            serve = {"autoscaling_config": None, "num_replicas": 1}
        with running(names, variables, serve, image) as contenders:
            if options.fairness:
                fairness(options, contenders, image)
            elif measure is not None:
                for name in names:
                    print(name, flush=True)
                    measure(options, contenders[name], image)
        return True
    return False


def overload(options: argparse.Namespace, contender: Contender, image: Path) -> None:
    """Requests come at 20 times the rate of answers, whatever becomes of them."""
    path = PATH.format(model="edsr-baseline")
    able = load(contender.address, path, image.read_bytes(), 8, 40).rate
    asyncio.run(_flood(contender.address, path, image.read_bytes(), 20 * able, 20.0))


async def _flood(address: str, path: str, body: bytes, rate: float, seconds: float) -> None:
    print(f"{rate:.0f} requests/s for {seconds:g} s")
    answers: list[tuple[int, float, str]] = []
    probes: list[tuple[int, float]] = []
    idle: list[Connection] = []
    over = False

    async def ask(due: float) -> None:
        connection = idle.pop() if idle else await Connection(address).__aenter__()
        status, headers, _ = await connection.post(address + path, body)
        answers.append((status, time.perf_counter() - due, headers.get("retry-after", "")))
        idle.append(connection)

    async def probe() -> None:
        async with Connection(address) as connection:
            while not over:
                for place in ("/healthz", "/readyz"):
                    begun = time.perf_counter()
                    status = await connection.get(address + place)
                    probes.append((status, time.perf_counter() - begun))
                await asyncio.sleep(0.2)

    watcher, begun, asked = asyncio.create_task(probe()), time.perf_counter(), []
    for number in range(round(rate * seconds)):
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asked.append(asyncio.create_task(ask(due)))
    late = time.perf_counter() - begun - seconds
    await asyncio.gather(*asked)
    over = True
    await watcher
    print(f"sent {len(asked)}, the last {max(0.0, late):.2f} s late; answers {dict(Counter(status for status, _, _ in answers))}")  # fmt: skip
    for status in (429, 200):
        taken = [seconds for code, seconds, _ in answers if code == status]
        if taken:
            _print_times(f"{status}", taken)
    print(f"429 with Retry-After: {all(after for code, _, after in answers if code == 429)}")
    print(f"probes {dict(Counter(status for status, _ in probes))}")
    _print_times("probes", [seconds for _, seconds in probes])


def _print_times(what: str, taken: list[float]) -> None:
    numbers = [statistics.median(taken), percentile(taken, 95), percentile(taken, 99), max(taken)]
    print(f"{what}: {len(taken)}; median, p95, p99, most: {', '.join(f'{n * 1e3:.0f} ms' for n in numbers)}")  # fmt: skip


def soak(options: argparse.Namespace, contender: Contender, image: Path) -> None:
    """Resident memory of every process of the service, and how it grows once it has settled."""
    seen: dict[str, list[tuple[int, float]]] = {}
    found = contender.ask(actors=_ACTORS)
    processes = {f"{name} {pid}": psutil.Process(pid) for name in found for pid in found[name]}

    def look(count: int) -> None:
        for name, process in processes.items():
            seen.setdefault(name, []).append((count, process.memory_info().rss / 2**20))

    asyncio.run(_repeat(contender.address, image.read_bytes(), options.soak, look))
    for name, points in seen.items():
        counts, sizes = np.array(points).T
        settled = counts >= options.soak * 0.3
        slope = np.polyfit(counts[settled], sizes[settled], 1)[0] * 1000
        shown = " ".join(f"{size:.0f}" for size in sizes[:: max(1, len(sizes) // 10)])
        print(f"{name}: {shown} MiB; {slope * 1024:+.0f} KiB per 1000 requests after 30 %")


async def _repeat(address: str, body: bytes, count: int, look: Callable[[int], None]) -> None:
    done = 0
    url = address + PATH.format(model="bicubic")

    async def client() -> None:
        nonlocal done
        async with Connection(address) as connection:
            while done < count:
                done += 1
                if done % max(1, count // 50) == 0:
                    look(done)
                status, _, _ = await connection.post(url, body)
                if status != 200:
                    raise SystemExit(f"status {status}")

    await asyncio.gather(*(client() for _ in range(4)))


def fairness(options: argparse.Namespace, contenders: dict[str, Contender], image: Path) -> None:
    """Rounds alone and rounds beside the other, in turn."""
    data = image.read_bytes()
    found: dict[tuple[str, int], list[tuple[float, str]]] = {}
    for number in range(options.rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            for others in (0, 32):
                made = asyncio.run(_one_by_one(contenders[name].address, data, others, 12.0))
                found.setdefault((name, others), []).extend(made)
    for name in contenders:
        alone, beside = ([taken for taken, _ in found[name, others]] for others in (0, 32))
        print(name)
        _print_times("alone", alone)
        _print_stages([told for _, told in found[name, 0]])
        _print_times("beside a client with 32 images under way", beside)
        _print_stages([told for _, told in found[name, 32]])
        for percent in (50, 95):
            ratio = percentile(beside, percent) / percentile(alone, percent)
            print(f"p{percent}: {ratio:.2f} times that of alone")


def _print_stages(told: list[str]) -> None:
    """Medians of what ``Server-Timing`` says."""
    stages: dict[str, list[float]] = {}
    for line in told:
        for part in line.split(", "):
            name, _, taken = part.partition(";dur=")
            stages.setdefault(name, []).append(float(taken))
    print(
        "  "
        + ", ".join(f"{name} {statistics.median(each):.0f} ms" for name, each in stages.items())
    )


async def _one_by_one(
    address: str, body: bytes, others: int, seconds: float
) -> list[tuple[float, str]]:
    url = address + PATH.format(model="edsr-baseline")
    end = time.perf_counter() + seconds
    mine, theirs = (f"Authorization: Bearer {key}\r\n" for key in KEYS)
    taken: list[tuple[float, str]] = []

    async def other() -> None:
        async with Connection(address) as connection:
            while time.perf_counter() < end:
                status, headers, _ = await connection.post(url, body, theirs)
                if status == 429:  # as a client does that keeps to the rules
                    await asyncio.sleep(float(headers["retry-after"]))

    async def one() -> None:
        async with Connection(address) as connection:
            await asyncio.sleep(3.0 if others else 0.5)
            while time.perf_counter() < end:
                begun = time.perf_counter()
                status, headers, _ = await connection.post(url, body, mine)
                taken.append((time.perf_counter() - begun, headers.get("server-timing", "")))
                if status != 200:
                    raise SystemExit(f"status {status}")
                await asyncio.sleep(0.05)

    await asyncio.gather(one(), *(other() for _ in range(others)))
    return taken


_TO_NONE = {
    "autoscaling_config": {
        "min_replicas": 0,
        "initial_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 2,
        "metrics_interval_s": 0.5,
        "look_back_period_s": 2,
        "upscale_delay_s": 2,
        "downscale_delay_s": 10,
    }
}


def autoscale(options: argparse.Namespace, contender: Contender, image: Path) -> None:
    """Nothing, eight clients, nothing until no replica is left, one request."""
    curve: list[tuple[float, int]] = []
    marks: list[tuple[float, str]] = []
    begun = time.perf_counter()

    def note(text: str) -> None:
        marks.append((time.perf_counter() - begun, text))
        print(f"{marks[-1][0]:6.1f} s  {text}", flush=True)

    def look(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end and not until():
            count = len(contender.ask(actors=["Upscaling"])["Upscaling"])
            if not curve or curve[-1][1] != count:
                print(f"{time.perf_counter() - begun:6.1f} s  {count} replicas", flush=True)
            curve.append((time.perf_counter() - begun, count))
            time.sleep(0.5)

    look(5)
    note("eight clients")
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        path = PATH.format(model="edsr-baseline")
        loaded = pool.submit(load, contender.address, path, image.read_bytes(), 8, 150)
        look(300, loaded.done)
        result = loaded.result()
        note(f"they end ({result.failed} failed)")
        look(180, lambda: curve[-1][1] == 0)
        look(5)
        note("one request")
        first = pool.submit(load, contender.address, path, image.read_bytes(), 1, 1)
        look(120, first.done)
        note(f"answered after {first.result().median:.1f} s")
        look(5)
    changes = [f"{at:.0f} s: {now}" for (_, was), (at, now) in pairwise(curve) if was != now]
    print(f"replicas: {curve[0][1]} at first; {', '.join(changes)}")
    if options.plot:
        _draw(curve, marks, options.plot)


def _draw(curve: list[tuple[float, int]], marks: list[tuple[float, str]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 2.6), layout="constrained")
    axes.step(*zip(*curve, strict=True), where="post")
    for at, text in marks:
        axes.axvline(at, color="grey", linewidth=0.6)
        axes.annotate(text, (at, 3.1), rotation=20, fontsize=7)
    axes.set(xlabel="seconds", ylabel="model replicas", yticks=range(4), ylim=(-0.1, 4))
    figure.savefig(path, dpi=120)
