from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.data.rows import SMALL, Images, Noise, rows_of

from rayscale.data import Dataset, Manifest, PatchStream, PrepareConfig, plan, prepare
from rayscale.data.listing import Listing
from rayscale.data.shards import read_places
from rayscale.data.tasks import ShardRecord, ShardTask, write_shard
from rayscale.errors import InputError, NotFoundError, StorageError
from rayscale.resampling import degrade
from rayscale.storage import connect


def some(make_noise: Noise) -> dict[str, np.ndarray]:
    sizes = [(100, 61), (48, 48), (37, 90), (60, 60), (25, 30)]
    return {f"{n % 2}/image {n}.png": make_noise(*size, seed=n) for n, size in enumerate(sizes)}


def test_rows_are_the_degraded_whole_images(
    images: Images, make_noise: Noise, tmp_path: Path
) -> None:
    files = some(make_noise)
    manifest = prepare(images(files), tmp_path / "set", SMALL)
    assert manifest.counts.images == 5
    assert manifest.channels == 3
    assert manifest.bits == 8
    for scale in (2, 3, 4):
        dataset = Dataset(tmp_path / "set", scale)
        assert len(dataset) == manifest.counts.sub_images == len(dataset.sizes)
        row = 0
        for shard in manifest.shards:
            for key, place in read_places(tmp_path / "set" / shard.columns["1"].key):
                whole = files[key]
                hr = whole[: whole.shape[0] // 12 * 12, : whole.shape[1] // 12 * 12]
                lr = degrade(hr, scale)
                low, high = dataset.pair(row)
                np.testing.assert_array_equal(
                    high.transpose(1, 2, 0),
                    hr[place.y : place.y + place.height, place.x : place.x + place.width],
                )
                y, x = place.y // scale, place.x // scale
                np.testing.assert_array_equal(
                    low.transpose(1, 2, 0),
                    lr[y : y + place.height // scale, x : x + place.width // scale],
                )
                assert tuple(dataset.sizes[row]) == high.shape[1:]
                row += 1
        assert row == len(dataset)


@pytest.mark.parametrize("bits", [8, 16])
def test_mean_and_deviation_are_those_of_the_raw_images(
    images: Images, make_noise: Noise, make_file: Callable[..., bytes], tmp_path: Path, bits: int
) -> None:
    files = {
        f"{n}.{'png' if bits == 8 else 'tif'}": make_noise(48 + 24 * n, 60, 3, bits, seed=n)
        // (n + 1)
        for n in range(4)
    }
    folder = images({name: make_file(pixels) for name, pixels in files.items()})
    manifest = prepare(folder, tmp_path / "set", SMALL)
    assert manifest.bits == bits
    everything = np.concatenate([pixels.reshape(-1, 3) for pixels in files.values()])
    fractions = everything.astype(np.float64) / (255 if bits == 8 else 65535)
    np.testing.assert_allclose(manifest.mean, fractions.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(manifest.deviation, fractions.std(axis=0), rtol=1e-12)
    assert manifest.counts.pixels == len(everything)


def test_digest_is_of_the_content_only(images: Images, make_noise: Noise, tmp_path: Path) -> None:
    folder = images(some(make_noise))

    def backwards(
        function: Callable[[ShardTask], ShardRecord], tasks: Iterable[ShardTask]
    ) -> Iterator[ShardRecord]:
        return map(function, reversed(list(tasks)))

    one = prepare(folder, tmp_path / "one", SMALL)
    two = prepare(folder, tmp_path / "two", SMALL, run=backwards)
    folder.rename(tmp_path / "moved")
    three = prepare(tmp_path / "moved", tmp_path / "three", SMALL)
    assert one.digest == two.digest == three.digest
    assert Manifest.load(tmp_path / "two" / "manifest.json") == two
    (tmp_path / "moved" / "0" / "image 0.png").unlink()
    assert prepare(tmp_path / "moved", tmp_path / "four", SMALL).digest != one.digest


def test_a_killed_preparation_goes_on_to_the_same_dataset(
    images: Images, make_noise: Noise, tmp_path: Path
) -> None:
    folder = images(some(make_noise))
    whole = prepare(folder, tmp_path / "whole", SMALL)

    def killed_at(
        limit: int,
    ) -> Callable[[Callable[[ShardTask], ShardRecord], Iterable[ShardTask]], Iterator[ShardRecord]]:
        def run(
            function: Callable[[ShardTask], ShardRecord], tasks: Iterable[ShardTask]
        ) -> Iterator[ShardRecord]:
            for number, task in enumerate(tasks):
                if number == limit:
                    raise KeyboardInterrupt
                yield function(task)

        return run

    target = tmp_path / "target"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, target, SMALL, run=killed_at(1))
        with pytest.raises(NotFoundError, match="no dataset is complete"):
            Dataset(target, 2)
    # A shard that lost its record was not committed; one that lost a column is not whole.
    records = sorted((target / "shards").glob("*.json"))
    assert len(records) == 2
    records[0].unlink()
    next((target / "shards").glob("00001-*.x3.arrow")).unlink()
    made: list[str] = []

    def counting(
        function: Callable[[ShardTask], ShardRecord], tasks: Iterable[ShardTask]
    ) -> Iterator[ShardRecord]:
        for task in tasks:
            made.append(task.name[:5])
            yield function(task)

    assert prepare(folder, target, SMALL, run=counting).digest == whole.digest
    assert made == ["00000", "00001", "00002"]
    made.clear()
    steps: list[tuple[int, int]] = []
    again = prepare(
        folder, target, SMALL, run=counting, progress=lambda n, of: steps.append((n, of))
    )
    assert again.digest == whole.digest
    assert made == []
    assert steps == [(3, 3)]


def test_an_older_dataset_stays_whole_until_the_new_commit(
    images: Images, make_noise: Noise, tmp_path: Path
) -> None:
    folder = images(some(make_noise))
    old = prepare(folder, tmp_path / "set", SMALL)

    def killed(
        function: Callable[[ShardTask], ShardRecord], tasks: Iterable[ShardTask]
    ) -> Iterator[ShardRecord]:
        first, *_ = tasks
        yield function(first)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(folder, tmp_path / "set", SMALL.model_copy(update={"step": 48}), run=killed)
    dataset = Dataset(tmp_path / "set", 2)
    assert dataset.manifest.digest == old.digest
    assert len(dataset.pairs(range(len(dataset)))) == old.counts.sub_images


def test_what_cannot_be_used_is_listed(
    images: Images, make_noise: Noise, make_file: Callable[..., bytes], tmp_path: Path
) -> None:
    good = make_file(make_noise(60, 60))
    buffer = io.BytesIO()
    PIL.Image.fromarray(make_noise(300, 300)).save(buffer, "jpeg")
    files = {
        "a good.png": good,
        "cut.jpg": buffer.getvalue()[:2000],
        "empty.png": b"",
        "grey.png": make_noise(60, 60, 1),
        "deep.tif": make_file(make_noise(60, 60, 3, 16)),
        "text.png": b"this is no image",
        "notes.txt": b"ignored",
        "small.png": make_noise(30, 20),
        "val/held.png": make_noise(60, 60),
    }
    config = SMALL.model_copy(update={"exclude": ("val/*",)})
    manifest = prepare(images(files), tmp_path / "set", config)
    failures = {failure.key: failure for failure in manifest.failures}
    assert set(failures) == {"cut.jpg", "empty.png", "grey.png", "deep.tif", "text.png"}
    assert failures["grey.png"].error == "UnsupportedError"
    assert "1 channel of 8 bits" in failures["grey.png"].message
    assert "as 2 of the 4 images looked at" in failures["grey.png"].message
    assert "16 bits" in failures["deep.tif"].message
    assert [item.key for item in manifest.skipped] == ["small.png"]
    assert "minimum of 24" in manifest.skipped[0].message
    counts = manifest.counts
    assert (counts.images, counts.failed, counts.skipped, counts.ignored) == (1, 5, 1, 2)


def test_channels_can_be_chosen(images: Images, make_noise: Noise, tmp_path: Path) -> None:
    folder = images({"a.png": make_noise(60, 60), "b.png": make_noise(60, 60, 1)})
    config = SMALL.model_copy(update={"channels": 1})
    manifest = prepare(folder, tmp_path / "set", config)
    assert manifest.channels == 1
    assert [failure.key for failure in manifest.failures] == ["a.png"]
    assert len(manifest.mean) == 1


def test_broken_and_awkward_files_of_the_field(shared_data: Path, tmp_path: Path) -> None:
    """None may crash, and each is either in the dataset or listed with a reason."""
    manifest = prepare(
        shared_data / "bad", tmp_path / "set", PrepareConfig(channels=3, bits=8, minimum=24)
    )
    counts = manifest.counts
    total = counts.images + counts.failed + counts.skipped + counts.ignored
    assert total == sum(1 for path in (shared_data / "bad").rglob("*") if path.is_file())
    keys = {failure.key for failure in manifest.failures}
    assert {"broken.png", "zero_byte.png", "gray8.png", "bomb_header_60000x60000.png"} <= keys
    assert all(failure.message for failure in (*manifest.failures, *manifest.skipped))


def test_nothing_to_use_commits_nothing(images: Images, make_noise: Noise, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no image \(0 other objects\)"):
        prepare(tmp_path / "nowhere", tmp_path / "set", SMALL)
    with pytest.raises(InputError, match=r"no image of .*, of 1; x\.png"):
        prepare(images({"x.png": b"no"}), tmp_path / "set", SMALL)
    folder = images({"x.png": make_noise(13, 13)})
    with pytest.raises(InputError, match=r"1 Skipped.*x\.png"):
        prepare(folder, tmp_path / "set", SMALL)
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_tasks_travel_as_text(images: Images, make_noise: Noise, tmp_path: Path) -> None:
    def through_text(
        function: Callable[[ShardTask], ShardRecord], tasks: Iterable[ShardTask]
    ) -> Iterator[ShardRecord]:
        for task in tasks:
            copy = ShardTask.model_validate_json(task.model_dump_json())
            assert copy == task
            yield ShardRecord.model_validate_json(function(copy).model_dump_json())

    folder = images(some(make_noise))
    one = prepare(folder, tmp_path / "one", SMALL, run=through_text)
    assert one.digest == prepare(folder, tmp_path / "two", SMALL).digest
    assert write_shard.__module__ == "rayscale.data.tasks"  # importable on a worker


def test_a_changed_manifest_is_refused(images: Images, make_noise: Noise, tmp_path: Path) -> None:
    prepare(images(some(make_noise)), tmp_path / "set", SMALL)
    path = tmp_path / "set" / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"channels": 1}))
    with pytest.raises(StorageError, match="digest"):
        Manifest.load(tmp_path / "set")
    path.write_text("{")
    with pytest.raises(StorageError, match="not JSON"):
        Manifest.load(connect(tmp_path / "set"))


def test_most_images_decide_the_kind(images: Images, make_noise: Noise, tmp_path: Path) -> None:
    """A grey one at the front is listed, not the seven others; configured channels stay what they are."""
    files = {f"{n}.png": make_noise(48, 48, 3 if n else 1, seed=n) for n in range(8)}
    folder = images(files)
    manifest = prepare(folder, tmp_path / "set", SMALL)
    assert (manifest.channels, manifest.counts.images) == (3, 7)
    (failure,) = manifest.failures
    assert failure.key == "0.png"
    assert "1 channel of 8 bits in a dataset of 3 channels" in failure.message
    grey = prepare(folder, tmp_path / "grey", SMALL.model_copy(update={"channels": 1}))
    assert (grey.channels, grey.counts.images, grey.counts.failed) == (1, 1, 7)


def test_a_sample_of_a_large_bucket_decides(
    images: Images, make_noise: Noise, make_file: Callable[..., bytes], tmp_path: Path
) -> None:
    """Spread over all of it: the first fifth is of another kind."""
    grey, colour = make_file(make_noise(24, 24, 1)), make_file(make_noise(24, 24))
    folder = images({f"{n:03d}.png": grey if n < 20 else colour for n in range(100)})
    config = SMALL.model_copy(update={"images_per_shard": 100})
    manifest = prepare(folder, tmp_path / "set", config)
    assert (manifest.channels, manifest.counts.images, manifest.counts.failed) == (3, 80, 20)


def test_what_systems_leave_behind_is_no_image(
    images: Images, make_noise: Noise, tmp_path: Path
) -> None:
    litter = ("a/._0.png", ".trash/a.png", "__MACOSX/a.png", "Thumbs.db", "a/.DS_Store")
    files: dict[str, np.ndarray | bytes] = dict.fromkeys(litter, b"no image")
    manifest = prepare(images({**files, "a/0.png": make_noise(48, 48)}), tmp_path / "set", SMALL)
    assert (manifest.failures, manifest.counts.images, manifest.counts.ignored) == ((), 1, 5)


def test_a_new_dataset_deletes_the_shards_of_the_old(
    images: Images, make_noise: Noise, tmp_path: Path
) -> None:
    folder, target = images(some(make_noise)), tmp_path / "set"
    prepare(folder, target, SMALL)
    (target / "shards" / "notes.txt").write_text("not ours")
    old = {path.name for path in (target / "shards").iterdir()}
    manifest = prepare(folder, target, SMALL.model_copy(update={"step": 48}))
    names = {path.name for path in (target / "shards").iterdir()}
    expected = {Path(c.key).name for shard in manifest.shards for c in shard.columns.values()}
    assert names == expected | {f"{shard.name}.json" for shard in manifest.shards} | {"notes.txt"}
    assert names & old == {"notes.txt"}


def test_two_preparations_of_one_place_make_no_broken_dataset(
    images: Images, make_noise: Noise, tmp_path: Path
) -> None:
    folder, target = images(some(make_noise)), tmp_path / "set"

    def overtaken(
        function: Callable[[ShardTask], ShardRecord], tasks: Iterable[ShardTask]
    ) -> Iterator[ShardRecord]:
        yield from map(function, tasks)
        prepare(folder, target, SMALL)

    with pytest.raises(StorageError, match="another preparation of the same place"):
        prepare(folder, target, SMALL.model_copy(update={"step": 48}), run=overtaken)
    dataset = Dataset(target, 2)
    assert len(dataset.pairs(range(len(dataset)))) == dataset.manifest.counts.sub_images


def test_images_smaller_than_a_patch_are_counted(
    images: Images, make_noise: Noise, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = images({f"{n}.png": make_noise(*((48, 48) if n % 2 else (24, 36))) for n in range(6)})
    prepare(folder, tmp_path / "set", SMALL)
    dataset = Dataset(tmp_path / "set", 4)
    assert PatchStream(dataset, patch=6).rows == 6
    assert not caplog.records
    assert PatchStream(dataset, patch=12).rows == 3
    (record,) = caplog.records
    assert "3 of the 6 sub-images" in record.getMessage()
    assert "smaller than 48 HR pixels" in record.getMessage()
    assert [dataset.manifest.smaller_than(side) for side in (24, 25, 48, 49)] == [0, 3, 3, 6]


@pytest.mark.parametrize(("name", "scale"), [("edsrlayout", 2), ("div2knames", 2), ("val3odd", 3)])
def test_pairs_of_the_field(shared_data: Path, tmp_path: Path, name: str, scale: int) -> None:
    folder = shared_data / "faults" / name
    manifest = prepare(folder, tmp_path / "set", PrepareConfig(minimum=48))
    assert (manifest.lr, manifest.scales, manifest.counts.images) == ("pairs", (scale,), 2)
    assert (manifest.failures, manifest.skipped, manifest.counts.ignored) == ((), (), 0)
    for _, _, low, high in rows_of(tmp_path / "set", scale):
        assert np.array_equal(low, degrade(high, scale))


def test_large_files_make_shards_of_their_own(
    images: Images, make_noise: Noise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = images({f"{n}.png": make_noise(*((96, 96) if n == 2 else (24, 24))) for n in range(6)})
    monkeypatch.setattr(plan, "_SOURCE_BYTES", 20_000)
    with Listing() as listing:
        planned = plan.plan(connect(folder), connect(tmp_path), SMALL, listing)
        names = [task.keys for task in planned.tasks()]
    assert names == [("0.png", "1.png"), ("2.png",), ("3.png", "4.png"), ("5.png",)]


def test_names_that_say_nothing_are_looked_into(
    images: Images, make_noise: Noise, tmp_path: Path
) -> None:
    picture = make_noise(48, 48)
    folder = images({"IM0001": picture, "IM.0002": picture, "CT.IMA": picture, "notes": b"none", "x.bin": picture})  # fmt: skip
    counts = prepare(folder, tmp_path / "set", SMALL).counts
    assert (counts.images, counts.failed, counts.ignored) == (3, 0, 2)
