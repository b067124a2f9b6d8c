"""The models a replica holds: found by reference, loaded once, kept while they are used.

What a reference means is for ``rayscale.registry.opening`` to say; the shelf keeps the answers and follows them. Once
loaded, a model needs neither MLflow nor object storage any longer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rayscale.errors import ConfigError, NotFoundError, RayscaleError, StorageError
from rayscale.imaging import Handling
from rayscale.inference.pipeline import Pipeline
from rayscale.models.builtin import OpenedModel, builtin_names, find_bundled
from rayscale.options import Options
from rayscale.registry.client import NoRegistryError
from rayscale.registry.opening import (
    Found,
    builtin_models,
    find_file,
    find_model,
    load_model,
    registered_models,
)
from rayscale.serving.errors import BadParameterError, UnavailableError
from rayscale.serving.requests import check_reference

if TYPE_CHECKING:
    from rayscale.serving.settings import ServeSettings

log = logging.getLogger("ray.serve")


_PIPELINES = 16
"""Kept per model: scales are any number, so that a client could fill the memory with them."""


_FAILED = 1000
"""Names whose failure is remembered."""


@dataclass(frozen=True)
class Asked:
    """A reference at a scale. Equal at all scales where it means the same, so that the table of meanings stays finite.

    Attributes:
        bundled: the bundled model that the reference means where the registry has none.
    """

    reference: str
    bundled: str | None
    scale: float | None = field(compare=False)

    @classmethod
    def of(cls, reference: str, scale: float | None) -> Asked:
        return cls(reference, find_bundled(reference, scale), scale)


@dataclass
class Loaded:
    """A model in memory with the pipelines made from it, of the options used last."""

    found: Found
    model: OpenedModel
    pipelines: OrderedDict[Options, Pipeline] = field(default_factory=OrderedDict)


class Shelf:
    """Models by reference; safe to use from many threads.

    A reference keeps its meaning for ``refresh_s`` seconds and until :meth:`refresh` has loaded what it
    means now: an alias moves in one assignment, and no request waits for the new model or sees none. When
    the registry cannot be asked, references keep the meaning they had.
    """

    def __init__(
        self,
        settings: ServeSettings,
        watch: Callable[[], None] | None = None,
        loaded: Callable[[str], None] = lambda label: None,
    ) -> None:
        self._tell_loaded = loaded
        self._followed = time.monotonic()
        self._settings = settings
        self._watch = watch
        self._lock = threading.Lock()
        self._meanings: dict[Asked, Found] = {}
        self._loaded: OrderedDict[Found, Loaded] = OrderedDict()
        self._loading: dict[Found, Future[Loaded]] = {}
        self._listed: tuple[float, list[Found]] | None = None
        self._failed: OrderedDict[Asked, tuple[float, RayscaleError]] = OrderedDict()
        self._own: Found | None = None  # the default model, where it is named by its file

    def get(self, reference: str, scale: float | None = None) -> Loaded:
        """The model that ``reference`` means at ``scale``, loaded now if need be (once, however many ask).

        Raises BadParameterError or SourceNotAllowedError for text that is not a reference, NotFoundError,
        UnavailableError.
        """
        check_reference(reference)
        asked = Asked.of(reference, scale)
        with self._remembering(asked):
            found = self._meanings.get(asked)
            if found is None:
                found = self._find(asked)
                loaded = self._load(found)
                with self._lock:
                    self._meanings[asked] = found
                return loaded
            return self._load(found)

    @contextmanager
    def _remembering(self, asked: Asked) -> Iterator[None]:
        """Keep the failure of what is asked, for :meth:`recall`."""
        try:
            yield
        except (NotFoundError, UnavailableError) as error:
            with self._lock:
                self._failed[asked] = time.monotonic(), error
                self._failed.move_to_end(asked)
                if len(self._failed) > _FAILED:
                    self._failed.popitem(last=False)
            raise

    def find(self, reference: str, scale: float | None = None) -> Found:
        """What ``reference`` means, without loading it; the errors of :meth:`get`."""
        check_reference(reference)
        asked = Asked.of(reference, scale)
        with self._lock:
            found = self._meanings.get(asked)
        if found is not None:
            return found
        self.recall(reference, scale)
        with self._remembering(asked):
            return self._find(asked)

    def recall(self, reference: str, scale: float | None = None) -> None:
        """Raise what :meth:`get` raised for the same within ``refresh_s`` seconds: whoever asks for names that do not
        exist, or while the registry is gone, costs it nothing more."""
        asked = Asked.of(reference, scale)
        with self._lock:
            when, error = self._failed.get(asked, (0.0, None))
        if error is not None and time.monotonic() - when < self._settings.refresh_s:
            raise type(error)(str(error))

    def peek(self, reference: str, scale: float | None = None) -> Loaded | None:
        """The model that :meth:`get` gives when it is in memory, without ever waiting."""
        asked = Asked.of(reference, scale)
        with self._lock:
            found = self._meanings.get(asked)
            loaded = None if found is None else self._loaded.get(found)
            if loaded is not None:
                self._loaded.move_to_end(loaded.found)
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
                    raise BadParameterError(f"the model {loaded.found.label}: {error}") from None
                kept[key] = found
                if len(kept) > _PIPELINES:
                    kept.popitem(last=False)
            kept.move_to_end(key)
            return found.with_options(options)

    def refresh(self) -> None:
        """Ask again what every used reference means; where it moved, load first and then switch."""
        began, followed = time.monotonic(), True
        for asked, old in list(self._meanings.items()):
            try:
                new = self._find(asked)
                if new != old:
                    self._load(new)
                    log.info("%s moved from %s to %s", asked.reference, old.label, new.label)
            except NotFoundError:
                with self._lock:  # withdrawn: it must not be served any longer
                    self._meanings.pop(asked, None)
                log.warning("%s is no longer in the registry", asked.reference)
            except Exception as error:
                log.warning("%s keeps its meaning %s: %s", asked.reference, old.label, error)
                followed = False
            else:
                with self._lock:
                    self._meanings[asked] = new
        if followed:
            self._followed = began

    def age(self) -> float:
        """Seconds since the registry last said of every reference in use what it means."""
        return time.monotonic() - self._followed

    def __len__(self) -> int:
        """Models in memory."""
        return len(self._loaded)

    def _at_hand(self) -> list[Found]:
        """What needs no registry."""
        return builtin_models() + ([] if self._own is None else [self._own])

    def last_list(self) -> list[Found]:
        """What :meth:`list` last gave, without waiting; UnavailableError when the registry has never answered."""
        if self._listed is None:
            raise UnavailableError("the registry does not answer; the models in use are served on")
        return self._at_hand() + self._listed[1]

    def list(self) -> list[Found]:
        """Built-in models, that of a file and registered ones; the registry is asked at most every ``refresh_s`` seconds."""
        now = time.monotonic()
        listed = self._listed
        if listed is None or now - listed[0] > self._settings.refresh_s:
            try:
                with _operating("list the models"):
                    listed = (now, registered_models())
            except NoRegistryError:
                listed = (now, [])
            except Exception as error:
                if listed is None:
                    raise
                log.warning("the list of models is %.0f s old: %s", now - listed[0], error)
            self._listed = listed
        return self._at_hand() + listed[1]

    def _find(self, asked: Asked) -> Found:
        """What is asked for means now; a file means the same until the end."""
        weights = self._settings.weights
        if weights is None or asked.reference != self._settings.model:
            return _find(asked)
        if self._own is None:
            with _operating(f"read the file of the model {asked.reference}"):
                try:
                    self._own = find_file(asked.reference, weights)
                except NotFoundError as error:  # the name itself is right
                    raise StorageError(str(error)) from error
        return self._own

    def _load(self, found: Found) -> Loaded:
        with self._lock:
            loaded = self._loaded.get(found)
            if loaded is not None:
                self._loaded.move_to_end(found)
                return loaded
            waiting = self._loading.get(found)
            mine = waiting is None
            future = self._loading[found] = waiting if waiting is not None else Future()
        if not mine:
            return future.result()
        try:
            with _operating(f"load the model {found.label}"):
                loaded = Loaded(found, load_model(found))
        except BaseException as error:
            with self._lock:
                del self._loading[found]
            future.set_exception(error)
            raise
        with self._lock:
            self._loaded[found] = loaded
            del self._loading[found]
            while len(self._loaded) > self._settings.max_models:
                gone, _ = self._loaded.popitem(last=False)
                # A forgotten reference is found anew, so the table cannot grow without bound.
                self._meanings = {k: v for k, v in self._meanings.items() if v != gone}
        self._tell_loaded(found.label)
        future.set_result(loaded)
        return loaded


def _find(asked: Asked) -> Found:
    """What is asked for means now."""
    try:
        with _operating(f"look up the model {asked.reference}"):
            return find_model(asked.reference, asked.scale)
    except NoRegistryError as error:
        raise NotFoundError(
            f"there is no model {asked.reference!r}: this service has no registry "
            f"(MLFLOW_TRACKING_URI), only {', '.join(builtin_names())}"
        ) from error


@contextmanager
def _operating(what: str) -> Iterator[None]:
    """Faults of the registry, the storage or the weights: told in full to the log, in short to clients.

    Their messages name hosts, buckets and variables, and they are never about the image of a request.
    """
    try:
        yield
    except (NotFoundError, NoRegistryError):
        raise
    except RayscaleError as error:
        log.error("cannot %s: %s", what, error)
        raise UnavailableError(
            f"the service cannot {what} at the moment; its log has the reason"
        ) from error
