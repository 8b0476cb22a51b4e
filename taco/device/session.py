"""One ONNX model opened with ONNX Runtime so that its time is repeatable, and never on another provider than asked."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Optional, Tuple, Type

import numpy as np

from taco.device.wire import DeviceError

DENORMAL_KEY = "session.set_denormal_as_zero"
FATAL_ONLY = 3
INPUT_TYPES: Dict[str, str] = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


class OrtSession:
    """A model with one input, float32 or uint8 pixels, ready to run.

    Args:
        path: The ONNX file.
        threads: Threads inside one operator, the caller's own included.
        provider: The one execution provider that may be used.
        flush_caller: Whether the calling thread may be switched to flushing denormal numbers for good, as the runtime's
            own threads are. Only for a process that does nothing else: its numpy and torch would flush them too.
        optimise: Whether the graph is optimised. Without, Q and DQ are run as what they say, in floats: what the file
            means, whatever this processor has for INT8.
        profile_prefix: Where a profile of every operator is written at `end_profiling`; None times none.

    Attributes:
        provider: The provider in use, read back from the runtime.
        providers: Every provider the runtime holds ready, in its order.
        runtime_name: Always onnxruntime.
        runtime_version: Version of ONNX Runtime.
        input_name: Name of the input.
        input_shape: Its shape; None where a dimension is free.
        input_dtype: Its numpy type name.
        output_name: Name of the first output.

    Raises:
        DeviceError: The file, the runtime or the provider is missing, or the model cannot be opened.
    """

    runtime_name = "onnxruntime"

    def __init__(
        self,
        path: str,
        threads: int,
        provider: str = "CPUExecutionProvider",
        flush_caller: bool = False,
        optimise: bool = True,
        profile_prefix: Optional[str] = None,
    ) -> None:
        if not os.path.isfile(path):
            raise DeviceError(f"there is no model file {path!r}", "Copy the model to the device first.")
        runtime = import_runtime()
        _require_provider(runtime, provider)
        self.runtime_version: str = runtime.__version__
        self._errors = runtime_errors(runtime)
        options = _options(runtime, threads)
        if not optimise:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        self._session = self._open(runtime, path, options, provider, flush_caller)
        self.providers: List[str] = list(self._session.get_providers())
        self.provider = _first_provider(self.providers, provider)
        self.input_name, self.input_shape, self.input_dtype = _only_input(self._session, path)
        self.output_name: str = self._session.get_outputs()[0].name

    def _open(self, runtime: Any, path: str, options: Any, provider: str, flush_caller: bool) -> Any:
        def construct() -> Any:
            return runtime.InferenceSession(path, sess_options=options, providers=[provider])

        try:
            session = construct() if flush_caller else in_another_thread(construct)
        except self._errors as error:
            raise DeviceError(f"ONNX Runtime {self.runtime_version} cannot open {path!r}: {error}") from error
        # Otherwise a failing accelerator is replaced by the CPU in the middle of a measurement.
        session.disable_fallback()
        return session

    def run(self, array: Any) -> Any:
        """Run the model once.

        Args:
            array: Of the input's type and shape.

        Returns:
            The first output, a numpy array.

        Raises:
            DeviceError: The runtime refuses the array or fails.
        """
        try:
            return self._session.run([self.output_name], {self.input_name: array})[0]
        except self._errors as error:
            raise DeviceError(f"ONNX Runtime {self.runtime_version} cannot run the model: {error}") from error

    def end_profiling(self) -> str:
        """Return the JSON file of what was profiled."""
        return str(self._session.end_profiling())

    def describe(self) -> Dict[str, Any]:
        """The options in use, read back from the runtime."""
        options = self._session.get_session_options()
        return {
            "intra_op_num_threads": options.intra_op_num_threads,
            "inter_op_num_threads": options.inter_op_num_threads,
            "execution_mode": _enum_name(options.execution_mode),
            "graph_optimization_level": _enum_name(options.graph_optimization_level),
            DENORMAL_KEY: options.get_session_config_entry(DENORMAL_KEY),
            "providers": self.providers,
            "input_name": self.input_name,
            "input_shape": list(self.input_shape),
            "input_dtype": self.input_dtype,
            "output_name": self.output_name,
        }


def fixed_input(session: Any, seed: int) -> Any:
    """The one input that a timing uses: seeded normal noise, or random pixels.

    Args:
        session: An `OrtSession` or `OvSession`, whose input to fill; a free first dimension (the batch) becomes 1.
        seed: Seed of the noise.

    Returns:
        float32 array of the input's shape, or uint8 where the model takes pixels.

    Raises:
        DeviceError: A dimension other than the first is free.
    """
    shape = list(session.input_shape)
    if shape and shape[0] is None:
        shape[0] = 1
    if None in shape:
        raise DeviceError(
            f"input {session.input_name!r} has free dimensions beyond the batch: {session.input_shape}",
            "Export the model with a fixed picture size.",
        )
    random = np.random.RandomState(seed)
    if session.input_dtype == "uint8":
        return random.randint(0, 256, shape).astype(np.uint8)
    return random.standard_normal(shape).astype(np.float32)


def import_runtime() -> Any:
    """Import ONNX Runtime.

    Raises:
        DeviceError: It is not installed for this interpreter.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"ONNX Runtime cannot be imported by {sys.executable}: {error}",
            f"Install it: {sys.executable} -m pip install onnxruntime",
        ) from error
    return onnxruntime


def runtime_errors(runtime: Any) -> Tuple[Type[Exception], ...]:
    """Every exception type that ONNX Runtime raises: its own have no base of their own but `Exception`."""
    state = runtime.capi.onnxruntime_pybind11_state
    own = [item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception)]
    return (RuntimeError, ValueError, *own)


def _options(runtime: Any, threads: int) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = FATAL_ONLY
    # Tiny weights left by training otherwise cost up to 10x on a CPU.
    options.add_session_config_entry(DENORMAL_KEY, "1")
    return options


def in_another_thread(construct: Callable[[], Any]) -> Any:
    """Call in a thread of its own.

    A runtime switches the thread that opens a session to flushing denormal numbers, and never back.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(construct).result()


def _require_provider(runtime: Any, provider: str) -> None:
    available = list(runtime.get_available_providers())
    if provider not in available:
        raise DeviceError(
            f"this ONNX Runtime {runtime.__version__} has no {provider}; it has {', '.join(available)}",
            "Ask for one of those, or install a build of ONNX Runtime that has it.",
        )


def _first_provider(providers: List[str], asked: str) -> str:
    if not providers or providers[0] != asked:
        raise DeviceError(
            f"{asked} was asked for but ONNX Runtime would use {', '.join(providers) or 'nothing'}",
            "Install what that provider needs, or ask for the one that is there.",
        )
    return providers[0]


def _only_input(session: Any, path: str) -> Tuple[str, Tuple[Any, ...], str]:
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in INPUT_TYPES:
        found = ", ".join(f"{item.name!r} {item.type}" for item in inputs) or "none"
        raise DeviceError(f"{path!r} must have one float32 input, or one of uint8 pixels; it has {found}")
    shape = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)
    return inputs[0].name, shape, INPUT_TYPES[inputs[0].type]


def _enum_name(value: Any) -> str:
    return str(value).rpartition(".")[2]
