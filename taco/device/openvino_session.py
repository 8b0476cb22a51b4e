"""One model opened with OpenVINO: on the device that was asked, in the precision that was asked, both read back.

OpenVINO runs an fp32 model in bf16 by itself where the processor has it; the hint is therefore pinned: to what the
file itself names under `PRECISION_KEY`, else to f32.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Dict, List, Tuple

from taco.device.session import in_another_thread
from taco.device.wire import DeviceError

PRECISION = "f32"
#: Entry of a file's metadata that names the floats it is to be computed in, and OpenVINO's names for them.
PRECISION_KEY = "taco.precision"
HINTS: Dict[str, str] = {"bf16": "bf16", "fp16": "f16"}
#: What it calls eight-bit integers, and floats of less than 32 bits.
EIGHT_BITS = ("u8", "i8")
HALVES = ("f16", "bf16")
INPUT_TYPES: Dict[str, str] = {"f32": "float32", "u8": "uint8"}
#: Kinds of layers that do the arithmetic.
ARITHMETIC = ("Convolution", "FullyConnected", "MatMul")


class OvSession:
    """A model with one input, float32 or uint8 pixels, ready to run; the attributes are those of `OrtSession`.

    Args:
        path: The ONNX file, or an OpenVINO IR.
        threads: Threads of the CPU plug-in.
        provider: The one device that may be used: CPU, GPU, NPU. Never AUTO, which chooses by itself.
        flush_caller: See `OrtSession`.
        profile: Whether each layer is timed.

    Raises:
        DeviceError: The file, the runtime or the device is missing, the model cannot be opened, or OpenVINO would run
            it elsewhere, in a lower precision than asked, or not in the half precision that the file asks for.
    """

    runtime_name = "openvino"

    def __init__(
        self, path: str, threads: int, provider: str = "CPU", flush_caller: bool = False, profile: bool = False
    ) -> None:
        if not os.path.isfile(path):
            raise DeviceError(f"there is no model file {path!r}", "Copy the model to the device first.")
        runtime = import_openvino()
        self.runtime_version: str = runtime.get_version().split("-")[0]
        core = runtime.Core()
        _require_device(core, provider)

        def compile_it() -> Tuple[Any, str]:
            model = core.read_model(path)
            hint = _asked(model)
            return core.compile_model(model, provider, _options(threads, provider, hint, profile)), hint

        try:
            self._compiled, hint = compile_it() if flush_caller else in_another_thread(compile_it)
            self._request = self._compiled.create_infer_request()
        except RuntimeError as error:
            raise DeviceError(f"OpenVINO {self.runtime_version} cannot open {path!r}: {_last(error)}") from error
        self.providers: List[str] = [str(device) for device in self._compiled.get_property("EXECUTION_DEVICES")]
        if self.providers != [provider]:
            raise DeviceError(f"{provider} was asked for but OpenVINO would use {', '.join(self.providers)}")
        self.provider = provider
        self.input_name, self.input_shape, self.input_dtype = _only_input(self._compiled, path)
        self.output_name: str = self._compiled.output(0).get_any_name()
        self.layers = _layers(self._compiled)
        _require_precision(self.layers, provider, hint)

    def run(self, array: Any) -> Any:
        """Run the model once.

        Args:
            array: Of the input's type and shape.

        Returns:
            The first output, a numpy array of its own.

        Raises:
            DeviceError: The runtime refuses the array or fails.
        """
        try:
            self._request.infer({0: array})
        except RuntimeError as error:
            raise DeviceError(f"OpenVINO {self.runtime_version} cannot run the model: {_last(error)}") from error
        return self._request.get_output_tensor(0).data.copy()

    def profiled(self) -> Dict[str, float]:
        """Milliseconds of each layer of the last run; of a session opened with `profile`."""
        return {info.node_name: info.real_time.total_seconds() * 1e3 for info in self._request.profiling_info}

    def describe(self) -> Dict[str, Any]:
        """The options in use, read back from the runtime, and how many layers of each kind run in which precision."""
        read = ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS", "PERFORMANCE_HINT")
        known = {str(key) for key in self._compiled.get_property("SUPPORTED_PROPERTIES")}
        return {
            **{key.lower(): _word(self._compiled.get_property(key)) for key in read if key in known},
            "providers": self.providers,
            "input_name": self.input_name,
            "input_shape": list(self.input_shape),
            "input_dtype": self.input_dtype,
            "output_name": self.output_name,
            "realised": realised(self.layers),
        }


def import_openvino() -> Any:
    """Import OpenVINO.

    Raises:
        DeviceError: It is not installed for this interpreter.
    """
    try:
        import openvino
    except ImportError as error:
        raise DeviceError(
            f"OpenVINO cannot be imported by {sys.executable}: {error}",
            f"Install it: {sys.executable} -m pip install openvino",
        ) from error
    return openvino


def realised(layers: List[Dict[str, Any]]) -> Dict[str, int]:
    """Count the layers that do the arithmetic, as in `{"Convolution u8": 49}`."""
    counts: Dict[str, int] = {}
    for layer in layers:
        if layer["kind"] in ARITHMETIC:
            key = f"{layer['kind']} {layer['precision']}"
            counts[key] = counts.get(key, 0) + 1
    return counts


def _asked(model: Any) -> str:
    """The precision that a model's own metadata asks for, as OpenVINO names it."""
    key = ["framework", PRECISION_KEY]
    return HINTS.get(str(model.get_rt_info(key).value), PRECISION) if model.has_rt_info(key) else PRECISION


def _options(threads: int, provider: str, hint: str, profile: bool) -> Dict[str, Any]:
    options: Dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    options["PERF_COUNT"] = profile
    if provider == "CPU":
        # Tiny weights left by training otherwise cost up to 10x on a CPU.
        options.update({"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "CPU_DENORMALS_OPTIMIZATION": True})
    return options


def _require_device(core: Any, provider: str) -> None:
    available = [str(device) for device in core.available_devices]
    if provider not in available:
        raise DeviceError(
            f"this OpenVINO has no {provider}; it has {', '.join(available) or 'no device'}",
            "Ask for one of those, or install the driver of the other.",
        )


def _require_precision(layers: List[Dict[str, Any]], provider: str, hint: str) -> None:
    lower = [layer["name"] for layer in layers if layer["precision"] in HALVES and layer["precision"] != hint]
    if lower:
        raise DeviceError(f"OpenVINO would run {len(lower)} layers on {provider} in half precision, {lower[0]!r} first")
    sums = [layer["precision"] for layer in layers if layer["kind"] in ARITHMETIC]
    if hint in HALVES and sums and hint not in sums:
        raise DeviceError(
            f"the model asks for {hint}, which this {provider} does not compute in: OpenVINO would take {sums[0]}",
            "Aim at a target in fp32 or INT8, or use a processor that has it.",
        )


def _layers(compiled: Any) -> List[Dict[str, Any]]:
    """What is really executed: name, kind, precision, and the ONNX nodes that each layer stands for."""
    found = []
    for operator in compiled.get_runtime_model().get_ops():
        info = operator.get_rt_info()
        kind, precision = _told(info, "layerType"), _told(info, "runtimePrecision")
        if kind not in ("Const", "Input", "Output"):
            nodes = [name for name in _told(info, "originalLayersNames").split(",") if name]
            found.append({"name": operator.get_friendly_name(), "kind": kind, "precision": precision, "nodes": nodes})
    return found


def _told(info: Any, key: str) -> str:
    value = info[key] if key in info else ""  # noqa: SIM401 - it is no dictionary
    return str(value.astype(str) if hasattr(value, "astype") else value)


def _only_input(compiled: Any, path: str) -> Tuple[str, Tuple[Any, ...], str]:
    inputs = compiled.inputs
    if len(inputs) != 1 or inputs[0].get_element_type().get_type_name() not in INPUT_TYPES:
        kinds = ", ".join(f"{item.get_any_name()!r} {item.get_element_type().get_type_name()}" for item in inputs)
        raise DeviceError(f"{path!r} must have one float32 input, or one of uint8 pixels; it has {kinds or 'none'}")
    shape = tuple(None if size.is_dynamic else size.get_length() for size in inputs[0].get_partial_shape())
    return inputs[0].get_any_name(), shape, INPUT_TYPES[inputs[0].get_element_type().get_type_name()]


def _word(value: Any) -> Any:
    if isinstance(value, (int, float, str)):
        return value
    return value.get_type_name() if hasattr(value, "get_type_name") else str(value).rpartition(".")[2].rstrip(">")


def _last(error: Exception) -> str:
    """The last line of OpenVINO's message, which holds the reason; those above name its own sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
