"""Make the buckets named as arguments where they are missing: what compose.yaml runs once the S3 server is up.

    python infra/docker/create_buckets.py rayscale mlflow

Endpoint and keys come from the environment, as everywhere (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).
"""

from __future__ import annotations

import sys
import time

import boto3
from botocore.exceptions import BotoCoreError, ClientError

OURS = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}
PATIENCE_S = 60.0


def create(bucket: str, patience_s: float = PATIENCE_S) -> None:
    """Create one bucket, or leave it as it is; tries again for ``patience_s`` seconds while the server comes up."""
    client = boto3.client("s3")
    deadline = time.monotonic() + patience_s
    while True:
        try:
            client.create_bucket(Bucket=bucket)
            return
        except ClientError as error:
            if error.response["Error"]["Code"] in OURS:
                return
            # A refusal stays a refusal: only a server that is not ready yet is worth waiting for.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                raise
            failure: Exception = error
        except BotoCoreError as error:
            failure = error
        if time.monotonic() > deadline:
            raise failure
        time.sleep(1.0)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("usage: create_buckets.py BUCKET...")
    for name in sys.argv[1:]:
        create(name)
        print(f"bucket {name}: ready", flush=True)
