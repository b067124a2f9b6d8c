"""Train the classics under Ray Train: SRCNN, VDSR and SRResNet, each with its published recipe as the default.

Laptop (an embedded Ray, a dataset of jobs/prepare_dataset.py); Adam and a cosine in place of millions of steps:
    python jobs/train_classic.py --system srcnn --set model.scale=2 --set data.uri=$HOME/dataset --set recipe=short
    python jobs/train_classic.py --system vdsr --set data.uri=$HOME/dataset --set recipe=short
Cluster, as published (SRResNet x4: MSE, 1e6 steps) on 4 GPUs:
    ray job submit --working-dir . -- python jobs/train_classic.py --system srresnet --set data.uri=s3://rayscale/div2k \\
        --workers 4 --set workers.gpu=true --register my-srresnet-x4

SRCNN (srcnn: 9-1-5, srcnn-955: 9-5-5) is one network per scale, VDSR one for x2, x3 and x4. Both see luma alone and take
images of any number of channels. With validation.uri, VDSR wants {scale} in it: s3://rayscale/Set5/x{scale}.
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

SCRIPT = "jobs/train_classic.py"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    return launch.parse(arguments, SCRIPT, __doc__ or "")


def main(arguments: list[str] | None = None) -> int:
    return launch.main(arguments, SCRIPT, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
