#!/usr/bin/env python3
"""Train MDSR under Ray Train: one network for x2, x3 and x4, each step on one of them, drawn alike on every worker.

Laptop (an embedded Ray, a dataset of jobs/prepare_dataset.py, which holds all three scales):
    python jobs/train_mdsr.py --set data.uri=$HOME/dataset --set recipe=short --set 'validation.uri=Set5/x{scale}'
Cluster, the recipe of the paper (650 000 steps) on 4 GPUs; 80 blocks:
    ray job submit --working-dir . -- python jobs/train_mdsr.py --system mdsr --set data.uri=s3://rayscale/div2k \\
        --workers 4 --set workers.gpu=true --set 'validation.uri=s3://rayscale/Set5/x{scale}' --register mdsr
Two scales only:
    python jobs/train_mdsr.py --set data.uri=s3://rayscale/dataset --set 'model.scales=[2, 4]'

Scores are given per scale (psnr_x2, ...) and as their mean (psnr).
Resume: the same command again. A run is named after its configuration (or run.name) and resumes from its last
committed checkpoint, with any number of workers. --list-options prints every key with its value and meaning.
Metrics and pictures go to MLFLOW_TRACKING_URI when that is set.
Exit codes: 0 complete, 1 failed, 2 wrong usage or configuration, 130 Ctrl-C, 143 SIGTERM.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale.cli import run

COMMAND = ("train", "--default-system", "mdsr-baseline")

if __name__ == "__main__":
    sys.exit(run(*COMMAND, *sys.argv[1:]))
