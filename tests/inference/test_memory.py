"""What a picture costs in memory: its pixels, not floats of all of them; and parts equal to the whole."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from rayscale.errors import TooLargeError
from rayscale.imaging import Header, Image, probe, write_image
from rayscale.inference import Upscaler, frames
from rayscale.inference.memory import Budget, budget, check_memory, memory_limit, working_bytes
from rayscale.models.network import SuperResolver
from rayscale.models.systems import create_model
from rayscale.options import Options
from rayscale.settings import MIB, get_settings

STATUS = Path("/proc/self/status")


def _resident(kind: str) -> int:
    (line,) = (text for text in STATUS.read_text().splitlines() if text.startswith(kind))
    return int(line.split()[1]) << 10


def _peak_growth(action) -> int:
    """Bytes by which the resident memory of this process grew at most while ``action`` ran."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the kernel keeps no peak of memory that can be reset")
    before = _resident("VmRSS")
    action()
    return _resident("VmHWM") - before


class Repeated(SuperResolver):
    """Repeats pixels: a network that costs nothing, so that what is measured is what surrounds it."""

    any_channels = True
    keeps_means = True

    def enlarge(self, x, scale):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def halo(self, scale):
        return 1


def test_only_strips_of_a_large_picture_are_floats():
    image = Image(
        np.full((1500, 2000, 3), 90, np.uint8), "png", alpha=np.full((1500, 2000), 9, np.uint8)
    )
    engine = Upscaler(Repeated(create_model("bicubic").spec), Options(scale=2, precision="float32"))
    engine.upscale(Image(image.pixels[:200, :200], "png"))  # what is loaded at the first use
    made: list[Image] = []
    growth = _peak_growth(lambda: made.append(engine.upscale(image)))
    written = made[0].pixels.nbytes + made[0].alpha.nbytes
    assert np.all(made[0].pixels == 90)
    assert growth < 2 * written + (32 << 20)  # as float32 alone the output is four times its bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"ensemble": True}, {"consistency": True}, {"uncertainty": True, "consistency": True}],
)
@pytest.mark.parametrize("scale", [2, 2.5])
def test_windows_of_a_picture_equal_the_whole(monkeypatch, options, scale):
    pixels = np.random.default_rng(0).integers(0, 65536, (170, 240, 3), np.uint16)
    image = Image(pixels, "tiff", encoding={"lossless": True})
    engine = Upscaler(create_model("bicubic"), Options(scale=scale, precision="float32", **options))
    whole = engine.run(image)
    monkeypatch.setattr(frames, "WINDOW_BYTES", 2 * 4 * 3 * int(64 * scale) ** 2)
    assert len(engine.frames.windows((170, 240), 3)) > 4
    parts = engine.run(image)
    np.testing.assert_array_equal(parts.image.pixels, whole.image.pixels)
    if whole.residual is not None and parts.residual is not None:
        assert parts.residual.maximum == whole.residual.maximum
        assert parts.residual.values == whole.residual.values
    if whole.uncertainty is not None and parts.uncertainty is not None:
        np.testing.assert_allclose(
            parts.uncertainty.pixels, whole.uncertainty.pixels, rtol=0, atol=0.01
        )


def test_the_estimate_is_above_what_a_noisy_picture_takes():
    """Of one path; benchmarks/request_memory.py measures them all."""
    values = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    image = Image(values, "png")
    engine = Upscaler(Repeated(create_model("bicubic").spec), Options(scale=2, precision="float32"))
    write_image(engine.upscale(Image(values[:64, :64], "png")))
    growth = _peak_growth(lambda: write_image(engine.upscale(image)))
    assert growth < working_bytes(probe(write_image(image)), 2)


def test_what_is_over_the_budget_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setenv("RAYSCALE_MEMORY_BYTES", str(400 * MIB))
    get_settings.cache_clear()
    check_memory(Header("png", 500, 500, 3, 8), 2)
    with pytest.raises(TooLargeError, match=r"about \d{3} MiB .* over the 400 MiB .*MEMORY_BYTES"):
        check_memory(Header("png", 4000, 4000, 3, 8), 2)
    get_settings.cache_clear()


def test_ensembles_count_their_windows():
    header = Header("png", 4000, 4000, 3, 8)
    assert working_bytes(header, 2, windowed=True) > working_bytes(header, 2) + (400 << 20)


def test_the_least_limit_of_the_container_counts(tmp_path):
    machine = memory_limit(tmp_path / "none", tmp_path / "none")
    assert machine > 100 * MIB
    (tmp_path / "pod" / "box").mkdir(parents=True)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "pod" / "memory.max").write_text(f"{50 * MIB}\n")
    (tmp_path / "pod" / "box" / "memory.max").write_text("max\n")
    own = tmp_path / "own"
    own.write_text("0::/pod/box\n")
    assert memory_limit(tmp_path, own) == 50 * MIB


def test_the_older_control_groups_count_too(tmp_path):
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{60 * MIB}\n")
    own = tmp_path / "own"
    own.write_text("5:cpu,cpuacct:/x\n4:memory:/docker/abc\n")
    assert memory_limit(tmp_path, own) == 60 * MIB
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    own.write_text("4:memory:/docker/abcd\n")
    memory_limit.cache_clear()
    assert memory_limit(tmp_path, own) == memory_limit(tmp_path / "none", own)


def test_pictures_share_the_budget_first_come_first_served():
    shared, order = Budget(100), []
    inside = threading.Event()

    def hold(name: str, size: int) -> None:
        with shared.reserve(size):
            order.append((name, shared.held))

    with shared.reserve(70):
        threads = [threading.Thread(target=hold, args=("large", 90), daemon=True)]
        threads[0].start()
        while not shared._waiting:
            inside.wait(0.01)
        threads.append(threading.Thread(target=hold, args=("small", 20), daemon=True))
        threads[1].start()
        inside.wait(0.3)
        assert order == []  # the small one would fit, but must not starve the large one
    for thread in threads:
        thread.join(10)
    assert [name for name, _ in order] == ["large", "small"]
    assert all(held <= 100 for _, held in order)
    assert shared.held == 0


def test_who_waits_for_memory_can_be_given_up():
    shared = Budget(100)

    def give_up() -> None:
        raise KeyError

    with shared.reserve(100), pytest.raises(KeyError), shared.reserve(1, watch=give_up):
        pass
    with shared.reserve(1000):  # more than all: alone
        assert shared.held == 1000
    assert (shared.held, shared._waiting) == (0, [])


def test_the_budget_is_a_share_of_the_machine():
    assert 0 < budget() < memory_limit()


def test_a_quota_of_cpus_means_fewer_processes_that_share_the_memory(monkeypatch):
    monkeypatch.setattr("rayscale.machine.cpu_count", lambda: 1)
    whole = budget()
    monkeypatch.setattr("rayscale.machine.cpu_count", lambda: 4)
    assert budget() == pytest.approx(whole / 4, abs=4)
