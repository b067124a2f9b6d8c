"""Files of a network for another library: what ``rayscale export`` writes, and reads again as weights.

Beside the layers such a file says what they mean, under the same names in each format: the metadata of ONNX, the runtime
information of OpenVINO (``rayscale`` in the ``.xml``), ``rayscale.json`` inside a ``.pt2``:

- ``rayscale.spec``: the specification of the network (JSON); ``rayscale.scale``: that of this file.
- ``rayscale.input``: ``image`` (the output is ``scale`` times as large) or ``luma`` (Y after bicubic; the size stays).
- ``rayscale.halo``: pixels of the input around a pixel that its output depends on: the exact margin of a tile.
- ``rayscale.levels``: the values of black and white, in and out. ``rayscale.precision``: ``float32`` or ``int8``.
- ``rayscale.flatfield``: by number of channels, what flat images become, which is subtracted (see ``flatfield``).
- ``rayscale.weights``: sha256 of the weights that it was made of; ``rayscale.export``: the version of this list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayscale import extras, strictjson
from rayscale.errors import NotFoundError, RayscaleError, UnsupportedError
from rayscale.inference.compiled import Compiled
from rayscale.inference.engines import Engine, OnnxRuntime, OpenVino, openvino
from rayscale.inference.flatfield import FlatField
from rayscale.models.builtin import OpenedModel
from rayscale.models.network import SuperResolver
from rayscale.models.path import reach
from rayscale.models.signatures import require_signed
from rayscale.models.spec import ModelSpec
from rayscale.models.systems import build
from rayscale.models.weights import WeightsError

FORMAT = "1"
ENDINGS = (".onnx", ".xml", ".pt2")
"""Of ONNX, OpenVINO (whose numbers lie beside it in a ``.bin``) and torch.export."""
EXTRA_FILE = "rayscale.json"

_SPACE = "rayscale"
_KEYS = ("spec", "scale", "input", "halo", "levels", "precision", "flatfield", "weights", "export")


def describe(model: SuperResolver, scale: float, core: nn.Module, digest: str) -> dict[str, str]:
    """What a file of ``core`` says, for the weights with the sha256 ``digest``; float32 until told otherwise."""
    luma = model.any_channels
    counts = (1, 3) if luma else (model.channels,)
    flats = {
        str(count): flat.to_text()
        for count in counts
        if not model.keeps_means
        and (flat := FlatField.measure(model, scale, count, torch.float32)) is not None
    }
    facts = {
        "spec": model.spec.to_json(),
        "scale": repr(scale),
        "input": "luma" if luma else "image",
        "halo": str(reach([core])),
        "levels": f"0..{model.spec.value_range:g}",
        "precision": "float32",
        "flatfield": strictjson.dumps(flats),
        "weights": digest,
        "export": FORMAT,
    }
    return {f"{_SPACE}.{name}": value for name, value in facts.items()}


def write_onnx(network: bytes, facts: Mapping[str, str], path: Path) -> None:
    """Write ONNX with what it means."""
    onnx = extras.load("onnx", "onnx")
    model = onnx.load_from_string(network)
    onnx.helper.set_model_props(model, dict(facts))
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_openvino(model: Any, facts: Mapping[str, str], path: Path) -> None:
    """Write a model of OpenVINO, ``path`` and the ``.bin`` beside it, with what it means."""
    for name, value in facts.items():
        model.set_rt_info(value, name.split("."))
    openvino().save_model(model, str(path), compress_to_fp16=False)


def write_torch_export(
    core: nn.Module, channels: int, facts: Mapping[str, str], path: Path
) -> None:
    """Write a program of ``torch.export`` with what it means."""
    count, height, width = (torch.export.Dim(name) for name in ("n", "h", "w"))
    example = (torch.zeros(2, channels, 32, 40),)
    program = torch.export.export(
        core.eval(), example, dynamic_shapes=({0: count, 2: height, 3: width},)
    )
    torch.export.save(program, str(path), extra_files={EXTRA_FILE: strictjson.dumps(dict(facts))})


def is_export(path: str | Path) -> bool:
    """Whether a file of weights is one of these, by its ending."""
    return Path(path).suffix.lower() in ENDINGS


def open_export(path: str | Path, *, name: str | None = None) -> OpenedModel:
    """The network of a file that ``rayscale export`` wrote for ONNX or OpenVINO.

    Args:
        name: the system that it has to be, or None for any.

    Raises:
        NotFoundError: no such file. UnsupportedError: one of torch.export, or the library is not installed.
        WeightsError: another file, a damaged one, or another system.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"there is no weight file {path}")
    if path.suffix.lower() == ".pt2":
        raise UnsupportedError(
            f"{path.name} is a program of torch.export: opening one may run code that it holds, so rayscale reads none; "
            "export to onnx or openvino, or give the weights that it was made of"
        )
    data = path.read_bytes()
    with _explained(path):
        digest = hashlib.sha256(data)
        if path.suffix.lower() == ".xml":
            digest.update(path.with_suffix(".bin").read_bytes())
        require_signed(digest.hexdigest())
        engine, facts = _open_onnx(data) if path.suffix.lower() == ".onnx" else _open_openvino(path)
        if missing := [key for key in _KEYS if key not in facts]:
            raise WeightsError(
                f"it lacks {', '.join(missing)}, so it was not written by rayscale export"
            )
        if facts["export"] != FORMAT:
            raise WeightsError(f"its format is {facts['export']!r}, this version reads {FORMAT}")
        model = _assemble(facts, engine)
        if name is not None and name != model.spec.system:
            raise WeightsError(
                f"it holds {model.spec.system}, not {name}; ask for {model.spec.system}"
            )
    return OpenedModel(model, digest.hexdigest(), name or model.spec.system)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever a file does to a library that reads it is an error of the file."""
    try:
        yield
    except UnsupportedError:
        raise
    except RayscaleError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise WeightsError(f"{path} is damaged, or no export of rayscale ({reason})") from None


def _open_onnx(data: bytes) -> tuple[Engine, dict[str, str]]:
    engine = OnnxRuntime(data)
    start = f"{_SPACE}."
    facts = {key.removeprefix(start): value for key, value in engine.metadata.items()}
    return engine, facts


def _open_openvino(path: Path) -> tuple[Engine, dict[str, str]]:
    model = openvino().Core().read_model(str(path))
    facts = {}
    for key in _KEYS:
        if model.has_rt_info([_SPACE, key]):
            facts[key] = str(model.get_rt_info([_SPACE, key]).astype(str))
    return OpenVino(model), facts


def _assemble(facts: Mapping[str, str], engine: Engine) -> Compiled:
    """The network, tried once: its core must give what it says."""
    scale = float(facts["scale"])
    with torch.device("meta"):
        like = build(ModelSpec.from_json(facts["spec"]))
    flats = {
        int(count): FlatField.from_text(text)
        for count, text in strictjson.loads(facts["flatfield"]).items()
    }
    model = Compiled(like, scale, engine, partial(_flat, flats, like.any_channels))
    probe = torch.zeros(1, like.channels, 8, 8)
    found: Tensor = engine(probe)
    side = 8 if facts["input"] == "luma" else 8 * int(scale)
    if found.shape != (1, like.channels, side, side):
        raise WeightsError(
            f"its layers make {tuple(found.shape)} of {tuple(probe.shape)}, not x{scale:g}"
        )
    return model.eval()


def _flat(
    flats: Mapping[int, FlatField], any_channels: bool, channels: int, dtype: torch.dtype
) -> FlatField | None:
    return flats.get(1 if any_channels and channels != 3 else channels)
