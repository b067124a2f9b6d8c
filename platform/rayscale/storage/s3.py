"""A bucket, or a prefix in one, as a store: AWS S3 and whatever speaks its protocol.

The client and its patience are ``storage.s3_client``. What botocore leaves to its caller is here: bodies that break off in the
middle, lost answers to conditional writes, and errors that say what to change.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from rayscale.errors import ConfigError, NotFoundError, StorageError
from rayscale.settings import get_settings
from rayscale.storage.local import replacing
from rayscale.storage.s3_client import endpoint, get_client, paced_attempts
from rayscale.storage.store import Entry, Store, check_key

logger = logging.getLogger(__name__)

_MULTIPART_BYTES = 64 << 20  # part size, and the size from which a file is uploaded in parts
_MOST_PARTS = 1000  # AWS takes ten times as many, others do not; parts grow instead
_PARTS_AT_ONCE = 2  # each is in memory
_KEY_BYTES = 1024  # S3's own limit, in UTF-8
_DENIED = {"AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "401", "403"}
_ABSENT = {"NoSuchKey", "NoSuchBucket", "NotFound", "404"}
_MARK = "mark"  # the user metadata that holds it
_MD5 = re.compile(r"[0-9a-f]{32}")


class S3Store(Store):
    """Objects below ``s3://bucket/prefix``. Holds names only: the client belongs to the process."""

    def __init__(self, uri: str) -> None:
        self.bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not self.bucket:
            raise ConfigError(f"{uri} names no bucket; expected s3://bucket/prefix")
        prefix = prefix.strip("/")
        self._prefix = f"{check_key(prefix)}/" if prefix else ""
        self.uri = f"s3://{self.bucket}/{prefix}".rstrip("/")

    def child(self, prefix: str) -> S3Store:
        prefix = prefix.strip("/")
        return S3Store(self.locate(prefix)) if prefix else self

    def list(self, prefix: str = "") -> Iterator[Entry]:
        with self._errors(prefix, listing=True):
            pages = get_client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix + prefix):
                for item in page.get("Contents", ()):
                    if not item["Key"].endswith("/"):  # folder markers that consoles leave behind
                        key = item["Key"][len(self._prefix) :]
                        yield Entry(key, item["Size"], item["ETag"].strip('"'))

    def stat(self, key: str) -> Entry:
        address = self._address(key)
        with self._errors(key):
            answer = get_client().head_object(**address)
        mark = answer["Metadata"].get(_MARK, "")
        return Entry(key, answer["ContentLength"], answer["ETag"].strip('"'), mark)

    def read_version(self, key: str) -> tuple[bytes, str]:
        buffer = io.BytesIO()
        etag = self._download(key, buffer)
        return buffer.getvalue(), etag

    def read_range(self, key: str, start: int, length: int) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError

        if length <= 0:
            return b""
        address = self._address(key)
        for attempt in paced_attempts():
            with self._errors(key):
                try:
                    answer = get_client().get_object(
                        **address, Range=f"bytes={start}-{start + length - 1}"
                    )
                except ClientError as error:
                    if _code(error) in {"InvalidRange", "416"}:
                        return b""
                    raise
            try:
                data: bytes = answer["Body"].read()
            except (BotoCoreError, OSError) as error:
                logger.warning("%s broke off (attempt %d): %s", self.locate(key), attempt, error)
                continue
            if "ContentRange" not in answer:  # a server that ignores ranges
                return data[start : start + length]
            if len(data) == answer["ContentLength"]:
                return data
        raise self._damaged(key)

    def fetch(self, key: str, path: str | Path) -> str:
        with replacing(path) as file:
            return self._download(key, file)

    def write(
        self, key: str, data: bytes, *, if_absent: bool = False, if_match: str = "", mark: str = ""
    ) -> str | None:
        request = {**self._address(key), "Body": data, "ContentMD5": _md5(data)}
        metadata = {_MARK: mark} if mark else {}
        if not (if_absent or if_match):
            with self._errors(key):
                answer = get_client().put_object(**request, Metadata=metadata)
            return str(answer["ETag"]).strip('"')
        if if_match and self._etag(key) != if_match:  # some servers ignore or refuse If-Match
            return None
        writer = uuid.uuid4().hex
        send = partial(get_client().put_object, **request, Metadata={**metadata, "writer": writer})
        return self._settle(key, send, _condition(if_absent, if_match), writer)

    def write_file(
        self,
        key: str,
        path: str | Path,
        *,
        if_absent: bool = False,
        if_match: str = "",
        mark: str = "",
    ) -> str | None:
        if Path(path).stat().st_size < _MULTIPART_BYTES:
            data = Path(path).read_bytes()
            return self.write(key, data, if_absent=if_absent, if_match=if_match, mark=mark)
        if (if_absent or if_match) and self._etag(key) != if_match:
            return None
        writer = uuid.uuid4().hex
        metadata = {_MARK: mark, "writer": writer} if mark else {"writer": writer}
        client, place = get_client(), self._address(key)
        with self._errors(key):
            begun = client.create_multipart_upload(**place, Metadata=metadata)
        upload = {**place, "UploadId": begun["UploadId"]}
        etag = None
        try:
            with self._errors(key):
                parts = _send_parts(Path(path), upload)
            send = partial(
                client.complete_multipart_upload, **upload, MultipartUpload={"Parts": parts}
            )
            etag = self._settle(key, send, _condition(if_absent, if_match), writer)
        finally:
            if etag is None:
                with suppress(StorageError, NotFoundError), self._errors(key):
                    client.abort_multipart_upload(**upload)
        return etag

    def _etag(self, key: str) -> str:
        """The version tag of an object, "" when there is none."""
        try:
            return self.stat(key).etag
        except NotFoundError:
            return ""

    def delete(self, key: str) -> None:
        from botocore.exceptions import ClientError

        with self._errors(key):
            try:
                get_client().delete_object(**self._address(key))
            except ClientError as error:
                if _code(error) not in {"NoSuchKey", "NotFound", "404"}:
                    raise

    def forget_unfinished(self, key: str) -> None:
        from botocore.exceptions import ClientError

        address = self._address(key)
        with self._errors(key):
            try:
                pages = get_client().get_paginator("list_multipart_uploads")
                for page in pages.paginate(Bucket=self.bucket, Prefix=address["Key"]):
                    for upload in page.get("Uploads", ()):
                        if upload["Key"] == address["Key"]:
                            get_client().abort_multipart_upload(
                                **address, UploadId=upload["UploadId"]
                            )
            except ClientError as error:
                if _code(error) in _DENIED | {"NotImplemented", "501"}:
                    logger.warning(
                        "%s: unfinished uploads stay: %s", self.locate(key), _code(error)
                    )
                elif _code(error) != "NoSuchUpload":  # finished or aborted meanwhile
                    raise

    def _settle(
        self, key: str, send: Callable[..., Any], condition: dict[str, str], writer: str
    ) -> str | None:
        """The last request of a write, under a condition; None when it does not hold.

        An answer lost on the way makes the retry meet our own object: ``writer`` in its metadata tells it from another's.
        """
        from botocore.exceptions import ClientError

        for _ in paced_attempts():
            with self._errors(key):
                try:
                    return str(send(**condition)["ETag"]).strip('"')
                except ClientError as error:
                    code = _code(error)
                    repeated = bool(error.response["ResponseMetadata"].get("RetryAttempts"))
                    if code in {"ConditionalRequestConflict", "409"}:
                        continue  # another write or delete of the key was in flight: undecided
                    if code in {"NotImplemented", "501"} and condition.pop("IfMatch", ""):
                        continue  # to have compared just before is the most that this server allows
                    if code in _ABSENT and "IfMatch" in condition:
                        return None  # deleted meanwhile
                    if code in {"PreconditionFailed", "412"}:
                        if not repeated:
                            return None
                    elif not (code == "NoSuchUpload" and repeated):
                        raise
                found = get_client().head_object(**self._address(key))
                return (
                    found["ETag"].strip('"') if found["Metadata"].get("writer") == writer else None
                )
        raise StorageError(f"{self.locate(key)} stayed in conflict with other writers")

    def _download(self, key: str, sink: IO[bytes]) -> str:
        """Stream one version of an object into ``sink``, going on where a broken body ended; returns its tag."""
        from botocore.exceptions import BotoCoreError, ClientError

        address = self._address(key)
        etag, digest, done = "", hashlib.md5(usedforsecurity=False), 0
        for attempt in paced_attempts():
            resume = {"Range": f"bytes={done}-", "IfMatch": etag} if done else {}
            with self._errors(key):
                try:
                    answer = get_client().get_object(**address, **resume)
                except ClientError as error:
                    if not done or _code(error) not in {"PreconditionFailed", "412"}:
                        raise
                    answer = None
            if answer is None or (done and "ContentRange" not in answer):  # changed, or no ranges
                etag, digest, done = "", hashlib.md5(usedforsecurity=False), 0
                sink.seek(0)
                sink.truncate()
                if answer is None:
                    continue
            etag, size = answer["ETag"], done + answer["ContentLength"]
            try:
                for block in answer["Body"].iter_chunks(1 << 20):
                    sink.write(block)
                    digest.update(block)
                    done += len(block)
            except (BotoCoreError, ConnectionError) as error:
                logger.warning("%s broke off (attempt %d): %s", self.locate(key), attempt, error)
            if done == size:
                if _is_digest(answer) and digest.hexdigest() != etag.strip('"'):
                    logger.warning("%s arrived damaged (attempt %d)", self.locate(key), attempt)
                    done = 0
                    digest = hashlib.md5(usedforsecurity=False)
                    sink.seek(0)
                    sink.truncate()
                    continue
                return str(etag).strip('"')
        raise self._damaged(key)

    def _address(self, key: str) -> dict[str, str]:
        full = self._prefix + check_key(key)
        if len(full.encode()) > _KEY_BYTES:
            raise ConfigError(
                f"the key {full[:80]!r}... has {len(full.encode())} bytes; S3 allows {_KEY_BYTES}"
            )
        return {"Bucket": self.bucket, "Key": full}

    def _damaged(self, key: str) -> StorageError:
        attempts = get_settings().storage_attempts
        return StorageError(
            f"{self.locate(key)} could not be read whole from {endpoint() or 'AWS'} in {attempts} attempts; "
            "RAYSCALE_STORAGE_ATTEMPTS allows more"
        )

    @contextmanager
    def _errors(self, key: str, *, listing: bool = False) -> Iterator[None]:
        """Say in the user's terms what went wrong; the server's own text may hold keys and is left out."""
        from boto3.exceptions import Boto3Error
        from botocore import exceptions

        place, server = self.locate(key), endpoint() or "AWS S3"
        try:
            yield
        except exceptions.ClientError as error:
            code = _code(error)
            if code == "NoSuchBucket" or (listing and code in _ABSENT):
                raise NotFoundError(f"bucket {self.bucket!r} does not exist at {server}") from error
            if code in _ABSENT:
                raise NotFoundError(f"{place} does not exist at {server}") from error
            if code in _DENIED:
                raise StorageError(
                    f"{server} denies access to {place} ({code}); check AWS_ACCESS_KEY_ID, "
                    "AWS_SECRET_ACCESS_KEY and the permissions of that key"
                ) from error
            raise StorageError(f"{server} failed on {place}: {code}") from error
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise StorageError(
                f"no keys to open {place}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except exceptions.ParamValidationError as error:
            raise ConfigError(f"{place} is no S3 address: {error}") from error
        except (exceptions.BotoCoreError, Boto3Error, ConnectionError, ValueError) as error:
            attempts = get_settings().storage_attempts
            raise StorageError(
                f"{place} failed at {server} after {attempts} attempts ({type(error).__name__}); "
                "check AWS_ENDPOINT_URL and that the server runs"
            ) from error


def _md5(data: bytes) -> str:
    """What lets the server refuse bytes that arrive damaged."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _condition(if_absent: bool, if_match: str) -> dict[str, str]:
    """The arguments of a request that say so."""
    if if_absent:
        return {"IfNoneMatch": "*"}
    return {"IfMatch": f'"{if_match}"'} if if_match else {}


def _send_parts(path: Path, upload: dict[str, str]) -> list[dict[str, Any]]:
    """Send a file as the parts of an upload that was begun; what completes it."""
    size = path.stat().st_size
    length = max(_MULTIPART_BYTES, -(-size // _MOST_PARTS))

    def send(number: int) -> dict[str, Any]:
        with path.open("rb") as file:
            file.seek((number - 1) * length)
            data = file.read(length)
        answer = get_client().upload_part(
            **upload, PartNumber=number, Body=data, ContentMD5=_md5(data)
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    with ThreadPoolExecutor(_PARTS_AT_ONCE) as threads:
        return list(threads.map(send, range(1, -(-size // length) + 1)))


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _is_digest(answer: dict[str, Any]) -> bool:
    """Whether the ETag is the MD5 of the bytes: not for uploads in parts nor for encrypted objects."""
    return bool(_MD5.fullmatch(answer["ETag"].strip('"'))) and not (
        answer.get("ServerSideEncryption") or answer.get("SSECustomerAlgorithm")
    )
