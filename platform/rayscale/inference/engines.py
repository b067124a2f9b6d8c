"""Libraries that compute the layers of a network in place of PyTorch: OpenVINO and ONNX Runtime, both on the CPU.

Each is an extra, imported when it is asked for. An engine takes tiles of any size and number, and travels to other processes by
its layers. Threads are those that torch has when the engine is made, or made again.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rayscale import extras
from rayscale.interruption import keep_signal_stack

_SIDE = 32  # of the image on which a network is traced


class Engine(Protocol):
    """Computes a core (``SuperResolver.core``)."""

    name: str

    def __call__(self, x: Tensor) -> Tensor:
        """``(N, C, h, w)`` to ``(N, C, H, W)``, both float32 on the CPU; narrower inside under autocast, where it can be."""


class OpenVino:
    """OpenVINO: float32, or bfloat16 under autocast."""

    name = "openvino"

    def __init__(self, model: Any) -> None:
        self._model = model
        self._threads = torch.get_num_threads()
        self._compiled: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._requests = threading.local()  # a request serves one caller at a time

    def __reduce__(self) -> Any:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "model.xml")
            openvino().serialize(self._model, str(path))
            return _read_openvino, (path.read_bytes(), path.with_suffix(".bin").read_bytes())

    def __call__(self, x: Tensor) -> Tensor:
        narrow = torch.is_autocast_enabled("cpu")
        request = self._request("bf16" if narrow else "f32")
        request.infer({0: x.float().contiguous().numpy()})
        return torch.from_numpy(request.get_output_tensor().data.copy())

    def _request(self, precision: str) -> Any:
        requests = self._requests.__dict__
        if precision not in requests:
            with self._lock, keep_signal_stack():
                if precision not in self._compiled:
                    self._compiled[precision] = openvino().compile_model(
                        self._model,
                        "CPU",
                        {
                            "INFERENCE_PRECISION_HINT": precision,
                            "INFERENCE_NUM_THREADS": self._threads,
                            "PERFORMANCE_HINT": "LATENCY",
                            # Workers beside this one would be pinned to the same cores.
                            "ENABLE_CPU_PINNING": False,
                        },
                    )
            requests[precision] = self._compiled[precision].create_infer_request()
        return requests[precision]


class OnnxRuntime:
    """ONNX Runtime on the CPU: always float32, or the integers of its file."""

    name = "onnxruntime"

    def __init__(self, network: bytes) -> None:
        runtime = extras.load("onnxruntime", "onnx")
        self._network = network
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(
            network, options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def __reduce__(self) -> Any:
        return OnnxRuntime, (self._network,)

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says beside its layers."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, x: Tensor) -> Tensor:
        (y,) = self._session.run(None, {self._input: x.float().contiguous().numpy()})
        return torch.from_numpy(y)


def openvino() -> Any:
    """The library, without the package that would report its use to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
    return extras.load("openvino", "openvino")


def _read_openvino(layers: bytes, numbers: bytes) -> OpenVino:
    return OpenVino(openvino().Core().read_model(layers, numbers))


def to_openvino(core: nn.Module, channels: int) -> Any:
    """A core as a model of OpenVINO, for any size and number of images."""
    library = openvino()
    shape = library.PartialShape([-1, channels, -1, -1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's tracer, about constants that are meant
        return library.convert_model(core.eval(), example_input=_example(channels), input=[shape])


def to_onnx(core: nn.Module, channels: int) -> bytes:
    """A core as ONNX with the input ``x`` and the output ``y``, for any size and number of images."""
    extras.load("onnx", "onnx")  # torch would notice its absence only at the end
    written = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            core.eval(),
            (_example(channels),),
            written,  # type: ignore[arg-type]  # which the tracer takes
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={name: {0: "n", 2: f"{name}_h", 3: f"{name}_w"} for name in ("x", "y")},
            dynamo=False,
        )
    return written.getvalue()


def _example(channels: int) -> Tensor:
    return torch.zeros(2, channels, _SIDE, _SIDE + 8)
