"""Several models on several benchmarks, scored side by side on Ray: each network in the object store once, a task
for some images of one model.

The one module of ``evaluation`` that knows Ray and the registry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rayscale.cluster import raise_error, return_error, take_gpus
from rayscale.errors import ConfigError, NotFoundError, RayscaleError
from rayscale.evaluation.benchmark import (
    Report,
    at_scale,
    enlarge_pair,
    evaluate,
    list_pairs,
    parse_degradation,
    read_pairs,
)
from rayscale.evaluation.suites import SUITES
from rayscale.imaging.metrics import PROTOCOLS

if TYPE_CHECKING:
    from rayscale.degradations import Degradation
    from rayscale.evaluation.cost import Cost
    from rayscale.evaluation.crops import Window
    from rayscale.evaluation.table import Entry
    from rayscale.imaging.image import Pixels

_CHUNK = 4  # images of one task: enough to pay for its start, few enough to spread a set over the cluster
_WINDOW = re.compile(r":([\d,\s-]+)$")


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how; Ray must be connected for all but ``find_crops``.

    Attributes:
        models: names as ``rayscale.registry.open_model`` takes them, or ``SYSTEM=WEIGHTS``.
        data: benchmarks with HR/ and LR/ of one scale; in these and in ``models``, ``{scale}`` stands for each scale.
        scales: the scales.
        ensemble: score the self-ensemble (+) of each model too.
        protocol: a key of ``PROTOCOLS``. suite: one of ``SUITES``, or None.
        degradation: makes the LR images instead of those of the benchmarks.
        device: ``auto`` takes GPUs if the cluster has any; ``cpu``, ``cuda``.
    """

    models: Sequence[str]
    data: Sequence[str]
    scales: Sequence[float]
    ensemble: bool
    protocol: str
    suite: str | None
    device: str
    degradation: str | None = None

    @property
    def how(self) -> Degradation | None:
        """What makes LR of HR, or None."""
        return parse_degradation(self.degradation)


class Contender(NamedTuple):
    """A model at one scale. ``network`` is a reference into Ray's object store."""

    label: str
    scale: float
    ensemble: bool
    system: str
    weights: str
    cost: Cost
    network: Any


class Crop(NamedTuple):
    """An image of a benchmark to be shown; the window is chosen automatically when None."""

    data: str
    scale: float
    image: str
    window: Window | None


def open_models(comparison: Comparison) -> list[Contender]:
    """Every model (and its ensemble) at every scale that it serves, each network put once into the object store.

    Raises ConfigError for a model that serves none of them.
    """
    import ray

    from rayscale.evaluation.cost import count
    from rayscale.models.builtin import builtin_names
    from rayscale.registry import open_model

    found: list[Contender] = []
    networks: dict[str, Any] = {}
    for argument in comparison.models:
        label = ""
        for scale in comparison.scales:
            name, _, weights = at_scale(argument, scale).partition("=")
            try:
                model = open_model(name, weights=weights or None, scale=scale)
                model.network.resolve_scale(scale)
            except ConfigError as error:
                reason = error
                continue
            if model.digest not in networks:
                networks[model.digest] = ray.put(model.network)
            if not label:  # one column for all scales: a bundled model is called what was asked for
                title = name if model.label in builtin_names() else model.label
                label = _make_unique(title, {contender.label for contender in found})
            spec = model.network.spec
            found += [
                Contender(
                    label, scale, ensemble, spec.system + "+" * ensemble, model.digest,
                    count(spec, scale, ensemble=ensemble), networks[model.digest],
                )
                for ensemble in ((False, True) if comparison.ensemble else (False,))
            ]  # fmt: skip
        if not label:
            raise reason
    return found


def _make_unique(label: str, taken: set[str]) -> str:
    """The label, numbered when it is taken: two weights of one system."""
    number = 1 + sum(other.partition(" #")[0] == label for other in taken)
    return label if number == 1 else f"{label} #{number}"


def score_all(comparison: Comparison, contenders: Sequence[Contender]) -> list[Entry]:
    """One entry per set, scale and model; a Ray task scores some images of one."""
    import ray

    from rayscale.evaluation.table import Entry

    task = ray.remote(return_error(_score)).options(max_retries=3, **_resources(comparison))
    work = []
    for template in comparison.data:
        for scale in comparison.scales:
            data = at_scale(template, scale)
            names = list_pairs(data, scale, comparison.how)
            chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
            for one in contenders:
                if one.scale == scale:
                    parts = [
                        task.remote(
                            one.network, one.label, one.ensemble, data, scale, chunk,
                            comparison,
                        )
                        for chunk in chunks
                    ]  # fmt: skip
                    work.append((data, one, parts))
    entries = []
    for data, one, parts in work:
        reports, devices = zip(*map(raise_error, ray.get(parts)), strict=True)
        device = ", ".join(dict.fromkeys(devices))
        entries.append(Entry(data, _join(reports), one.system, one.weights, one.cost, device))
    return entries


def _score(
    network: Any, label: str, ensemble: bool, data: str, scale: float, names: list[str],
    comparison: Comparison,
) -> tuple[Report, str]:  # fmt: skip
    """The report of some images and what computed them."""
    from rayscale.evaluation.cost import describe_device
    from rayscale.inference import Upscaler
    from rayscale.options import Options

    try:
        upscaler = Upscaler(
            network,
            Options(scale=scale, precision="float32", ensemble=ensemble),
            device=comparison.device,
            calibrate=comparison.suite is not None,
        )
        report = evaluate(
            upscaler,
            read_pairs(data, scale, names, comparison.how),
            name=label,
            protocol=PROTOCOLS[comparison.protocol],
            suite=SUITES[comparison.suite] if comparison.suite else None,
        )
    except RayscaleError as error:
        raise type(error)(f"{label} on {data}: {error}") from error
    return report, describe_device(upscaler.predictor.device)


def _join(parts: Sequence[Report]) -> Report:

    first = parts[0]
    images = [image for part in parts for image in part.images]
    return Report(first.model, first.scale, first.protocol, images, first.degradation)


def _resources(comparison: Comparison) -> dict[str, float]:
    return {"num_cpus": 1, "num_gpus": int(take_gpus(comparison.device))}


def find_crops(comparison: Comparison, wanted: Sequence[str]) -> Iterator[Crop]:
    """Where the images are that ``wanted`` names, each ``IMAGE`` or ``IMAGE:x,y,w,h`` in HR pixels.

    Raises NotFoundError for one that is in no benchmark, InputError for a window that leaves its image.
    """
    from rayscale.evaluation.crops import Window

    places = [
        (at_scale(data, scale), scale) for data in comparison.data for scale in comparison.scales
    ]
    names = {place: list_pairs(*place, comparison.how) for place in places} if wanted else {}
    for text in wanted:
        match = _WINDOW.search(text)
        window = Window.parse(match[1]) if match else None
        image = text[: match.start()] if match else text
        found = [
            (data, scale) for data, scale in places if at_scale(image, scale) in names[data, scale]
        ]
        if not found:
            known = ", ".join(dict.fromkeys(name for some in names.values() for name in some[:5]))
            raise NotFoundError(
                f"crop {image}: no benchmark has this image; they have {known}, ..."
            )
        for data, scale in found:
            name = at_scale(image, scale)
            if window is not None:
                (pair,) = read_pairs(data, scale, [name], comparison.how)
                window.cut(pair.hr.pixels)
            yield Crop(data, scale, name, window)


def draw_crops(
    comparison: Comparison, crops: Sequence[Crop], contenders: Sequence[Contender]
) -> dict[str, bytes]:
    """A PNG per crop: bicubic, each model, HR."""
    import ray

    from rayscale.evaluation.crops import sheet
    from rayscale.evaluation.published import set_name
    from rayscale.resampling import enlarge

    task = ray.remote(return_error(_upscale)).options(max_retries=3, **_resources(comparison))
    drawn = {}
    for data, scale, image, window in crops:
        results = {
            one.label + "+" * one.ensemble: task.remote(
                one.network, one.ensemble, data, scale, image, comparison
            )
            for one in contenders
            if one.scale == scale
        }
        (pair,) = read_pairs(data, scale, [image], comparison.how)
        pictures = {"bicubic": enlarge(pair.lr.pixels, scale)}
        pictures |= {label: raise_error(ray.get(future)) for label, future in results.items()}
        dataset = set_name(data)
        drawn[f"crops/{dataset}_x{scale:g}_{image}.png"] = sheet(
            f"{image}, {dataset} x{scale:g}", pair.hr.pixels, pictures, PROTOCOLS[comparison.protocol], window
        )  # fmt: skip
    return drawn


def _upscale(
    network: Any, ensemble: bool, data: str, scale: float, image: str, comparison: Comparison
) -> Pixels:
    """One image by one model."""
    from rayscale.inference import Options, Upscaler

    upscaler = Upscaler(
        network,
        Options(scale=scale, precision="float32", ensemble=ensemble),
        device=comparison.device,
        calibrate=False,
    )
    (pair,) = read_pairs(data, scale, [image], comparison.how)
    return enlarge_pair(upscaler, pair)
