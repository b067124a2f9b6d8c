#!/usr/bin/env python3
"""Cut a bucket or folder of images into training shards, side by side on Ray.

Laptop (an embedded Ray, two folders):
    python jobs/prepare_dataset.py ~/images ~/dataset
Laptop, object storage (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY in the environment):
    python jobs/prepare_dataset.py s3://in/images s3://out/dataset
Cluster:
    ray job submit --working-dir . -- python jobs/prepare_dataset.py s3://in/images s3://out/dataset
Red, green, blue and near infrared of Sentinel-2, from files of 13 bands; x2 only:
    python jobs/prepare_dataset.py s3://in/scenes s3://out/s2 --bands 4 3 2 8 --scales 2
Slices of NIfTI or DICOM, 16 bit from black to white of each volume (or CT's range):
    python jobs/prepare_dataset.py s3://in/mri s3://out/mri --scales 2 3 4
Only x4, smaller sub-images, two images held out:
    python jobs/prepare_dataset.py s3://in/images s3://out/x4 --scales 4 --size 240 --step 144 --exclude 'val/*'

Pairs: HR and LR images of their own, in the layouts of DIV2K, EDSR-PyTorch, BasicSR, RealSR (HR/ and LR_bicubic/X2, ...):
    python jobs/prepare_dataset.py s3://in/DIV2K s3://out/set
    python jobs/prepare_dataset.py s3://in/DIV2K_train_HR s3://out/set --lr s3://in/DIV2K_train_LR_unknown/X2

A GeoTIFF is cut by windows; where pixels are missing, sub-images are taken beside them. Run again after an interruption: finished
shards are kept. A new dataset at the same place replaces the old one, whose shards are deleted. Exit codes: 0 complete, 3 some
images are left out (they are listed, the dataset is usable), 1 no dataset was made, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from rayscale.cli import run

COMMAND = ("prepare",)

if __name__ == "__main__":
    sys.exit(run(*COMMAND, *sys.argv[1:]))
