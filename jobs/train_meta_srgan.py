"""Train the networks of any scale under Ray Train: Meta-SRGAN for scans, and Meta-EDSR without a discriminator.

Laptop, one channel (an embedded Ray, a dataset of jobs/prepare_dataset.py); first on pixels, then against the discriminator:
    python jobs/train_meta_srgan.py --set data.uri=$HOME/mri --set recipe=short --set adversarial.weight=0 --set run.name=mri
    python jobs/train_meta_srgan.py --set data.uri=$HOME/mri --set recipe=short \\
        --set model.warm_start=$HOME/runs/mri/model.safetensors
Photographs, without a discriminator:
    python jobs/train_meta_srgan.py --system meta-edsr --set data.uri=$HOME/dataset --set recipe=short
Cluster, the published scales (1.1 to 4.0, one per step) on 4 GPUs:
    ray job submit --working-dir . -- python jobs/train_meta_srgan.py --system meta-edsr --workers 4 \\
        --set data.uri=s3://rayscale/div2k --set workers.gpu=true --register meta-edsr

LR patches of every scale are made from the HR images as they are needed. Validation is on the integer scales:
validation.uri=s3://rayscale/Set5/x{scale}.
Resume: the same command again. A run is named after its configuration (or run.name) and goes on from its last
committed checkpoint, with any number of workers. --list-options prints every key with its value and meaning.
Metrics and pictures go to MLFLOW_TRACKING_URI when that is set.
Exit codes: 0 complete, 1 failed, 2 wrong usage or configuration, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale import launch

SCRIPT = "jobs/train_meta_srgan.py"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    return launch.parse(arguments, SCRIPT, __doc__ or "")


def main(arguments: list[str] | None = None) -> int:
    return launch.main(arguments, SCRIPT, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
