"""Open a model with the runtime that its provider belongs to: ONNX Runtime's providers, or OpenVINO's devices."""

from __future__ import annotations

from typing import Union

from taco.device.openvino_session import OvSession
from taco.device.session import OrtSession
from taco.device.wire import DeviceError

#: Never AUTO, which chooses by itself.
OPENVINO_DEVICES = ("CPU", "GPU", "NPU")

Session = Union[OrtSession, OvSession]


def open_session(path: str, threads: int, provider: str, flush_caller: bool = False) -> Session:
    """Open a model on exactly one provider.

    Args:
        path: The model file.
        threads: Threads inside one operator.
        provider: An execution provider of ONNX Runtime, such as CPUExecutionProvider, or a device of OpenVINO: CPU,
            GPU or NPU.
        flush_caller: See `OrtSession`.

    Raises:
        DeviceError: The provider is neither, or what the sessions raise.
    """
    if provider.endswith("ExecutionProvider"):
        return OrtSession(path, threads, provider, flush_caller)
    if provider in OPENVINO_DEVICES:
        return OvSession(path, threads, provider, flush_caller)
    raise DeviceError(
        f"there is no provider {provider!r}",
        "Name one of ONNX Runtime, such as CPUExecutionProvider, or a device of OpenVINO: CPU, GPU, NPU.",
    )
