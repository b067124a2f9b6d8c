"""The models a replica holds: found by reference, loaded once, kept while they are used.

A reference is looked for as everywhere in rayscale: a built-in name (the interpolations and the bundled models), then
``name``, ``name@alias`` or ``name/version`` of the registry, whose digest check every load passes, then a system that a
model is bundled of at the scale of the request. Once loaded, a model needs neither MLflow nor object storage any more.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from rayscale.errors import ConfigError, NotFoundError, RayscaleError
from rayscale.imaging import Handling
from rayscale.inference.pipeline import Pipeline
from rayscale.models.builtin import (
    OpenedModel,
    builtin_digest,
    builtin_names,
    find_bundled,
    open_builtin,
    read_spec,
)
from rayscale.models.registry import describe, systems
from rayscale.models.spec import INTERPOLATIONS
from rayscale.options import Options
from rayscale.serving.errors import BadParameterError, UnavailableError
from rayscale.serving.jobs import check_reference

if TYPE_CHECKING:
    from rayscale.models.network import SuperResolver
    from rayscale.models.spec import ModelSpec
    from rayscale.serving.settings import ServeSettings

log = logging.getLogger("ray.serve")


_PIPELINES = 16
"""Kept per model: scales are any number, so that a client could fill the memory with them."""


_FAILED = 1000
"""Names whose failure is remembered."""

_Key = tuple[str, str | None]
"""A reference, and the bundled model that it means where the registry has none (so that the table stays finite)."""


@dataclass(frozen=True)
class Version:
    """Which model exactly: what a reference means at the moment.

    Attributes:
        name: the registered or built-in name. version: of the registry, None for a built-in.
        digest: sha256 of the weights in hexadecimal, ``built-in:NAME`` for an interpolation.
        aliases: names that point at this version.
        facts: what ``GET /v1/models`` tells besides (system, scales, channels).
        origin: what the source needs to load it.
    """

    name: str
    version: str | None
    digest: str
    aliases: tuple[str, ...] = field(default=(), compare=False)
    facts: dict[str, Any] = field(default_factory=dict, compare=False)
    origin: Any = field(default=None, compare=False, repr=False)

    @property
    def reference(self) -> str:
        """The reference that always means exactly this model."""
        return self.name if self.version is None else f"{self.name}/{self.version}"


class Source(Protocol):
    """Where models that are not built in come from; :class:`Registry` outside of tests."""

    def resolve(self, reference: str) -> Version:
        """The version that ``reference`` means now; NotFoundError where there is none."""

    def load(self, version: Version) -> SuperResolver:
        """The network of ``version``, its digest checked."""

    def list(self) -> Iterable[Version]:
        """The newest version of every registered name, and every version with an alias."""


@dataclass
class Loaded:
    """A model in memory with the pipelines made from it, of the options used last."""

    version: Version
    model: OpenedModel
    pipelines: OrderedDict[Options, Pipeline] = field(default_factory=OrderedDict)


class Shelf:
    """Models by reference; safe to use from many threads.

    A reference keeps its meaning for ``refresh_s`` seconds and until :meth:`refresh` has loaded what it
    means now: an alias moves in one assignment, and no request waits for the new model or sees none. When
    the registry cannot be asked, references keep the meaning they had.
    """

    def __init__(
        self, settings: ServeSettings, source: Source, watch: Callable[[], None] | None = None
    ) -> None:
        self._settings = settings
        self._source = source
        self._watch = watch
        self._lock = threading.Lock()
        self._meanings: dict[_Key, Version] = {}
        self._loaded: OrderedDict[Version, Loaded] = OrderedDict()
        self._loading: dict[Version, Future[Loaded]] = {}
        self._listed: tuple[float, list[Version]] | None = None
        self._failed: OrderedDict[_Key, tuple[float, RayscaleError]] = OrderedDict()

    def get(self, reference: str, scale: float | None = None) -> Loaded:
        """The model that ``reference`` means at ``scale``, loaded now if need be (once, however many ask).

        Raises BadParameterError or SourceNotAllowedError for text that is no reference, NotFoundError,
        UnavailableError.
        """
        check_reference(reference)
        key = reference, find_bundled(reference, scale)
        try:
            version = self._meanings.get(key)
            if version is None:
                version = self._resolve(*key)
                loaded = self._load(version)
                with self._lock:
                    self._meanings[key] = version
                return loaded
            return self._load(version)
        except (NotFoundError, UnavailableError) as error:
            with self._lock:
                self._failed[key] = time.monotonic(), error
                self._failed.move_to_end(key)
                if len(self._failed) > _FAILED:
                    self._failed.popitem(last=False)
            raise

    def recall(self, reference: str, scale: float | None = None) -> None:
        """Raise what :meth:`get` raised for the same within ``refresh_s`` seconds: whoever asks for names that do not
        exist, or while the registry is gone, costs it nothing more."""
        key = reference, find_bundled(reference, scale)
        with self._lock:
            when, error = self._failed.get(key, (0.0, None))
        if error is not None and time.monotonic() - when < self._settings.refresh_s:
            raise type(error)(str(error))

    def peek(self, reference: str, scale: float | None = None) -> Loaded | None:
        """The model that :meth:`get` gives when it is in memory, without ever waiting."""
        key = reference, find_bundled(reference, scale)
        with self._lock:
            version = self._meanings.get(key)
            loaded = None if version is None else self._loaded.get(version)
            if loaded is not None:
                self._loaded.move_to_end(loaded.version)
            return loaded

    def pipeline(self, loaded: Loaded, options: Options) -> Pipeline:
        """A loaded model with options; BadParameterError for a scale it does not have."""
        # How files are read and written costs nothing; all else may need a measurement of the network.
        key = replace(options, **vars(Handling()))
        kept = loaded.pipelines
        with self._lock:
            found = kept.get(key)
            if found is None:
                try:
                    found = Pipeline(
                        loaded.model, key, device=self._settings.device, watch=self._watch
                    )
                except ConfigError as error:
                    raise BadParameterError(
                        f"the model {loaded.version.reference}: {error}"
                    ) from None
                kept[key] = found
                if len(kept) > _PIPELINES:
                    kept.popitem(last=False)
            kept.move_to_end(key)
            return found.with_options(options)

    def refresh(self) -> None:
        """Ask again what every used reference means; where it moved, load first and then switch."""
        for key, old in list(self._meanings.items()):
            reference, bundled = key
            if reference in builtin_names():
                continue
            try:
                new = self._resolve(reference, bundled)
                if new != old:
                    self._load(new)
                    log.info("%s moved from %s to %s", reference, old.reference, new.reference)
            except NotFoundError:
                with self._lock:  # withdrawn: it must not be served any longer
                    self._meanings.pop(key, None)
                log.warning("%s is no longer in the registry", reference)
            except Exception as error:
                log.warning("%s keeps its meaning %s: %s", reference, old.reference, error)
            else:
                with self._lock:
                    self._meanings[key] = new

    def last_list(self) -> list[Version]:
        """What :meth:`list` last gave, without waiting; UnavailableError when the registry has never answered."""
        if self._listed is None:
            raise UnavailableError("the registry does not answer; the models in use are served on")
        return [_built_in(name) for name in builtin_names()] + self._listed[1]

    def list(self) -> list[Version]:
        """Built-in and registered models; the registry is asked at most every ``refresh_s`` seconds."""
        built_in = [_built_in(name) for name in builtin_names()]
        if not _has_registry():
            return built_in
        now = time.monotonic()
        listed = self._listed
        if listed is None or now - listed[0] > self._settings.refresh_s:
            try:
                with _operating("list the models"):
                    listed = (now, list(self._source.list()))
            except Exception as error:
                if listed is None:
                    raise
                log.warning("the list of models is %.0f s old: %s", now - listed[0], error)
            self._listed = listed
        return built_in + listed[1]

    def _resolve(self, reference: str, bundled: str | None) -> Version:
        """What ``reference`` means now; ``bundled`` where the registry does not know it."""
        if reference in builtin_names():
            return _built_in(reference)
        if not _has_registry():
            if bundled is not None:
                return _built_in(bundled)
            raise NotFoundError(
                f"there is no model {reference!r}: this service has no registry "
                f"(MLFLOW_TRACKING_URI), only {', '.join(builtin_names())}"
            )
        try:
            with _operating(f"look up the model {reference}"):
                return self._source.resolve(reference)
        except NotFoundError:
            if bundled is None:
                raise
            return _built_in(bundled)

    def _load(self, version: Version) -> Loaded:
        with self._lock:
            loaded = self._loaded.get(version)
            if loaded is not None:
                self._loaded.move_to_end(version)
                return loaded
            waiting = self._loading.get(version)
            mine = waiting is None
            future = self._loading[version] = waiting if waiting is not None else Future()
        if not mine:
            return future.result()
        try:
            loaded = Loaded(version, self._open(version))
        except BaseException as error:
            with self._lock:
                del self._loading[version]
            future.set_exception(error)
            raise
        with self._lock:
            self._loaded[version] = loaded
            del self._loading[version]
            while len(self._loaded) > self._settings.max_models:
                gone, _ = self._loaded.popitem(last=False)
                # A forgotten reference is resolved anew, so the table cannot grow without bound.
                self._meanings = {k: v for k, v in self._meanings.items() if v != gone}
        future.set_result(loaded)
        return loaded

    def _open(self, version: Version) -> OpenedModel:
        if version.version is None:
            return open_builtin(version.name)
        with _operating(f"load the model {version.reference}"):
            return OpenedModel(self._source.load(version), version.digest, version.reference)


class Registry:
    """The registry of rayscale (MLflow), imported at its first use: it takes seconds."""

    def resolve(self, reference: str) -> Version:
        from rayscale.registry import resolve

        return _version(resolve(reference))

    def load(self, version: Version) -> SuperResolver:
        from rayscale.registry import load

        model: SuperResolver = load(version.origin)
        return model

    def list(self) -> list[Version]:
        from rayscale.registry import list_models

        return [_version(found) for found in list_models()]


@contextmanager
def _operating(what: str) -> Iterator[None]:
    """Faults of the registry, the storage or the weights: told in full to the log, in short to clients.

    Their messages name hosts, buckets and variables, and they are never about the image of a request.
    """
    try:
        yield
    except NotFoundError:
        raise
    except RayscaleError as error:
        log.error("cannot %s: %s", what, error)
        raise UnavailableError(
            f"the service cannot {what} at the moment; its log has the reason"
        ) from error


def _has_registry() -> bool:
    return bool(os.environ.get("MLFLOW_TRACKING_URI"))


def _version(found: Any) -> Version:
    facts = _facts(found.spec)
    return Version(
        found.name, str(found.version), found.digest, tuple(found.aliases), facts, origin=found
    )


def _built_in(name: str) -> Version:
    if name in INTERPOLATIONS:
        system = describe(name)
        facts = {
            "system": name,
            "scales": system["scales"],
            "scale_range": system["scale_range"],
            "channels": None,
        }
        return Version(name, None, builtin_digest(name), facts=facts)
    return Version(name, None, builtin_digest(name), facts=_facts(read_spec(name)[0]))


def _facts(spec: ModelSpec) -> dict[str, Any]:
    system = systems().get(spec.system)  # None: registered by a later version
    any_channels = system is not None and system.network.any_channels
    return {
        "system": spec.system,
        "scales": list(spec.scales),
        "scale_range": None if system is None else system.network.scale_range,
        "channels": None if any_channels else spec.channels,
    }
