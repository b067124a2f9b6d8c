#!/usr/bin/env python3
"""Search residual scaling and learning rate of EDSR with Ray Tune; bad trials are stopped early (ASHA).

Laptop (an embedded Ray; 8 trials of at most 400 steps, one after the other on 2 cores):
    python tune/sweep_edsr.py --set data.uri=$HOME/dataset --set validation.uri=$HOME/Set5/x2 --samples 8 --steps 400
Cluster, four trials at a time:
    ray job submit --working-dir . -- python tune/sweep_edsr.py --set data.uri=s3://rayscale/div2k \\
        --set validation.uri=s3://rayscale/Set5/x2 --samples 32 --steps 20000 --concurrent 4 \\
        --output s3://rayscale/best.yaml
Then train with the best values:
    python jobs/train_edsr.py --config best.yaml

A trial is a small Ray Train run below run.uri. Run the same command again to resume: finished
trials are read from storage, others resume. Trials are compared by PSNR where validation.uri is set, else by loss.
Exit codes: 0 complete, 3 some trials failed, 1 all failed, 2 wrong usage or configuration, 130 Ctrl-C, 143 SIGTERM.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale.cli import run

COMMAND = ("sweep",)

if __name__ == "__main__":
    sys.exit(run(*COMMAND, *sys.argv[1:]))
