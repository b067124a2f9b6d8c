#!/usr/bin/env python3
"""Upscale every image of a bucket into another place; run it again to resume.

Laptop (a Ray of its own for the time of the job; folders work as well as buckets):

    python jobs/upscale_bucket.py s3://photos/in s3://photos/out --model edsr@production --scale 2
    python jobs/upscale_bucket.py pictures/in pictures/out --model bicubic --scale 2

A part of a bucket, and first what it would cost (no worker starts, nothing is written):

    python jobs/upscale_bucket.py 's3://photos/2024/**/*.tif' s3://photos/out --model edsr@production --dry-run
    python jobs/upscale_bucket.py s3://photos/in s3://photos/out --model edsr@production --keys keys.txt

Cluster (started in the repository, or anywhere with the flag):

    ray job submit -- python jobs/upscale_bucket.py s3://photos/in s3://photos/out --model edsr@production
    ray job submit --working-dir . -- python jobs/upscale_bucket.py s3://photos/in s3://photos/out --model edsr/3

Names and formats stay. Inputs whose output is there, from the same source and by the same model and parameters,
are skipped; failures are listed with their reason and tried again by the next run. Objects that no batch wrote are never
replaced, except with --overwrite. Rows of all inputs are in _rayscale/ of the target (docs/batch.md). Stores, registry and cluster
come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_URI and RAY_ADDRESS.

Exit codes: 0 all inputs are done; 3 some failed (or are beyond --limit); 1 nothing could be done; 2 wrong usage;
130 Ctrl-C; 143 SIGTERM.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale.cli import run

COMMAND = ("batch",)

if __name__ == "__main__":
    sys.exit(run(*COMMAND, *sys.argv[1:]))
