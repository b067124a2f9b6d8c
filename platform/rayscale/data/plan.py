"""What a preparation has to do: the images of a source, with their LR images where they come in pairs, in tasks for shards."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

from rayscale.data.config import PrepareConfig
from rayscale.data.listing import Listing
from rayscale.data.manifest import FORMAT, Failure
from rayscale.data.sources import Kind, kind_of
from rayscale.data.tasks import ShardTask
from rayscale.errors import ConfigError, InputError, NotFoundError, RayscaleError, quantity
from rayscale.imaging import EXTENSIONS, is_image, probe
from rayscale.imaging.sidecars import names_beside
from rayscale.pairs import Pairing, Partners, find_pairs, has_both, without_lr
from rayscale.settings import MIB
from rayscale.storage import Entry, Store, connect, is_hidden

# Bytes of the files of one shard, which takes several times as much when they are compressed scenes.
_SOURCE_BYTES = 256 * MIB
_SAMPLE = 15  # images whose channels and bits are looked at; more would read a large bucket twice


@dataclass(frozen=True)
class Plan:
    """What there is to do, and what is not in it: images that cannot be used, and the number of other objects."""

    config: PrepareConfig
    kind: Kind
    source: Store
    target: Store
    lr: Store | None
    """Where the LR images of pairs lie; None without pairs."""
    listing: Listing
    lows: Mapping[str, Mapping[int, Entry]]
    """LR images by key of their HR image and scale. A source of pairs is the one whose names are held in memory."""
    failures: list[Failure]
    ignored: int

    def tasks(self) -> Iterator[ShardTask]:
        """The shards in listing order, each made when it is asked for; the same whenever that is."""
        config, lr = self.config, "" if self.lr is None else self.lr.uri
        bits: Literal[8, 16] = 16 if self.kind.bits == 16 else 8
        same = (FORMAT, config.model_dump_json(), *vars(self.kind).values(), self.source.uri, lr)
        for number, part in enumerate(_parts(self.listing.images(), config.images_per_shard)):
            own = {entry.key: self.lows[entry.key] for entry in part if entry.key in self.lows}
            lows = (low for each in own.values() for low in each.values())
            beside = _sidecars([*part, *lows], self.listing)
            yield ShardTask(
                name=_name(number, same, part, own, beside),
                source=self.source.uri,
                target=self.target.uri,
                keys=tuple(entry.key for entry in part),
                config=config,
                channels=self.kind.channels,
                bits=bits,
                measure=self.kind.measure,
                beside=beside,
                lr_source=lr,
                lr_keys={
                    key: {scale: low.key for scale, low in each.items()}
                    for key, each in own.items()
                },
            )


def plan(source: Store, target: Store, config: PrepareConfig, listing: Listing) -> Plan:
    """The shards of a source, whose objects are put into ``listing``; errors as in :func:`rayscale.data.prepare`."""
    listing.fill(source.list())
    lr = None if config.lr in ("auto", "made") else connect(config.lr)
    mixed = has_both(listing)
    looked = config.lr != "made" and (mixed or lr is not None)
    pairing = find_pairs(source, lr, listing) if looked else None
    if pairing is not None and not config.degradation.is_bicubic:
        raise ConfigError(
            f"{source.uri} has LR images of its own, so that {config.degradation} would change nothing; add lr=made to make "
            "LR images from the HR images"
        )
    lows: dict[str, dict[int, Entry]] = {}
    failures: list[Failure] = []
    entries: Iterable[Entry]
    if pairing is None:
        entries = _list_images(source, listing)
        entries = without_lr(entries) if mixed else entries
    else:
        config, entries, lows, failures = _match(pairing, source, lr or source, config)
    listing.choose(entry for entry in entries if not config.excludes(entry.key))
    failures = [failure for failure in failures if not config.excludes(failure.key)]
    if not listing.chosen:
        raise NotFoundError(
            f"{source.uri} has no image ({quantity(len(listing), 'other object')}); "
            f"expected names that end in {', '.join(sorted(EXTENSIONS))}"
        )
    kind = _kind(source, listing, config)
    config.degradation.check(kind.channels, config.scales)
    used = {low.key for entry in listing.images() for low in lows.get(entry.key, {}).values()}
    used |= {failure.key for failure in failures}
    ignored = len(listing) - listing.chosen - sum(key in listing for key in used)
    place = None if pairing is None else (lr or source)
    return Plan(config, kind, source, target, place, listing, lows, failures, ignored)


def _list_images(source: Store, entries: Iterable[Entry]) -> Iterator[Entry]:
    for entry in entries:
        head = partial(source.read_range, entry.key, 0)
        if not is_hidden(entry.key) and is_image(entry.key, head):
            yield entry


def _match(
    pairing: Pairing, source: Store, lr: Store, config: PrepareConfig
) -> tuple[PrepareConfig, list[Entry], dict[str, dict[int, Entry]], list[Failure]]:
    """The configuration with the scales of the pairs, the HR images, their LR images by scale, and what has no partner."""
    config, untold = _with_scales_of(pairing, source, lr, config)
    failures = [_unpaired(key, why) for key, why in sorted(pairing.alone.items())]
    entries: dict[str, Entry] = {}
    lows: dict[str, dict[int, Entry]] = {}
    for pair in pairing.pairs:
        found = {scale: low for scale in config.scales if (low := _low(pair, scale, untold))}
        lacking = [scale for scale in config.scales if scale not in found]
        if not lacking:
            entries[pair.hr.key] = pair.hr
            lows[pair.hr.key] = found
        elif pair.bound is None:
            failures.append(_unpaired(pair.hr.key, f"has no LR image at x{lacking[0]}"))
    return config, sorted(entries.values()), lows, failures


def _sidecars(entries: list[Entry], there: Listing) -> dict[str, tuple[str, ...]]:
    """Of the images that have some."""
    keys = [entry.key for entry in entries]
    return {key: found for key in keys if (found := names_beside(key, there.__contains__))}


def _name(
    number: int,
    same: tuple[object, ...],
    part: list[Entry],
    lows: Mapping[str, Mapping[int, Entry]],
    beside: dict[str, tuple[str, ...]],
) -> str:
    """A number, and a digest of all that a shard depends on."""
    text = repr((same, [(e.key, e.etag, e.size) for e in part], sorted(lows.items())))
    text += repr(beside) if beside else ""
    return f"{number:05d}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _parts(entries: Iterable[Entry], most: int) -> Iterator[list[Entry]]:
    """Runs of at most so many images, and of files that are not too large together: a scene may be a shard of its own."""
    part: list[Entry] = []
    for entry in entries:
        if part and (len(part) == most or sum(e.size for e in part) + entry.size > _SOURCE_BYTES):
            yield part
            part = []
        part.append(entry)
    yield part


def _with_scales_of(
    pairing: Pairing, source: Store, lr: Store, config: PrepareConfig
) -> tuple[PrepareConfig, int | None]:
    """The configuration with the scales that the pairs have, and the scale of LR images whose names tell none."""
    wanted = config.scales if "scales" in config.model_fields_set else ()
    untold = next((pair for pair in pairing.pairs if None in pair.lr), None)
    scale = None
    if untold is not None:
        scale = wanted[0] if len(wanted) == 1 else _measure_scale(source, lr, untold)
    known = sorted({*pairing.scales, *([scale] if scale else [])})
    if absent := [s for s in wanted if s not in known]:
        raise ConfigError(
            f"{source.uri} has LR images of x{', x'.join(map(str, known))}, none of x{absent[0]}; take "
            f"the scales {' '.join(map(str, known))}, or lr=made to make LR images from the HR images"
        )
    scales = wanted or tuple(known)
    if len(scales) > 1 and any(pair.bound for pair in pairing.pairs):
        raise ConfigError(
            f"{source.uri} has HR images of its own for each scale; prepare one of them, such as x{scales[0]}"
        )
    return PrepareConfig.create(**{**config.model_dump(), "scales": scales}), scale


def _measure_scale(source: Store, lr: Store, pair: Partners) -> int:
    """By the sizes of a pair; the cut of :func:`rayscale.pairs.fit` is allowed for."""
    hr, low = probe(source.read(pair.hr.key)), probe(lr.read(pair.lr[None].key))
    scale = max(1, round(hr.width / max(low.width, 1)))
    if scale < 2:
        raise InputError(
            f"{pair.hr.key} has {hr.width}x{hr.height} pixels and its LR image {pair.lr[None].key} {low.width}x{low.height}: "
            "no scale of 2 or more lies between them"
        )
    return scale


def _low(pair: Partners, scale: int, untold: int | None) -> Entry | None:
    """The LR image of a scale; ``untold`` is that of images whose names tell none."""
    return pair.lr.get(scale) or (pair.lr.get(None) if scale == untold else None)


def _kind(source: Store, listing: Listing, config: PrepareConfig) -> Kind:
    """Channels and bits of the dataset: those of most images, of which a sample is looked at."""
    if config.channels is not None and config.bits is not None:
        return Kind(config.channels, config.bits)
    spread = -(-listing.chosen // _SAMPLE)
    sampled = -(-listing.chosen // spread)
    entries = chain(listing.images(spread), listing.images(spread, others=True))
    votes: Counter[tuple[int, int]] = Counter()
    first: tuple[str, RayscaleError] | None = None
    with tempfile.TemporaryDirectory(prefix="rayscale-shard-") as folder:
        for number, entry in enumerate(entries, 1):
            if number > sampled and votes:
                break
            try:
                own = kind_of(source, entry.key, config, Path(folder))
            except (InputError, NotFoundError) as reason:
                first = first or (entry.key, reason)
                continue
            votes[own] += 1
            if 2 * votes[own] > sampled:
                break
    if not votes:
        key, error = first or ("", InputError("there is none"))
        raise InputError(
            f"no image of {source.uri} can be read, of {listing.chosen}; {key}: {error}"
        )
    fitting = Counter(
        {
            (channels, bits): count
            for (channels, bits), count in votes.items()
            if config.channels in (None, channels) and config.bits in (None, bits)
        }
    )
    ((channels, bits), count), *_ = (fitting or votes).most_common(1)
    looked = sum(votes.values())
    measure = "the one image" if looked == 1 else f"{count} of the {looked} images looked at"
    if config.channels is not None:
        measure = ""
    return Kind(config.channels or channels, config.bits or bits, measure)


def _unpaired(key: str, why: str) -> Failure:
    return Failure(key=key, error="Unpaired", message=why)
