#!/usr/bin/env python3
"""Train EDSR under Ray Train from a dataset in object storage, with the paper's recipe as the default.

Laptop (an embedded Ray, a dataset of jobs/prepare_dataset.py; some minutes on 2 cores, more steps are better):
    python jobs/train_edsr.py --set data.uri=$HOME/dataset --set recipe=short --set optimizer.steps=1000
Laptop, object storage (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY in the environment):
    python jobs/train_edsr.py --set data.uri=s3://rayscale/dataset --set validation.uri=s3://rayscale/Set5/x2
Cluster, the recipe of the paper (300 000 steps) on 4 GPUs:
    ray job submit --working-dir . -- python jobs/train_edsr.py --set data.uri=s3://rayscale/div2k \\
        --workers 4 --set workers.gpu=true --register my-edsr-baseline-x2
Cluster whose image holds the repository and sets RAYSCALE_DATASET:
    ray job submit -- python jobs/train_edsr.py
The large model, x4 from a trained x2, a configuration file:
    python jobs/train_edsr.py --system edsr --config edsr_x4.yaml --set model.warm_start=s3://rayscale/runs/edsr-x2/model.safetensors

Resume: the same command again. A run is named after its configuration (or run.name) and resumes from its last
committed checkpoint, with any number of workers. --list-options prints every key with its value and meaning.
Metrics and pictures go to MLFLOW_TRACKING_URI when that is set.
Exit codes: 0 complete, 1 failed, 2 wrong usage or configuration, 130 Ctrl-C, 143 SIGTERM.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale.cli import run

COMMAND = ("train", "--default-system", "edsr-baseline")

if __name__ == "__main__":
    sys.exit(run(*COMMAND, *sys.argv[1:]))
