#!/usr/bin/env python3
"""Train any system on Ray from a dataset in object storage, with its published recipe as the default.

Laptop (an embedded Ray, a dataset of jobs/prepare_dataset.py). SRCNN is one network per scale, VDSR one for x2, x3 and x4;
Adam and a cosine in place of millions of steps:
    python jobs/train.py --system srcnn --set model.scale=2 --set data.uri=$HOME/dataset --set recipe=short
    python jobs/train.py --system vdsr --set data.uri=$HOME/dataset --set recipe=short
SRGAN from a trained SRResNet, with the weights of VGG19 or, by an explicit choice, another content loss:
    python jobs/train.py --system srgan --set data.uri=$HOME/dataset --set recipe=short \\
        --set model.warm_start=$HOME/runs/srresnet/model.safetensors --set adversarial.vgg=vgg19-dcbb9e9d.pth
    python jobs/train.py --system srgan --set data.uri=$HOME/dataset --set recipe=short --set adversarial.content=mse \\
        --set model.warm_start=$HOME/runs/srresnet/model.safetensors
Any scale from 1.1 to 4: Meta-SRGAN for scans, first on pixels, then against the discriminator; Meta-EDSR for photographs:
    python jobs/train.py --system meta-srgan --set data.uri=$HOME/mri --set recipe=short --set adversarial.weight=0 \\
        --set run.name=mri
    python jobs/train.py --system meta-srgan --set data.uri=$HOME/mri --set recipe=short \\
        --set model.warm_start=$HOME/runs/mri/model.safetensors
    python jobs/train.py --system meta-edsr --set data.uri=$HOME/dataset --set recipe=short
A+ (anchored regression) as one task on CPUs, minutes; as published, or with half a million samples and scored:
    python jobs/train.py --system aplus --set data.uri=$HOME/dataset --set model.scale=2 --set workers.cpus=2
    python jobs/train.py --system aplus --set data.uri=$HOME/dataset --set recipe=short --set validation.uri=$HOME/Set5/x2
Cluster, as published (SRResNet x4: MSE, 1e6 steps) on 4 GPUs:
    ray job submit --working-dir . -- python jobs/train.py --system srresnet --set data.uri=s3://rayscale/div2k \\
        --workers 4 --set workers.gpu=true --register my-srresnet-x4
Cluster, without gradients on a node's 8 CPUs:
    ray job submit --working-dir . -- python jobs/train.py --system aplus --set data.uri=s3://rayscale/dataset \\
        --set workers.cpus=8 --register aplus-x2

Networks of several scales want {scale} in validation.uri: s3://rayscale/Set5/x{scale}. What is saved and registered of a
system with a discriminator is the generator; checkpoints hold both networks.
Resume: the same command again. A run is named after its configuration (or run.name) and resumes from its last
committed checkpoint, with any number of workers; A+ starts over. --list-options prints every key with its value and meaning.
Metrics and pictures go to MLFLOW_TRACKING_URI when that is set.
Exit codes: 0 complete, 1 failed, 2 wrong usage or configuration, 130 Ctrl-C, 143 SIGTERM.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale.cli import run

COMMAND = ("train",)

if __name__ == "__main__":
    sys.exit(run(*COMMAND, *sys.argv[1:]))
