"""Models by reference: loaded once, forgotten in order, aliases that move, a registry that is gone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rayscale.errors import InputError, NotFoundError, StorageError
from rayscale.models.builtin import builtin_names
from rayscale.options import Options
from rayscale.registry import open_model
from rayscale.serving.errors import BadParameterError, UnavailableError
from rayscale.serving.settings import ServeSettings
from rayscale.serving.shelf import Shelf


def shelf(**settings: Any) -> Shelf:
    return Shelf(ServeSettings(**settings))


def test_a_model_is_loaded_once_however_many_ask(registry: Any) -> None:
    registry.add("roofs", 1, "prod")
    gate = threading.Event()
    registry.before_load = lambda: gate.wait(5)
    under_test = shelf()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(under_test.get, ref) for ref in ("roofs", "roofs@prod", "roofs/1") * 4]
        gate.set()
        loaded = {id(future.result(10)) for future in asked}
    assert len(loaded) == 1
    assert registry.loads == ["roofs/1"]


def test_a_failed_load_is_tried_again(registry: Any) -> None:
    registry.add("roofs", 1)

    def fail() -> None:
        raise StorageError("s3://secret-bucket is gone")

    registry.before_load = fail
    under_test = shelf()
    with pytest.raises(UnavailableError) as caught:
        under_test.get("roofs")
    assert "secret" not in str(caught.value)
    registry.before_load = lambda: None
    assert under_test.get("roofs").found.label == "roofs/1"


def test_damaged_weights_are_not_the_fault_of_an_image(registry: Any) -> None:
    registry.add("roofs", 1)

    def fail() -> None:
        raise InputError("sha256 differs")

    registry.before_load = fail
    with pytest.raises(UnavailableError, match="roofs/1"):
        shelf().get("roofs")


def test_the_least_recently_used_model_goes_first(registry: Any) -> None:
    for name in "abc":
        registry.add(name, 1)
    under_test = shelf(max_models=2)
    for name in ("a", "b", "a", "c"):
        under_test.get(name)
    assert under_test.peek("a") is not None
    assert under_test.peek("c") is not None
    assert under_test.peek("b") is None
    under_test.get("b")
    assert registry.loads == ["a/1", "b/1", "c/1", "b/1"]


def test_an_alias_moves_at_once_and_only_when_the_new_model_is_there(registry: Any) -> None:
    registry.add("roofs", 1, "prod")
    under_test = shelf()
    assert under_test.get("roofs@prod").found.label == "roofs/1"
    registry.add("roofs", 2, "prod")
    seen = []
    registry.before_load = lambda: seen.append(under_test.get("roofs@prod").found.label)
    under_test.refresh()
    assert seen == ["roofs/1"]  # asked while version 2 was being loaded
    assert under_test.get("roofs@prod").found.label == "roofs/2"
    assert under_test.get("roofs/1").found.label == "roofs/1"


def test_a_new_version_that_cannot_be_loaded_leaves_the_old_one(registry: Any) -> None:
    registry.add("roofs", 1, "prod")
    under_test = shelf()
    under_test.get("roofs@prod")
    registry.add("roofs", 2, "prod")

    def fail() -> None:
        raise StorageError("digest differs")

    registry.before_load = fail
    under_test.refresh()
    assert under_test.get("roofs@prod").found.label == "roofs/1"


def test_loaded_models_outlive_the_registry(registry: Any) -> None:
    registry.add("roofs", 1, "prod")
    under_test = shelf(refresh_s=0.001)
    under_test.get("roofs@prod")
    under_test.list()
    registry.gone = StorageError("no answer")
    under_test.refresh()
    assert under_test.get("roofs@prod").found.label == "roofs/1"
    assert "roofs/1" in [found.label for found in under_test.list()]
    with pytest.raises(UnavailableError):
        under_test.get("other")


def test_a_withdrawn_model_is_not_served(registry: Any) -> None:
    registry.add("roofs", 1, "prod")
    under_test = shelf()
    under_test.get("roofs@prod")
    registry.meanings.clear()
    under_test.refresh()
    with pytest.raises(NotFoundError):
        under_test.get("roofs@prod")


def test_without_a_registry_there_are_the_built_in_models(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    registry.gone = AssertionError("asked")
    under_test = shelf()
    assert {found.label for found in under_test.list()} == set(builtin_names())
    assert under_test.get("bilinear").model.network.scales == (2, 3, 4)
    with pytest.raises(NotFoundError, match="MLFLOW_TRACKING_URI"):
        under_test.get("roofs")


def test_a_scale_that_the_model_lacks(registry: Any) -> None:
    registry.add("roofs", 1)
    under_test = shelf()
    with pytest.raises(BadParameterError, match=r"roofs/1: .* serves the scale 2, not 3"):
        under_test.pipeline(under_test.get("roofs"), Options(scale=3))


def test_a_system_means_what_is_registered_and_else_what_is_bundled(registry: Any) -> None:
    under_test = shelf()
    assert under_test.get("aplus", 2).found.label == "aplus-x2"
    assert under_test.get("aplus", 3).found.label == "aplus-x3"
    with pytest.raises(NotFoundError):
        under_test.get("aplus", 2.5)
    assert under_test.peek("aplus", 2) is under_test.get("aplus-x2", 2)
    registry.add("aplus", 1)
    under_test.refresh()
    assert under_test.get("aplus", 2).found.label == "aplus/1"
    assert under_test.get("aplus-x2", 2).found.label == "aplus-x2"
    registry.meanings.clear()
    under_test.refresh()
    assert under_test.get("aplus", 3).found.label == "aplus-x3"


def test_a_registry_that_is_gone_changes_no_meaning(registry: Any) -> None:
    registry.gone = StorageError("no answer")
    with pytest.raises(UnavailableError):
        shelf().get("aplus", 2)


def test_a_name_means_what_it_means_at_every_other_door(registry: Any) -> None:
    registry.add("aplus", 1)
    registry.add("roofs", 2, "prod")
    under_test = shelf()
    for name in ("bicubic", "aplus", "aplus-x3", "edsr-baseline", "roofs", "roofs@prod", "roofs/2"):
        served, opened = under_test.get(name, 2).model, open_model(name, scale=2)
        assert (served.label, served.digest) == (opened.label, opened.digest)


def test_a_system_needs_no_registry(registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    registry.gone = AssertionError("asked")
    assert shelf().get("aplus", 2).found.label == "aplus-x2"


def test_scales_cannot_fill_the_memory(registry: Any) -> None:
    under_test = shelf(device="cpu")
    loaded = under_test.get("bicubic")
    first = under_test.pipeline(loaded, Options(scale=2)).upscaler.predictor
    for hundredths in range(101, 141):
        under_test.pipeline(loaded, Options(scale=hundredths / 100))
        kept = under_test.pipeline(loaded, Options(scale=2, levels=(0, hundredths)))
        assert kept.upscaler.predictor is first  # in use, so kept, however files are read
        assert kept.provenance.parameters["levels"] == [0, hundredths]
    assert len(loaded.pipelines) == 16
    assert Options(scale=1.4) in loaded.pipelines
    assert Options(scale=1.01) not in loaded.pipelines
