"""Addresses by which somebody without keys of S3 may send or fetch one object, for a while."""

from __future__ import annotations

from collections.abc import Mapping

from rayscale.storage.s3 import S3Store
from rayscale.storage.s3_client import get_client
from rayscale.storage.s3_errors import explain


def begin_upload(store: S3Store, key: str) -> str:
    """Begin an object in parts; what names it until it is complete. Errors as of ``Store``."""
    with explain(store.locate(key), store.bucket):
        answer = get_client().create_multipart_upload(Bucket=store.bucket, Key=store.full(key))
        return str(answer["UploadId"])


def part_address(store: S3Store, key: str, upload: str, number: int, seconds: int) -> str:
    """Where to PUT part ``number``, from 1; its answer has the ``ETag`` that :func:`complete_upload` needs."""
    place = {"Bucket": store.bucket, "Key": store.full(key), "UploadId": upload}
    return str(
        get_client().generate_presigned_url(
            "upload_part", Params={**place, "PartNumber": number}, ExpiresIn=seconds
        )
    )


def complete_upload(store: S3Store, key: str, upload: str, etags: Mapping[int, str]) -> None:
    """Make the object of its parts. Errors as of ``Store``, also for parts that did not come."""
    parts = [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]
    with explain(store.locate(key), store.bucket):
        get_client().complete_multipart_upload(
            Bucket=store.bucket,
            Key=store.full(key),
            UploadId=upload,
            MultipartUpload={"Parts": parts},
        )


def object_address(store: S3Store, key: str, seconds: int) -> str:
    """Where to GET an object."""
    place = {"Bucket": store.bucket, "Key": store.full(key)}
    return str(get_client().generate_presigned_url("get_object", Params=place, ExpiresIn=seconds))
