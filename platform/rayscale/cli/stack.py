"""Commands for this machine: the local stack, the demo, the settings."""

from __future__ import annotations

from typing import Annotated

import typer

from rayscale.cli.console import emit, hint, note
from rayscale.cli.options import JsonOption


def up(
    monitoring: Annotated[
        bool,
        typer.Option(
            "--monitoring",
            help="Start Prometheus too, which `rayscale top` asks; needs that program.",
        ),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Start the local stack: S3 server, MLflow and Ray, on loopback; it stays until `rayscale down`.

    Point a shell at it with the `source` line that is printed at the end.
    """
    from dataclasses import asdict

    from rayscale import local
    from rayscale.settings import get_settings

    home = get_settings().home
    with hint("what this command started is stopped; run it again to start it"):
        services = (*local.SERVICES, local.MONITORING) if monitoring else local.SERVICES
        addresses = local.up(home, services, progress=note)
    if json_:
        emit(asdict(addresses))
        return
    _print_addresses(asdict(addresses))
    print(f"\nPoint this shell at it:   source {home / 'stack.env'}")


def down() -> None:
    """Stop the local stack; data, models and keys stay."""
    from rayscale import local
    from rayscale.settings import get_settings

    with hint("run the same command again"):
        local.down(get_settings().home)
    note("the local stack is down; its data stays for the next `rayscale up`")


def status(json_: JsonOption = False) -> None:
    """Show which parts of the local stack run, and where. Exit code 1 when a part is missing, or none was ever started."""
    from dataclasses import asdict

    from rayscale import local
    from rayscale.settings import get_settings

    services = local.status(get_settings().home)
    if json_:
        emit([asdict(service) for service in services])
    else:
        for service in services:
            state = f"running at {service.address}" if service.running else "not running"
            print(f"{service.name:10} {state}")
    if not services:
        note(f"there is no local stack in {get_settings().home}; `rayscale up` starts one")
    if not services or not all(service.running for service in services):
        raise typer.Exit(1)


def settings(json_: JsonOption = False) -> None:
    """Show every limit and place, its unit, and the variable that sets it."""
    from rayscale.serving.settings import get_serve_settings
    from rayscale.settings import get_settings

    parts = {"": get_settings(), "serve_": get_serve_settings()}
    if json_:
        emit(
            {p + k: v for p, part in parts.items() for k, v in part.model_dump(mode="json").items()}
        )
        return
    for prefix, part in parts.items():
        for name, field in type(part).model_fields.items():
            variable = f"RAYSCALE_{prefix}{name}".upper()
            value = getattr(part, name)
            line = f"# {variable}=" if value is None else f"{variable}={value}"
            print(f"{line}   # {field.description}")


def demo(
    steps: Annotated[int, typer.Option(min=1, help="Training steps; more is better.")] = 600,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the stack running afterwards.")
    ] = False,
) -> None:
    """Run the whole product once: bucket, shards, training, registry, batch, HTTP. A few minutes."""
    from rayscale.cli.demo import run

    with hint("the demo starts afresh when it is run again"):
        run(steps=steps, keep=keep)


def _print_addresses(addresses: dict[str, object]) -> None:
    for name, value in addresses.items():
        if "key" not in name and value:
            print(f"{name:10} {value}")
