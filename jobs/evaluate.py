#!/usr/bin/env python3
"""Score models on benchmarks, side by side on Ray: the table of the EDSR paper, with published figures beside.

Laptop (an embedded Ray):

    python jobs/evaluate.py --model bicubic --model edsr@production --data Set5/x2 --data Set14/x2 --scale 2
    python jobs/evaluate.py --model bicubic --model edsr-baseline=runs/x{scale}.safetensors --ensemble \\
        --data Set5/x{scale} --scale 2 --scale 3 --scale 4 --output results --crops img_001_SRF_{scale}
    python jobs/evaluate.py --model bicubic --data tiles --scale 2 --protocol rgb --suite satellite

Cluster:

    ray job submit --working-dir . -- python jobs/evaluate.py --model edsr@production --data s3://bucket/Set5/x2 --scale 2

A benchmark holds HR/ and LR/ of one scale, or HR/ and LR_bicubic/X2, X3, ... as DIV2K and EDSR-PyTorch do; HR is cropped to
scale times LR. {scale} stands for the scale in any --data, --model and --crops. Models
are built-in ones, registered references, systems that are bundled (aplus), or SYSTEM=WEIGHTS with a file that this process
can read; one that does not serve a scale has no figure there. --output saves table.md, table.json, plots and crops (folder
or s3://...). With MLFLOW_TRACKING_URI set, all of that becomes an MLflow run too.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale.cli import run

COMMAND = ("compare",)

if __name__ == "__main__":
    sys.exit(run(*COMMAND, *sys.argv[1:]))
