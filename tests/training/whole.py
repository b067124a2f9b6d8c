"""Whole runs by groups of workers, which are forked from one process; rank 0 of each saves its reports."""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from rayscale.training.config import TrainConfig, load_config
from rayscale.training.loop import train


def work(folder: Path, rank: int, world: int, config: TrainConfig) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous-{config.run.name}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    reports: list[dict[str, float]] = []
    result = train(config, rank=rank, world=world, device="cpu", report=reports.append)
    if rank == 0:
        content = {"reports": reports, "history": result.history, "best": result.best["step"]}
        (folder / f"{config.run.name}.json").write_text(json.dumps(content))
    dist.destroy_process_group()


def main(folder: Path) -> None:
    fork = multiprocessing.get_context("fork")
    for path in sorted(folder.glob("*.yaml")):
        config = load_config(path)
        ranks = range(config.workers.count)
        group = [
            fork.Process(target=work, args=(folder, rank, len(ranks), config)) for rank in ranks
        ]
        for worker in group:
            worker.start()
        for worker in group:
            worker.join()
        assert [worker.exitcode for worker in group] == [0 for _ in ranks]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
