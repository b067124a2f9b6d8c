"""``rayscale keys``: make and withdraw the API keys of a service. The file holds hashes; a key is shown once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from rayscale.cli.console import emit, note
from rayscale.errors import ConfigError, NotFoundError
from rayscale.serving.keys import Key, hash_key, make_key, read_keys, render_keys

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name in logs and metrics.")]
FileOption = Annotated[
    Path,
    typer.Option(
        envvar="RAYSCALE_SERVE_KEYS_FILE", help="File of the hashes, for RAYSCALE_SERVE_KEYS_FILE."
    ),
]
_FILE = Path("rayscale-keys.json")


def add(
    name: NameArgument,
    file: FileOption = _FILE,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="Pattern of the models it may use, such as 'edsr*'. Default: all."
        ),
    ] = None,
    prefix: Annotated[
        list[str] | None,
        typer.Option(
            help="s3://bucket/prefix that its batches may use. Default: those of the service."
        ),
    ] = None,
    requests_per_minute: Annotated[
        float | None, typer.Option(metavar="N", help="Most requests in a minute.")
    ] = None,
    megapixels_per_minute: Annotated[
        float | None, typer.Option(metavar="N", help="Most megapixels of sources in a minute.")
    ] = None,
    priority: Annotated[
        float, typer.Option(help="Share of a busy service, relative to other keys.")
    ] = 1.0,
) -> None:
    """Make an API key: it is printed once, and its hash goes to the file.

    rayscale keys add radiology --model 'edsr*' --requests-per-minute 600

    RAYSCALE_SERVE_KEYS_FILE=rayscale-keys.json rayscale serve

    Several keys live side by side: to replace one, add another, and remove the old one when nobody uses it any longer. Deploy
    again to bring the file to a running service.
    """
    text = make_key()
    made = Key(
        name, hash_key(text), tuple(model or ()), tuple(prefix or ()),
        requests_per_minute, megapixels_per_minute, priority,
    )  # fmt: skip
    kept = read_keys(file) if file.exists() else ()
    if any(key.id == name for key in kept):
        raise ConfigError(f"{file} has a key {name} already; remove it first, or take another name")
    _write(file, [*kept, made])
    note(f"its hash is in {file}; the key itself is shown here only:")
    print(text)


def list_keys(file: FileOption = _FILE) -> None:
    """Show the keys of a file with their limits, as JSON, without the hashes."""
    shown = [key.to_dict() for key in read_keys(file)]
    emit([{k: v for k, v in values.items() if k != "sha256"} for values in shown])


def remove(name: NameArgument, file: FileOption = _FILE) -> None:
    """Withdraw a key. Deploy again to bring the file to a running service."""
    keys = read_keys(file)
    kept = [key for key in keys if key.id != name]
    if len(kept) == len(keys):
        raise NotFoundError(f"{file} has no key {name}")
    if not kept:
        raise ConfigError(
            f"{name} is the last key of {file}, and a service without keys is open to everyone; add another first, or "
            "delete the file"
        )
    _write(file, kept)


def _write(file: Path, keys: Iterable[Key]) -> None:
    lines = ",\n ".join(render_keys([key])[1:-1] for key in keys)
    temporary = file.with_name(f".{file.name}.new")
    temporary.touch(mode=0o600)
    temporary.write_text(f"[{lines}]\n", encoding="utf-8")
    os.replace(temporary, file)
