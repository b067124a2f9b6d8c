"""Faults of a lab in an order drawn from a shuffled deck; what failed is well again some seconds later."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil
from infra.lab.hosts import Lab
from infra.lab.namespaces import LabError

_SHORTEST_S, _LONGEST_S = 3.0, 20.0  # that something stays broken
_NOTICE_S = 30.0


@dataclass
class Outage:
    """From when to when a host had no power, by ``time.monotonic``."""

    host: str
    begun: float
    ended: float = math.inf


class Faults:
    """Nothing of the ``deck`` fails again before all else has, unless it cannot.

    The first word of a kind is a method here or of a derived class, which gets the others: "s3 gone" is ``_s3("gone")``.
    It says whether there was anything to fail.
    """

    gone_s = _LONGEST_S  # S3, at most

    def __init__(
        self, lab: Lab, deck: Sequence[str], hosts: Sequence[str], rng: random.Random
    ) -> None:
        self.lab, self.rng = lab, rng
        self.made: Counter[str] = Counter()
        self.outages: list[Outage] = []
        self._all, self._hosts = deck, hosts
        self._deck: list[str] = []
        self._mending: list[tuple[float, Callable[[], object]]] = []

    def make(self) -> str:
        """One fault; "" when there is nothing to fail."""
        self._deck = self._deck or self.rng.sample(self._all, len(self._all))
        for kind in self._deck:
            if getattr(self, f"_{kind.split()[0]}")(*kind.split()[1:]):
                self._deck.remove(kind)
                self.made[kind] += 1
                return kind
        return ""

    def mend(self, *, all_: bool = False) -> None:
        """Whatever is due."""
        while due := [each for each in self._mending if all_ or each[0] <= time.monotonic()]:
            self._mending = [each for each in self._mending if each not in due]
            for _, restore in due:
                restore()

    def later(self, restore: Callable[[], object], longest_s: float = _LONGEST_S) -> None:
        """Do it after a random time."""
        after = self.rng.uniform(_SHORTEST_S, longest_s)
        self._mending.append((time.monotonic() + after, restore))

    def kill_one(self, processes: Sequence[psutil.Process]) -> bool:
        """SIGKILL for one of them."""
        if not processes:
            return False
        with suppress(psutil.NoSuchProcess):
            self.rng.choice(processes).kill()
            return True
        return False

    def _host(self) -> bool:
        """It loses its power."""
        name = self.rng.choice(self._hosts)
        if name not in self.lab.hosts:
            return False
        self._pull(name)
        return True

    def _notice(self) -> bool:
        """It is told to go, and goes, whatever is still on it then."""
        name = self.rng.choice(self._hosts)
        if name not in self.lab.hosts:
            return False
        host = self.lab.hosts[name]
        try:
            self.lab.notice(name, _NOTICE_S)
        except LabError:  # Ray has not yet seen it
            return False

        def go() -> None:
            if self.lab.hosts.get(name) is host:  # and was not pulled meanwhile
                self._pull(name)

        self._mending.append((time.monotonic() + _NOTICE_S, go))
        return True

    def _pull(self, name: str) -> None:
        outage = Outage(name, time.monotonic())
        self.outages.append(outage)
        self.lab.pull(name)

        def join() -> None:
            self.lab.join(name, wait=False)
            outage.ended = time.monotonic()

        self.later(join)

    def _s3(self, mode: str) -> bool:
        self.lab.break_store("s3", mode)
        longest_s = self.gone_s if mode == "gone" else _LONGEST_S
        self.later(lambda: self.lab.break_store("s3", ""), longest_s)
        return True

    def _mlflow(self, mode: str) -> bool:
        self.lab.break_store("mlflow", mode)
        self.later(lambda: self.lab.break_store("mlflow", ""))
        return True


def kill_driver(process: subprocess.Popen[bytes]) -> bool:
    """SIGKILL for a command that ``Lab.start`` started, and all of it; False when it had ended."""
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True
