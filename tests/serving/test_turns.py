"""Who works next, strip by strip: real threads, a clock that only their work moves, one of them at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.serving.deployed import until

from rayscale.serving.turns import Turns


class Scene:
    """Images of some owners on one place; ``log`` has the owner of every strip, in order."""

    def __init__(self, watch: Callable[[], None] | None = None) -> None:
        self.now = 0.0
        self.turns = Turns(1, watch, clock=lambda: self.now)
        self.log: list[str] = []
        self.threads: list[threading.Thread] = []

    def start(
        self,
        owner: str,
        strips: int,
        *,
        weight: float = 1.0,
        seconds: float = 0.3,
        each: Callable[[int], None] = lambda strip: None,
    ) -> None:
        """Begin an image, and return when it waits for its turn, or has it where nobody else had."""

        def work() -> None:
            with self.turns.take(owner, weight) as pause:
                for strip in range(strips):
                    pause()
                    self.log.append(owner)
                    self.now += seconds
                    each(strip)

        idle, before = not self.threads, self.turns.waiting
        self.threads.append(threading.Thread(target=work, daemon=True))
        self.threads[-1].start()
        until(lambda: idle or self.turns.waiting > before, 20)

    def end(self) -> list[str]:
        for thread in self.threads:  # grows while they run
            thread.join(20)
            assert not thread.is_alive()
        return self.log


def test_a_short_image_overtakes_long_ones_of_another() -> None:
    scene = Scene()

    def arrive(strip: int) -> None:
        if strip == 0:
            scene.start("many", 3)
            scene.start("one", 2, seconds=0.1)

    scene.start("many", 3, each=arrive)
    assert scene.end() == ["many", "one", "one", *["many"] * 5]


def test_images_of_one_owner_come_one_after_the_other() -> None:
    """Slices would only make each of them later."""
    scene, ended = Scene(), []

    def arrive(strip: int) -> None:
        if strip == 0:
            scene.start("a", 3, each=lambda each: ended.append("second") if each == 2 else None)
        if strip == 2:
            ended.append("first")

    scene.start("a", 3, each=arrive)
    scene.end()
    assert ended == ["first", "second"]


def test_long_images_share_by_weight() -> None:
    scene = Scene()
    scene.start(
        "light",
        80,
        each=lambda strip: scene.start("heavy", 80, weight=3) if strip == 0 else None,
    )
    begun = scene.end()[:80]
    assert begun.count("heavy") == pytest.approx(3 * begun.count("light"), rel=0.15)


def test_who_comes_again_and_again_is_not_always_first() -> None:
    scene = Scene()

    def arrive(strip: int) -> None:
        if strip % 2 == 0 and not scene.turns.waiting:
            scene.start("often", 1)

    scene.start("long", 40, each=arrive)
    begun = scene.end()
    assert 10 <= begun.count("often") <= 21


def test_an_image_that_is_given_up_while_it_waits_takes_no_place() -> None:
    gone, raised = threading.Event(), threading.Event()

    class GivenUpError(Exception):
        pass

    def watch() -> None:
        if gone.is_set() and threading.current_thread().name == "gone":
            raised.set()
            raise GivenUpError

    scene = Scene(watch)

    def wait() -> None:
        with pytest.raises(GivenUpError), scene.turns.take("b"):
            pass

    def arrive(strip: int) -> None:
        if strip == 0:
            thread: Any = threading.Thread(target=wait, name="gone", daemon=True)
            scene.threads.append(thread)
            thread.start()
            until(lambda: scene.turns.waiting, 20)
            gone.set()
            raised.wait(20)
            thread.join(20)

    scene.start("a", 2, each=arrive)
    assert scene.end() == ["a", "a"]
    with scene.turns.take("c"):  # the place is free
        assert scene.turns.waiting == 0
