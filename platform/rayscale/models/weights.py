"""Weight files: the own format (safetensors with the specification inside), and foreign files.

How foreign state dicts are laid out is the business of ``rayscale.models.foreign``. Where files come from
(object storage, the model registry) is not known here: everything is a local path. Nothing that a file says
is executed, and what it claims is checked before memory is given to it.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rayscale import strictjson
from rayscale.errors import ConfigError, InputError, NotFoundError, RayscaleError
from rayscale.files import replacing
from rayscale.models import foreign
from rayscale.models.network import SuperResolver
from rayscale.models.signatures import require_signed
from rayscale.models.spec import SPEC_KEY, ModelSpec
from rayscale.models.systems import build

FORMAT_KEY = "rayscale.format"
FORMAT = "1"

_LARGE = 1 << 15  # numbers of a tensor from which its share of the file matters
_STEP = ".step"

Layout = Literal["auto", "rayscale", "official", "basicsr", "super-image"]


class WeightsError(InputError):
    """A weight file that cannot be used: damaged, of another network, or not only tensors."""

    code: ClassVar[str] = "bad_weights"


@dataclass(frozen=True)
class LoadedWeights:
    """A network read from a file, in evaluation mode, on the CPU, float32.

    ``sha256`` is of the whole file, ``layout`` what it turned out to be, ``metadata`` what ``save_model`` was
    given as ``extra`` (empty for foreign files).
    """

    model: SuperResolver
    sha256: str
    layout: str
    metadata: dict[str, str]


def save_model(
    model: SuperResolver,
    path: str | Path,
    extra: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> str:
    """Write ``model`` as safetensors and return the sha256 of the file.

    The file appears whole or not at all, and the same weights, specification and ``extra`` give the same
    bytes. ``extra`` goes into the metadata; keys that begin with ``rayscale.`` are taken. WeightsError for
    weights that are not finite, which could not be read again.

    ``dtype`` is float32, or float16 or int8 for a file of half or a quarter of the size: then tensors of 32,768
    numbers or more are rounded to it (smaller ones weigh nothing and stay exact). Integers count steps of a 127th of
    the largest weight of their output channel; the steps lie beside them, as ``KEY.step``. Reading always gives
    float32.
    """
    path = Path(path)
    if dtype not in (torch.float32, torch.float16, torch.int8):
        raise ConfigError(f"weights are stored as float32, float16 or int8, not {dtype}")
    metadata = dict(extra or {})
    if taken := sorted(key for key in metadata if key.startswith("rayscale.")):
        raise ConfigError(f"the metadata key {taken[0]} is reserved; use another prefix")
    metadata |= {SPEC_KEY: model.spec.to_json(), FORMAT_KEY: FORMAT}
    state = _check({key: value.detach().cpu() for key, value in model.state_dict().items()})
    state = _quantise(state) if dtype == torch.int8 else _narrow(state, dtype)
    # safetensors writes metadata in random order: put the header together again, sorted.
    packed = safetensors.torch.save(state)
    length = int.from_bytes(packed[:8], "little")
    header = json.loads(packed[8 : 8 + length])
    text = strictjson.dumps({"__metadata__": metadata, **header}, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    content = (len(text).to_bytes(8, "little"), text, memoryview(packed)[8 + length :])

    digest = hashlib.sha256()
    with replacing(path) as file:
        for part in content:
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def load_model(path: str | Path) -> SuperResolver:
    """Read a file of ``save_model``; in evaluation mode, on the CPU. Errors as in ``read_weights``."""
    return read_weights(path, layout="rayscale").model


def read_weights(
    path: str | Path,
    *,
    name: str | None = None,
    scale: float | None = None,
    layout: Layout = "auto",
) -> LoadedWeights:
    """Read weights from a local file: the own format, or a state dict of another toolkit.

    Foreign files are ``.pt``, ``.pth`` or safetensors in the layout of EDSR-PyTorch (EDSR, MDSR), BasicSR or
    super-image. The last has the keys of the first, and is told from it by the names under which it is
    published (``pytorch_model_2x.pt``); otherwise give ``layout``. A file named by its hash as torch hub does
    (``edsr_x2-0edfb8a3.pt``) is verified.

    Args:
        path: the file.
        name: the system it has to be, or None for any. For foreign files it also gives the residual scaling,
            which shapes do not tell; without it, 256 filters mean 0.1.
        scale: a scale it has to serve, or None for any.
        layout: one of ``auto``, ``rayscale``, ``official``, ``basicsr``, ``super-image``.

    Raises:
        NotFoundError: no such file.
        WeightsError: damaged, truncated, not only tensors, not finite, of no known layout, or not in the signed list.
        ConfigError: it holds another system or scale than asked for.
    """
    path = Path(path)
    if layout not in get_args(Layout):
        raise ConfigError(f"there is no layout {layout!r}; use {', '.join(get_args(Layout))}")
    data = _read(path)
    digest = hashlib.sha256(data).hexdigest()
    _verify_name(path, digest)
    try:
        require_signed(digest)
        metadata, content = _parse(data)
        if SPEC_KEY in metadata and layout in ("auto", "rayscale"):
            found: str = "rayscale"
            spec, state = _own(metadata), _dequantise(content)
            if name is not None and name != spec.system:
                raise ConfigError(f"it holds {spec.system}, not {name}; ask for {spec.system}")
        elif layout == "rayscale":
            raise InputError("it was not written by rayscale; read it as foreign weights")
        else:
            spec, state, found = foreign.convert(
                content,
                file_name=path.name,
                name=name,
                layout=None if layout == "auto" else layout,
            )
            metadata = {}
        model = _assemble(spec, state)
        if scale is not None:
            model.resolve_scale(scale)
    except RayscaleError as error:
        kind = ConfigError if isinstance(error, ConfigError) else WeightsError
        raise kind(f"{path} (sha256 {digest[:16]}): {error}") from None
    extra = {key: value for key, value in metadata.items() if not key.startswith("rayscale.")}
    return LoadedWeights(model.eval(), digest, found, extra)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"there is no weight file {path}") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from None


def _verify_name(path: Path, digest: str) -> None:
    """Torch hub ends names with the first digits of the sha256; digits alone may be a date."""
    match = re.search(r"-([0-9a-f]{8,64})\.\w+$", path.name)
    if match and not match[1].isdecimal() and not digest.startswith(match[1]):
        raise WeightsError(
            f"{path} has the sha256 {digest}, but its name promises {match[1]}; the download is "
            "damaged, or rename the file if its name is a coincidence"
        )


def _parse(data: bytes) -> tuple[dict[str, str], Any]:
    """Metadata and content of a safetensors or PyTorch file; InputError when it is neither."""
    if data[8:9] == b"{":
        return _parse_safetensors(data)
    try:
        return {}, torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Not the message of torch, which recommends to allow what was just refused.
        refused = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        if refused:
            raise InputError(
                f"it holds Python objects ({refused[1]}), which could run code when loaded; "
                "save model.state_dict() instead"
            ) from None
        raise InputError("it is not a weight file, or it is damaged") from None
    except Exception as error:
        # A damaged pickle can fail with any exception at all.
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"it is truncated or damaged, or not a weight file ({reason})") from None


def _parse_safetensors(data: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"it is truncated or damaged ({error})") from None
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__", {}), tensors


def _own(metadata: Mapping[str, str]) -> ModelSpec:
    if metadata.get(FORMAT_KEY) != FORMAT:
        raise InputError(
            f"its format is {metadata.get(FORMAT_KEY)!r}, this version reads {FORMAT!r}; "
            "use the rayscale that wrote it"
        )
    try:
        return ModelSpec.from_json(metadata[SPEC_KEY])
    except ConfigError as error:
        raise InputError(str(error)) from None


def _assemble(spec: ModelSpec, state: dict[str, Tensor]) -> SuperResolver:
    """The network with these weights; memory is taken only once every key and shape fits."""
    try:
        with torch.device("meta"):
            model = build(spec)
    except RayscaleError as error:
        raise InputError(str(error)) from None
    try:
        require_same(model.state_dict(), state)
        model.load_state_dict(_check(state), assign=True)
    except ConfigError as error:
        raise InputError(str(error)) from None
    return model


def require_same(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """ConfigError that names missing and unexpected keys and different shapes."""
    wrong = [f"{key} is missing" for key in expected if key not in found]
    wrong += [f"{key} is unexpected" for key in found if key not in expected]
    wrong += [
        f"{key} has shape {tuple(found[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ConfigError(f"the weights do not fit: {'; '.join(wrong[:4])}{more}")


def _check(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dense finite float32 copies that share no memory; WeightsError names what is not."""
    checked: dict[str, Tensor] = {}
    for key, value in state.items():
        if not foreign.is_dense(value):
            raise WeightsError(f"{key} is {value.dtype}, {value.layout}; weights are dense floats")
        wide = value.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        # A finite sum has only finite terms, and needs no temporary of the size of the tensor.
        if not bool(torch.isfinite(wide.sum())) and not bool(torch.isfinite(wide).all()):
            raise WeightsError(f"{key} has values that are not finite; the training diverged")
        checked[key] = wide
    return checked


def _narrow(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Large tensors in ``dtype``; WeightsError where one has numbers beyond the range of that."""
    narrowed = dict(state)
    for key, value in state.items():
        if value.numel() >= _LARGE:
            narrowed[key] = value.to(dtype)
            if not bool(torch.isfinite(narrowed[key]).all()):
                raise WeightsError(
                    f"{key} has values up to {value.abs().max().item():g}, beyond {dtype}; store it as float32"
                )
    return narrowed


def _quantise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Large tensors as int8 with the step of each row (output channel) under ``KEY.step``."""
    quantised = dict(state)
    for key, value in state.items():
        if value.numel() >= _LARGE:
            step = value.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo().tiny) / 127
            quantised[key + _STEP] = step
            quantised[key] = (value / _per_row(step, value)).round().to(torch.int8)
    return quantised


def _dequantise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``_quantise``; InputError for integers whose steps do not fit."""
    values = {key: value for key, value in state.items() if not key.endswith(_STEP)}
    for key, value in values.items():
        if value.dtype == torch.int8:
            step = state.get(key + _STEP)
            if step is None or step.shape != value.shape[:1]:
                raise InputError(f"{key} has integers without the step of each of its rows")
            values[key] = value * _per_row(step, value)
    return values


def _per_row(step: Tensor, value: Tensor) -> Tensor:
    return step.view(-1, *[1] * (value.ndim - 1))
