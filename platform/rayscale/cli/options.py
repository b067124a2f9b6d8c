"""The options of an upscale as options of a command, from their one description in ``rayscale.options``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from rayscale.fields import Choice, choices_of
from rayscale.options import Handling, Options

WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="Weights file: rayscale's safetensors, .pt of EDSR-PyTorch, BasicSR, super-image, or an export (.onnx, .xml).",
        exists=True,
        dir_okay=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON only.")]
ClusterDeviceOption = Annotated[str, typer.Option(help="auto (GPUs if any), cpu, cuda.")]
OverridesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one key of the configuration, such as optimizer.lr=2e-4; repeatable.",
    ),
]
ProtocolOption = Annotated[
    str, typer.Option(help="edsr-paper-y, rgb or div2k-rgb: what the figures mean.")
]
SuiteOption = Annotated[
    str | None,
    typer.Option(help="satellite or medical: measure more: cPSNR, SAM, ERGAS, NRMSE, ..."),
]
DegradationOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="Make LR of HR by bicubic, mtf:sensor=sentinel-2, kspace, blur_noise_jpeg, ... Default: the LR images.",
    ),
]


def takes_options(
    owner: type[Handling] = Options, *, leave_out: tuple[str, ...] = (), **defaults: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a command of a function whose parameter ``options`` is an ``owner``: one option for each of its choices.

    Args:
        leave_out: choices that the command does not offer.
        defaults: of the command, where they are not those of the choice.
    """
    offered = [each for each in choices_of(owner) if each.name not in leave_out]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(**arguments: Any) -> Any:
            texts = {each.name: arguments.pop(each.name) for each in offered}
            return command(**arguments, options=owner.parse(**texts))

        signature = inspect.signature(command, eval_str=True)
        parameters = [each for each in signature.parameters.values() if each.name != "options"]
        first = [each for each in parameters if each.default is inspect.Parameter.empty]
        rest = parameters[len(first) :]
        parameters = first + [_parameter(each, defaults) for each in offered] + rest
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        del run.__wrapped__  # whose signature would rule
        return run

    return decorate


def _parameter(choice: Choice, defaults: dict[str, Any]) -> inspect.Parameter:
    default = defaults.get(choice.name, choice.default)
    names = [f"--{choice.name.replace('_', '-')}"] + [f"-{choice.letter}"] * bool(choice.letter)
    kind: Any = str if choice.read is not None else choice.kind
    option = typer.Option(
        *names,
        help=f"{choice.help} {choice.range.capitalize()}." if choice.range else choice.help,
        metavar=choice.metavar or "|".join(choice.choices) or None,
        parser=None if kind is bool else _as_it_is,  # the one check is that of the choice
        show_default=default is not None and kind is not bool,
    )
    return inspect.Parameter(
        choice.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind if default is not None else kind | None, option],
    )


def _as_it_is(text: Any) -> Any:
    return text


def speak_plainly(command: Callable[..., Any]) -> Callable[..., Any]:
    """Make the numbers of a command refuse what they cannot be as all options do: with value and limit."""
    signature = inspect.signature(command, eval_str=True)
    for parameter in signature.parameters.values():
        kind = next((each for each in _parts(parameter.annotation) if each in (int, float)), None)
        for info in getattr(parameter.annotation, "__metadata__", ()):
            if kind is not None and info.parser is None:
                number = Choice(parameter.name, "", None, kind, minimum=info.min, maximum=info.max)
                info.parser = number.parse
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
    return command


def _parts(annotation: Any) -> Iterator[Any]:
    """A type, and those that it is made of: of ``Annotated[list[int] | None, ...]`` also ``int``."""
    yield annotation
    for inner in get_args(annotation):
        if isinstance(inner, type) or get_args(inner):
            yield from _parts(inner)


class TakesSeveral(TyperCommand):
    """A command whose repeatable options take several values at once as well: ``--scales 2 3 4``."""

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        """Read a command line, each such option repeated for each of its values."""
        several = {name for each in self.params if each.multiple for name in each.opts}
        spread: list[str] = []
        option = None
        for word in words:
            if word.startswith("-"):
                option = word if word in several else None
            elif option is not None and spread[-1] != option:
                spread.append(option)
            spread.append(word)
        return super().parse_args(context, spread)
