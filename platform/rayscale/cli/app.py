"""The application: its commands in the order a newcomer meets them, and the one place where errors end."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rayscale import __version__, interruption
from rayscale.cli import (
    adapt,
    batch,
    compare,
    export,
    images,
    info,
    keys,
    operations,
    pipeline,
    prepare,
    remote,
    stack,
    sweep,
    train,
)
from rayscale.cli.options import TakesSeveral, speak_plainly
from rayscale.interruption import COMPLETE


class Commands(TyperGroup):
    """Whatever a command raises for the user ends here, before Typer sees it, in one line and an exit code."""

    def resolve_command(self, context: Any, args: list[str]) -> Any:
        """Two words are a command where there is one of that name: ``rayscale keys add``."""
        both = " ".join(args[:2])
        if both in self.commands:
            args = [both, *args[2:]]
        return super().resolve_command(context, args)

    def invoke(self, context: Any) -> Any:
        def work() -> int:
            super(Commands, self).invoke(context)
            return COMPLETE

        raise typer.Exit(interruption.run(work))


app = typer.Typer(
    name="rayscale",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distributed super-resolution: train, register, upscale and serve EDSR, MDSR and their kin on Ray.\n\n"
    "Try it:  rayscale demo      Upscale:  rayscale upscale in.png out.png",
)


def show_version(asked: bool) -> None:
    """Print the version and end, where it is asked for."""
    if asked:
        print(f"rayscale {__version__}")
        raise typer.Exit()


@app.callback()
def begin(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Nothing: the options above are all there is before a command."""


NAMES = {
    keys.add: "keys add",
    keys.list_keys: "keys list",
    keys.remove: "keys remove",
    remote.submit: "batch submit",
    remote.status: "batch status",
    remote.cancel: "batch cancel",
    remote.retry: "batch retry",
}
"""Of commands of two words; all others are called as their functions."""

for group, commands in (
    (
        "Images",
        (
            images.upscale,
            batch.batch,
            info.info,
            images.degrade,
            images.evaluate,
            compare.compare,
            images.models,
        ),
    ),
    (
        "From data to a model",
        (prepare.prepare, train.train, sweep.sweep, adapt.adapt, pipeline.register, export.export),
    ),
    (
        "Serving",
        (
            pipeline.serve,
            keys.add,
            keys.list_keys,
            keys.remove,
            remote.submit,
            remote.status,
            remote.cancel,
            remote.retry,
        ),
    ),
    ("Operations", (operations.doctor, operations.top, operations.logs, operations.gc)),
    ("This machine", (stack.demo, stack.up, stack.down, stack.status, stack.settings)),
):
    for command in commands:
        kind = {prepare.prepare: TakesSeveral, train.train: train.NamesSystems}.get(command)
        app.command(NAMES.get(command), rich_help_panel=group, cls=kind)(speak_plainly(command))


def main() -> None:
    """Run the command of ``sys.argv``, and exit with its code."""
    app()


def run(*words: str) -> int:
    """Run one command; its exit code."""
    try:
        app(list(words), prog_name="rayscale")
    except SystemExit as ended:
        return int(ended.code or 0)
    return COMPLETE
