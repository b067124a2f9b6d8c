"""What a run is about: every object of the source, those of a pattern, or those of a list of keys.

A pattern is a source with wildcards, such as ``s3://bucket/2024/**/*.tif``. ``*`` stands for any characters of one part
of a name and ``?`` for one, neither for a slash; ``[abc]`` and ``[!abc]`` for one character of a set; ``**`` alone between
slashes for any number of parts, none included. What comes before the first part with a wildcard is the root: names of
outputs are those below it.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar

from rayscale.errors import ConfigError, InputError, NotFoundError, RayscaleError
from rayscale.storage import Entry, Store, connect, is_hidden, split

OWN = "_rayscale/"
"""Below this prefix of a target lives the state of the batch jobs."""

_LOOKUPS = 32  # keys of a list asked for at once
_JSON_LINES = (".jsonl", ".ndjson")


class ChangedError(RayscaleError):
    """The source was replaced between the listing and the reading."""

    code: ClassVar[str] = "changed"

    @classmethod
    def between(cls, listed: str, now: str) -> ChangedError:
        """The error of a source whose version tag is another now."""
        return cls(
            f"the source was replaced during the run (version {listed} became {now}); run again to take "
            "the new one"
        )


@dataclass
class Inputs:
    """What was found.

    Attributes:
        entries: inputs, sorted by key.
        missing: inputs that cannot be had whole, with the reason: keys of the list, rasters with a mask beside them, names
            that no output can have.
        ignored: objects of the source that are not inputs: hidden, outside the pattern, sidecars of others, outputs, or
            folders with the ending of an image.
        beside: of inputs that have some, the keys of their sidecars (``imaging.sidecars``).
        covers: whether a key, were it in the source, would be an input.
    """

    entries: list[Entry] = field(default_factory=list)
    missing: dict[str, RayscaleError] = field(default_factory=dict)
    ignored: int = 0
    beside: dict[str, tuple[str, ...]] = field(default_factory=dict)
    covers: Callable[[str], bool] = lambda _: True

    def admit(self, entry: Entry, beside: tuple[str, ...]) -> None:
        """Take an input with its sidecars; one with a mask among them cannot be had whole."""
        from rayscale.imaging.sidecars import MASK, masked_apart

        if entry.key + MASK in beside:
            self.missing[entry.key] = masked_apart(PurePosixPath(entry.key).name)
            return
        if entry.key.startswith("/") or entry.key.endswith("/"):
            self.missing[entry.key] = ConfigError(
                f"the key {entry.key!r} begins or ends with a slash, which a folder cannot hold; copy the object to another key"
            )
            return
        self.entries.append(entry)
        if beside:
            self.beside[entry.key] = beside


def split_pattern(source: str | Path) -> tuple[str, str | None]:
    """The root of a source and its pattern; None for a source without wildcards.

    >>> split_pattern("s3://bucket/2024/**/*.tif")
    ('s3://bucket/2024', '**/*.tif')
    """
    text = str(source)
    scheme, rest = ("s3://", text[len("s3://") :]) if text.startswith("s3://") else ("", text)
    parts = rest.split("/")
    wild = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    if wild == len(parts) or (not scheme and Path(text).exists()):  # a folder of that very name
        return text, None
    if wild == 0 and scheme:
        raise ConfigError(f"{text} has a wildcard in the name of the bucket; patterns are for keys")
    root = "/".join(parts[:wild])
    return scheme + (root or ("/" if parts[0] == "" else ".")), "/".join(parts[wild:])


def find_object(source: str) -> tuple[str, str] | None:
    """The root and the key of a source that is one object or file, and no prefix or folder; else None."""
    root, slash, name = source.rpartition("/")
    root = root or slash or "."
    if not name or root == "s3:/":
        return None
    try:
        return (root, name) if connect(root).exists(name) else None
    except RayscaleError:  # the listing says what is wrong
        return None


def matcher(pattern: str) -> re.Pattern[str]:
    """The pattern as an expression for whole keys."""
    out = ""
    parts = pattern.split("/")
    for number, part in enumerate(parts, 1):
        last = number == len(parts)
        if part == "**":
            out += "[^/].*" if last else "(?:[^/]+/)*"
        else:
            out += _part(part) + ("" if last else "/")
    return re.compile(out, re.DOTALL)


def _part(text: str) -> str:
    """The expression of one part of a pattern."""
    out, at = "", 0
    while at < len(text):
        sign = text[at]
        end = text.find("]", at + 2 + (text[at + 1 : at + 2] == "!")) if sign == "[" else -1
        if end > 0:
            inner = text[at + 1 : end]
            negated = inner.startswith("!")
            chars = re.sub(r"([\\\[\]^&~|])", r"\\\1", inner[negated:])
            out += f"(?!/)[{'^' * negated}{chars}]"
            at = end
        else:
            out += {"*": "[^/]*", "?": "[^/]"}.get(sign, re.escape(sign))
        at += 1
    return out


def read_keys(uri: str | Path) -> list[str]:
    """The keys of a list, each once, in its order.

    ``.parquet`` has them in a column ``key``; ``.jsonl`` and ``.ndjson`` in the field ``key`` of each line (such as the
    failure list of an earlier run); any other file is text with one key per line. Raises InputError for a list that
    cannot be read, NotFoundError for none.
    """
    parent, name = split(uri)
    data = connect(parent).read(name)
    try:
        if name.lower().endswith(".parquet"):
            import pyarrow.parquet

            keys = pyarrow.parquet.read_table(io.BytesIO(data), columns=["key"])["key"].to_pylist()
        else:
            lines = [line.removesuffix("\r") for line in data.decode("utf-8-sig").split("\n")]
            lines = [line for line in lines if line]
            if name.lower().endswith(_JSON_LINES):
                keys = [json.loads(line)["key"] for line in lines]
            else:
                keys = lines
        if not all(isinstance(key, str) for key in keys):
            raise TypeError("a key is not text")
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's errors are ValueErrors
        short = str(error).partition("\n")[0][:200]
        raise InputError(
            f"{uri} is not a list of keys ({type(error).__name__}: {short}); expected a column 'key' in .parquet, an object "
            "with 'key' per line in .jsonl, or text with one key per line"
        ) from error
    if not keys:
        raise NotFoundError(f"{uri} lists no keys")
    return list(dict.fromkeys(keys))


def find_inputs(
    source: Store, target: Store, *, pattern: str | None = None, keys: Iterable[str] | None = None
) -> Inputs:
    """The inputs in ``source``, without the outputs of this and any other batch that lie in it.

    Hidden objects (``rayscale.storage.is_hidden``) are inputs only when ``keys`` names them. Outputs are what
    lies below ``target`` and beside any state of a batch (``_rayscale/``).
    """
    from rayscale.imaging import ending_of
    from rayscale.imaging.sidecars import is_sidecar, names_beside

    inside = inner_prefix(source, target)
    if keys is not None:
        return _look_up(source, inside, keys)
    expression = matcher(pattern) if pattern else None
    fixed = re.split(r"[*?\[]", pattern)[0] if pattern else ""
    listing = list(source.list(fixed, folders=True))
    there = {entry.key for entry in listing}
    made = {place for entry in listing if (place := _state_beside(entry.key))}
    if inside:
        made.add(inside)
    found = Inputs()
    if expression:
        found.covers = lambda key: expression.fullmatch(key) is not None
    for entry in listing:
        if (
            entry.key.endswith("/") and not entry.size
        ):  # a folder, by the ending perhaps taken for an image
            found.ignored += bool(ending_of(entry.key.rstrip("/")))
            continue
        own = entry.key.startswith(OWN) or any(
            entry.key[: at + 1] in made for at, sign in enumerate(entry.key) if sign == "/"
        )
        if (
            own
            or is_hidden(entry.key)
            or is_sidecar(entry.key, there.__contains__)
            or (expression and not expression.fullmatch(entry.key))
        ):
            found.ignored += 1
        else:
            found.admit(entry, names_beside(entry.key, there.__contains__))
    return found


def inner_prefix(source: Store, target: Store) -> str:
    """What the keys of a target inside the source begin with, a slash at the end; "" for one that is not.

    Raises ConfigError where outputs would take the place of inputs: a target that is the source or holds it.
    """
    outer, inner = _place(source) + "/", _place(target) + "/"
    if inner == outer or outer.startswith(inner):
        raise ConfigError(
            f"source {source.uri} and target {target.uri} overlap: outputs would take the names of inputs; choose a "
            f"target beside the source or inside it, such as {source.uri.rstrip('/')}/upscaled"
        )
    return inner[len(outer) :] if inner.startswith(outer) else ""


def _look_up(source: Store, inside: str, keys: Iterable[str]) -> Inputs:
    wanted = list(keys)
    found = Inputs(covers=set(wanted).__contains__)

    def stat(key: str) -> tuple[Entry, tuple[str, ...]] | RayscaleError:
        if key.startswith(OWN) or (inside and key.startswith(inside)):
            return ConfigError(f"{source.locate(key)} is in the target of this batch, and no input")
        try:
            return source.stat(key), _beside(source, key)
        except (NotFoundError, ConfigError) as error:
            return error

    with ThreadPoolExecutor(_LOOKUPS) as pool:
        for key, answer in zip(wanted, pool.map(stat, wanted), strict=True):
            if isinstance(answer, RayscaleError):
                found.missing[key] = answer
                continue
            found.admit(*answer)
    found.entries.sort()
    return found


def _beside(source: Store, key: str) -> tuple[str, ...]:
    """The sidecars of one raster, by a listing of what is named as it is up to a dot or an underscore."""
    from rayscale.imaging.sidecars import is_raster, names_beside

    if not is_raster(key):
        return ()
    stem = key[: key.rindex(".")]
    there = {entry.key for sign in "._" for entry in source.list(stem + sign)}
    return names_beside(key, there.__contains__)


def _state_beside(key: str) -> str:
    """``a/`` of ``a/_rayscale/manifest/1``: a target; "" for a key that is not a state of a batch."""
    place, state, _ = key.partition(f"/{OWN}")
    return f"{place}/" if state else ""


def _place(store: Store) -> str:
    if store.uri.startswith("s3://"):
        return store.uri.rstrip("/")
    return str(Path(store.uri).resolve()).rstrip("/")
