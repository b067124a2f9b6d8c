"""What a name means: a built-in model, then the registry, then what is bundled of a system."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rayscale.errors import ConfigError, NotFoundError
from rayscale.models.systems import create_model
from rayscale.registry import RegistryError, models, open_model
from rayscale.registry.opening import find_model, load_model

MINE = create_model("edsr-baseline", scale=2, filters=4, blocks=1)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names in the registry; every one of them is ``MINE``."""
    names: set[str] = set()

    def resolve(reference: str) -> SimpleNamespace:
        if reference not in names:
            raise NotFoundError(f"no model {reference!r} in the registry")
        return SimpleNamespace(ref=f"{reference}/1", digest="d" * 64, spec=MINE.spec, scale=None)

    monkeypatch.setattr(models, "resolve", resolve)
    monkeypatch.setattr(models, "load", lambda version: MINE)
    return names


def test_what_is_registered_comes_before_what_is_bundled(published: set[str]) -> None:
    assert open_model("aplus", scale=2).label == "aplus-x2"
    published |= {"aplus", "bicubic", "aplus-x2"}
    opened = open_model("aplus", scale=2)
    assert (opened.label, opened.network) == ("aplus/1", MINE)
    assert open_model("aplus-x2", scale=2).label == "aplus-x2"
    assert open_model("bicubic").digest == "built-in:bicubic"


def test_a_scale_chooses_among_the_bundled(published: set[str]) -> None:
    assert open_model("aplus", scale=3).network.scales == (3,)
    assert open_model("aplus").label == "aplus-x2"
    assert open_model("srresnet").label == "srresnet-x4"  # its smallest scale
    with pytest.raises(ConfigError, match="aplus has no weights here"):
        open_model("aplus", scale=2.5)
    with pytest.raises(NotFoundError):
        open_model("roofs", scale=2)


def test_what_is_found_is_what_is_opened_and_nothing_is_loaded_before(
    published: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    published |= {"aplus", "roofs"}
    loads: list[str] = []
    monkeypatch.setattr(models, "load", lambda version: loads.append(version.ref) or MINE)
    for name in ("bicubic", "aplus", "aplus-x2", "edsr-baseline", "roofs"):
        before = len(loads)
        found = find_model(name, 2)
        assert len(loads) == before
        opened = open_model(name, scale=2)
        assert (found.label, found.digest) == (opened.label, opened.digest)
        assert load_model(found).label == opened.label
    assert loads == ["aplus/1"] * 2 + ["roofs/1"] * 2
    with pytest.raises(NotFoundError):
        find_model("edsr-baseline", 2.5)


def test_a_registry_that_does_not_answer_is_no_licence_to_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RegistryError):
        open_model("aplus", scale=2)
    assert open_model("aplus-x2").network.scales == (2,)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert open_model("aplus", scale=2).label == "aplus-x2"
