"""Train SRGAN under Ray Train: SRResNet against a discriminator, from a trained SRResNet.

Laptop (an embedded Ray; a dataset of jobs/prepare_dataset.py and a model of jobs/train_classic.py --system srresnet):
    python jobs/train_srgan.py --set data.uri=$HOME/dataset --set recipe=short \\
        --set model.warm_start=$HOME/runs/srresnet/model.safetensors --set adversarial.vgg=vgg19-dcbb9e9d.pth
Without the weights of VGG19, by an explicit choice of another content loss:
    python jobs/train_srgan.py --set data.uri=$HOME/dataset --set recipe=short --set adversarial.content=mse \\
        --set model.warm_start=$HOME/runs/srresnet/model.safetensors
Cluster, as published (x4, 2e5 steps) on 4 GPUs:
    ray job submit --working-dir . -- python jobs/train_srgan.py --set data.uri=s3://rayscale/div2k --workers 4 \\
        --set model.warm_start=s3://rayscale/runs/srresnet/model.safetensors --set workers.gpu=true \\
        --set adversarial.vgg=s3://rayscale/vgg19-dcbb9e9d.pth --register srgan

What is saved and registered is the generator; checkpoints hold both networks.
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

SCRIPT = "jobs/train_srgan.py"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    return launch.parse(arguments, SCRIPT, __doc__ or "")


def main(arguments: list[str] | None = None) -> int:
    return launch.main(arguments, SCRIPT, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
