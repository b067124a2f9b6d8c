"""Overhead of the platform: steps/s of the Ray Train job that reads shards from S3, over steps/s of a plain loop.

    make up && source .rayscale/stack.env
    python benchmarks/train_overhead.py s3://rayscale/dataset                  # EDSR-baseline x2, batch 16, LR patch 48
    python benchmarks/train_overhead.py s3://rayscale/dataset --steps 30 --rounds 2

The baseline is written here in a few lines of PyTorch: the same network, precision and optimizer, on batches that
lie in memory as tensors. Rounds alternate, baseline first; a ratio of 1 means that Ray, S3, decoding, sampling
and the guards of the loop cost nothing. Prints one line per round and the median ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn.functional import l1_loss

from rayscale import cluster
from rayscale.data import Dataset, PatchStream
from rayscale.inference.device import pick_device, pick_dtype
from rayscale.models.systems import create_model
from rayscale.training.config import load_config
from rayscale.training.ray import fit

BATCHES_IN_MEMORY = 32


def plain(dataset: str, steps: int) -> float:
    """Steps/s of a plain loop over batches in memory."""
    device = pick_device()
    stream = PatchStream(Dataset(dataset, 2), patch=48, batch=16)
    batches = [stream.batch(step) for step in range(min(steps, BATCHES_IN_MEMORY))]
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2).to(device).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    dtype = pick_dtype("auto", device, 8)
    start = time.perf_counter()
    for step in range(steps):
        lr, hr = (
            x.to(device).float().contiguous(memory_format=torch.channels_last)
            for x in batches[step % len(batches)]
        )
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            sr = model(lr)
        loss = l1_loss(sr.float(), hr)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps / (time.perf_counter() - start)


def platform(dataset: str, steps: int) -> tuple[float, float]:
    """Steps/s of the Ray Train job, and the share of its time spent waiting for data."""
    config = load_config(
        None,
        [
            f"data.uri={dataset}",
            "run.name=benchmark-overhead",
            f"optimizer.steps={steps}",
            f"logging.every={steps}",
        ],
    )
    metrics = fit(config, fresh=True, verbose=False).metrics
    return metrics["steps_per_s"], metrics["data_wait"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="a dataset made by jobs/prepare_dataset.py, on S3")
    parser.add_argument("--steps", type=int, default=60, help="steps of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cluster.connect()
    ratios = []
    for number in range(1, options.rounds + 1):
        base = plain(options.dataset, options.steps)
        ours, wait = platform(options.dataset, options.steps)
        ratios.append(ours / base)
        print(
            f"round {number}: plain {base:.3f} steps/s, Ray Train from S3 {ours:.3f} steps/s "
            f"({100 * wait:.1f} % waiting for data), ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
