"""How commands end: their exit codes, and what Ctrl-C, SIGTERM and SIGHUP do.

The first signal ends the work in order: what is done is kept. The next one ends the process, and those it has
started, at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import psutil

from rayscale.errors import ConfigError, RayscaleError

T = TypeVar("T")

COMPLETE, FAILED, USAGE, PARTIAL = 0, 1, 2, 3
"""Exit codes; after a signal it is 128 and the signal's number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""

_POLL_S = 0.2

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal has ended the work; the text, if any, says what was kept and how to go on.

    A ``KeyboardInterrupt``, so that whatever cleans up after Ctrl-C does so after SIGTERM too.
    """

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(text)
        self.number = number

    @property
    def code(self) -> int:
        """The exit code."""
        return 128 + self.number


@dataclass
class _State:
    """Of the process, as signals are: the first one that came, and how many ``watch`` are open."""

    first: int | None = None
    depth: int = 0


_state = _State()


@contextmanager
def watch(*, deferred: bool = False) -> Iterator[Callable[[], int | None]]:
    """Until the end of the block, let the first signal raise ``Interrupted``; the next one ends the process at once.

    Gives a function that returns the number of the signal that came, or None. With ``deferred`` it is for the block to
    ask; nothing is raised before its end. Blocks nest. Outside the main thread, where Python takes no handlers, and for
    signals that are ignored (``nohup``), nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if _state.first is not None:
            _end(128 + _state.first)
        _state.first = number
        if not deferred:
            raise Interrupted(number)

    if _state.depth == 0:
        _state.first = None
    _state.depth += 1
    try:
        with _handle(handle):
            yield lambda: _state.first
    except (Interrupted, SystemExit):
        raise
    except BaseException as error:
        # What comes after a signal comes of it; Ray makes a plain KeyboardInterrupt of any.
        if _state.first is None and not isinstance(error, KeyboardInterrupt):
            raise
        raise Interrupted(_state.first or signal.SIGINT) from error
    finally:
        _state.depth -= 1
    if _state.first is not None:
        raise Interrupted(_state.first)


@contextmanager
def shield() -> Iterator[None]:
    """Ignore signals in the block: for cleaning up that takes seconds and would leave processes if it were cut short."""
    with _handle(signal.SIG_IGN):
        yield


def attend(work: Callable[[], T], stop: Callable[[int], None]) -> T:
    """The result of ``work``, which runs in a thread; at the first signal ``stop`` is called here with its number.

    ``work`` is then expected to end by itself, and ``Interrupted`` is raised after it; ``stop`` may raise it before. For
    libraries that would take the signals of the main thread for themselves. Outside the main thread it is just called.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    future: Future[T] = Future()

    def complete() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    with watch(deferred=True) as asked:
        threading.Thread(target=complete, name="work", daemon=True).start()
        told = False
        while not future.done():
            wait([future], timeout=_POLL_S)
            number = asked()
            if number is not None and not told:
                told = True
                stop(number)
        return future.result()


@contextmanager
def keep_signal_stack() -> Iterator[None]:
    """After the block, handlers of this thread run on the stack on which they ran before.

    OpenVINO gives the thread that compiles a network a stack for signals that ends with the network. Of two, the one that ends
    last restores that of the other, which is gone: the next signal, such as Ctrl-C, would be a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    library = ctypes.CDLL(None)
    before = _SignalStack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def run(work: Callable[[], int], hint: str = "") -> int:
    """The exit code of ``work``; what stops it is told on standard error, a signal with what was kept or with ``hint``.

    After a signal the process is expected to end: the next one ends it at once, whatever it still cleans up.
    """
    try:
        with watch():
            return work()
    except RayscaleError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return USAGE if isinstance(error, ConfigError) else FAILED
    except Interrupted as error:
        if _state.first is not None:
            for number in _heard():
                signal.signal(number, lambda *_, code=error.code: _end(code))
        text = str(error) or hint
        print("interrupted" + (f": {text}" if text else ""), file=sys.stderr, flush=True)
        return error.code


def _end(code: int) -> None:
    """End at once with all that was started here: of an embedded Ray, agents would stay for a minute."""
    with suppress(psutil.Error):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                process.kill()
    os._exit(code)


def _heard() -> list[int]:
    """The signals that are not ignored, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def _handle(handler: Any) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _heard()}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
