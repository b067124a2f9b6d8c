"""A bucket, or a prefix in one, as a store: AWS S3 and whatever speaks its protocol.

The client and its patience are ``storage.s3_client``. What botocore leaves to its caller is here: bodies that break off in the
middle, and lost answers to conditional writes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from rayscale.errors import ConfigError, NotFoundError, StorageError, quantity
from rayscale.files import replacing
from rayscale.settings import get_settings
from rayscale.storage.checksums import ALGORITHMS, Checksum
from rayscale.storage.s3_client import get_client, paced_attempts, server_name
from rayscale.storage.s3_errors import ABSENT, DENIED, UNKNOWN, code_of, explain
from rayscale.storage.store import Entry, Store, check_key

logger = logging.getLogger(__name__)

_MULTIPART_BYTES = 64 << 20  # part size, and the size from which a file is uploaded in parts
_MOST_PARTS = 1000  # AWS takes ten times as many, others do not; parts grow instead
_PARTS_AT_ONCE = 2  # each is in memory
_PART_TAGS = ("ETag", *(f"Checksum{name}" for name in ALGORITHMS))
_KEY_BYTES = 1024  # S3's own limit, in UTF-8
_MARK = "mark"  # the user metadata that holds it


class S3Store(Store):
    """Objects below ``s3://bucket/prefix``. Holds names only: the client belongs to the process."""

    def __init__(self, uri: str) -> None:
        self.bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not self.bucket:
            raise ConfigError(f"{uri} names no bucket; expected s3://bucket/prefix")
        prefix = prefix.strip("/")
        self._prefix = f"{check_key(prefix)}/" if prefix else ""
        self.uri = f"s3://{self.bucket}/{prefix}".rstrip("/")

    def full(self, key: str) -> str:
        """The key in the bucket."""
        return self._prefix + check_key(key)

    def child(self, prefix: str) -> S3Store:
        prefix = prefix.strip("/")
        return S3Store(self.locate(prefix)) if prefix else self

    def list(self, prefix: str = "", *, folders: bool = False) -> Iterator[Entry]:
        with self._errors(prefix, listing=True):
            for item in self._items(self._prefix + prefix):
                if folders or item["Size"] or not item["Key"].endswith("/"):
                    key = item["Key"][len(self._prefix) :]
                    etag = item["ETag"].strip('"')
                    yield Entry(key, item["Size"], etag, modified=_written_at(item))

    def _items(self, prefix: str) -> Iterator[dict[str, Any]]:
        """All pages of a listing, also of servers that know the first version of it only."""
        from botocore.exceptions import ClientError

        client = get_client()
        ask, request = client.list_objects_v2, {"Bucket": self.bucket, "Prefix": prefix}
        first = None
        while True:
            try:
                page = ask(**request)
            except ClientError as error:
                if ask == client.list_objects or code_of(error) not in UNKNOWN:
                    raise
                ask = client.list_objects
                continue
            items = page.get("Contents", [])
            yield from items
            if not page.get("IsTruncated"):
                return
            # The paginator of boto3 takes a page without a token for the last one.
            if token := page.get("NextContinuationToken"):
                request["ContinuationToken"] = token
            else:
                ask = client.list_objects
                request.pop("ContinuationToken", None)
                request["Marker"] = page.get("NextMarker") or (items[-1]["Key"] if items else "")
            if (items and items[0]["Key"] == first) or request.get("Marker") == "":
                raise StorageError(
                    f"{server_name()} repeats a page of the listing of {self.locate('')}; it cannot be read whole"
                )
            first = items[0]["Key"] if items else first

    def stat(self, key: str) -> Entry:
        address = self._address(key)
        with self._errors(key):
            answer = get_client().head_object(**address)
        mark, etag = answer["Metadata"].get(_MARK, ""), answer["ETag"].strip('"')
        return Entry(key, answer["ContentLength"], etag, mark, _written_at(answer))

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
                    if code_of(error) in {"InvalidRange", "416"}:
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
        raise self._damage(key)

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
                if code_of(error) not in {"NoSuchKey", "NotFound", "404"}:
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
                if code_of(error) in DENIED | UNKNOWN:
                    logger.warning(
                        "%s: unfinished uploads stay: %s", self.locate(key), code_of(error)
                    )
                elif code_of(error) != "NoSuchUpload":  # finished or aborted meanwhile
                    raise

    def list_unfinished(self) -> Iterator[Entry]:
        with self._errors("", listing=True):
            client = get_client()
            pages = client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", ()):
                    place = {"Bucket": self.bucket, "Key": upload["Key"]}
                    parts = client.list_parts(**place, UploadId=upload["UploadId"])
                    size = sum(part["Size"] for part in parts.get("Parts", ()))
                    begun = upload["Initiated"].timestamp()
                    yield Entry(upload["Key"][len(self._prefix) :], size, "", modified=begun)

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
                    code = code_of(error)
                    repeated = bool(error.response["ResponseMetadata"].get("RetryAttempts"))
                    if code in {"ConditionalRequestConflict", "409"}:
                        continue  # another write or delete of the key was in flight: undecided
                    if code in UNKNOWN and condition.pop("IfMatch", ""):
                        continue  # to have compared just before is the most that this server allows
                    if code in ABSENT and "IfMatch" in condition:
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
        from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError

        address = self._address(key)
        etag, checksum, done = "", Checksum({"ETag": ""}), 0
        for attempt in paced_attempts():
            resume = {"Range": f"bytes={done}-", "IfMatch": etag} if done else {}
            with self._errors(key):
                try:
                    answer = get_client().get_object(**address, **resume)
                except ClientError as error:
                    if not done or code_of(error) not in {"PreconditionFailed", "412"}:
                        raise
                    answer = None
            if done and not (answer and _goes_on(answer, etag, done)):  # replaced, or no ranges
                done = 0
                if answer is None or "ContentRange" in answer:
                    continue
            if not done:
                checksum = Checksum(answer)  # an answer to a range promises nothing of the whole
                sink.seek(0)
                sink.truncate()
            etag, size = answer["ETag"], done + answer["ContentLength"]
            damaged = False
            try:
                for block in answer["Body"].iter_chunks(1 << 20):
                    sink.write(block)
                    checksum.update(block)
                    done += len(block)
            except FlexibleChecksumError:  # found by botocore, which looks at each answer alone
                damaged = True
            except (BotoCoreError, ConnectionError) as error:
                logger.warning("%s broke off (attempt %d): %s", self.locate(key), attempt, error)
            if done == size and not damaged and checksum.matches():
                return str(etag).strip('"')
            if damaged or done >= size:
                logger.warning("%s arrived damaged (attempt %d)", self.locate(key), attempt)
                done = 0  # nothing of it can be gone on from
        raise self._damage(key)

    def _address(self, key: str) -> dict[str, str]:
        full = self._prefix + check_key(key)
        if len(full.encode()) > _KEY_BYTES:
            raise ConfigError(
                f"the key {full[:80]!r}... has {len(full.encode())} bytes; S3 allows {_KEY_BYTES}"
            )
        return {"Bucket": self.bucket, "Key": full}

    def _damage(self, key: str) -> StorageError:
        attempts = get_settings().storage_attempts
        return StorageError(
            f"{self.locate(key)} could not be read whole from {server_name()} in {quantity(attempts, 'attempt')}; "
            "RAYSCALE_STORAGE_ATTEMPTS allows more"
        )

    def _errors(self, key: str, *, listing: bool = False) -> AbstractContextManager[None]:
        return explain(self.locate(key), self.bucket, listing=listing)


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
        # AWS wants back the checksums that it was given for the parts.
        tags = {name: value for name, value in answer.items() if name in _PART_TAGS}
        return {"PartNumber": number, **tags}

    with ThreadPoolExecutor(_PARTS_AT_ONCE) as threads:
        return list(threads.map(send, range(1, -(-size // length) + 1)))


def _goes_on(answer: dict[str, Any], etag: str, done: int) -> bool:
    """Whether an answer holds the rest of this version, whatever the server made of range and condition."""
    return answer["ETag"] == etag and str(answer.get("ContentRange")).startswith(f"bytes {done}-")


def _written_at(answer: Mapping[str, Any]) -> float:
    """Seconds since 1970. What a server does not date counts as new, so that nobody takes it for a leftover."""
    written = answer.get("LastModified")
    return float(written.timestamp()) if written is not None else time.time()
