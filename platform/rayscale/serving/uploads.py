"""Files too large for a body: sent in parts straight to object storage, and results fetched from there."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rayscale import strictjson
from rayscale.errors import InputError, NotFoundError
from rayscale.serving.batches import own_place
from rayscale.serving.errors import BadParameterError
from rayscale.serving.keys import Key
from rayscale.storage import Store, presigned
from rayscale.storage.s3 import S3Store

PART_BYTES, MOST_PARTS = 64 << 20, 1000
_SECONDS = 6 * 3600


@dataclass(frozen=True)
class Upload:
    """An object on its way: its place below that of its owner, and the upload of S3 that it is."""

    id: str
    owner: str
    name: str
    bytes: int
    token: str
    part_bytes: int

    @property
    def parts(self) -> int:
        """How many there are."""
        return -(-self.bytes // self.part_bytes)


class Uploads:
    """The uploads of a service; like batches, each is an object beside their records."""

    def __init__(self, store: Store) -> None:
        if not isinstance(store, S3Store):
            raise NotFoundError(
                "this service takes no uploads: they need RAYSCALE_SERVE_BATCHES_URI in object storage (s3://...)"
            )
        self._store = store

    def begin(self, name: str, size: int, key: Key) -> tuple[Upload, list[str]]:
        """A new upload, and where to PUT each of its parts. Raises BadParameterError for a name with a folder."""
        if not re.fullmatch(r"[^/\\\x00-\x1f]{1,200}", name) or name.startswith("."):
            raise BadParameterError(f"{name[:80]!r} is not a file name; give one without folders")
        made = secrets.token_hex(12)
        place = self._place(key)
        token = presigned.begin_upload(place, f"{made}/{name}")
        upload = Upload(made, key.id, name, size, token, PART_BYTES)
        self._store.write(f"uploads/{made}.json", strictjson.dumps(asdict(upload)).encode())
        addresses = [
            presigned.part_address(place, f"{made}/{name}", token, number, _SECONDS)
            for number in range(1, upload.parts + 1)
        ]
        return upload, addresses

    def complete(self, upload: str, etags: Mapping[int, str], key: Key) -> str:
        """The place that a batch may have as its source. Raises NotFoundError, InputError for other parts than were asked."""
        try:
            found = Upload(**strictjson.loads(self._store.read(f"uploads/{upload}.json")))
        except NotFoundError:
            found = None
        if found is None or found.owner != key.id:
            raise NotFoundError(f"there is no upload {upload}")
        if set(etags) != set(range(1, found.parts + 1)):
            raise InputError(
                f"the upload has the parts 1 to {found.parts}; name each with its ETag"
            )
        place = self._place(key)
        presigned.complete_upload(place, f"{found.id}/{found.name}", found.token, etags)
        self._store.delete(f"uploads/{upload}.json")
        return place.locate(found.id)

    def address(self, uri: str, key: Key) -> str:
        """Where to GET an object below the own place. Raises NotFoundError for any other."""
        place = self._place(key)
        name = uri.removeprefix(f"{place.uri}/")
        if name == uri or not place.exists(name):
            raise NotFoundError(f"there is no file {uri[:200]!r} of yours")
        return presigned.object_address(place, name, _SECONDS)

    def place(self, key: Key) -> str:
        """Where the files of a key lie."""
        return self._place(key).uri

    def _place(self, key: Key) -> S3Store:
        return S3Store(own_place(self._store, key))
