"""What a runtime's own tool makes of a dense fp32 model: the INT8 that a person would take instead.

ONNX Runtime: `quantize_static` with the arguments that an expert gives (per channel, unsigned activations, seven-bit
weights on x86 without VNNI). OpenVINO: NNCF's post-training quantisation with its own defaults, where it is installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import onnx

from taco.exporters.protocol import FloatArray
from taco.exporters.scheme import here
from taco.files import write_atomically

_INPUT = "input"


@dataclasses.dataclass(frozen=True, slots=True)
class Rival:
    """A tool.

    Attributes:
        key: Short, for names.
        tool: In words.
        runtime: What runs its file: ort or ov.
        provider: Of that runtime.
        make: fp32 file, preprocessed pictures (1, C, H, W) float32 each, and where to write.
    """

    key: str
    tool: str
    runtime: str
    provider: str
    make: Callable[[Path, Iterable[FloatArray], Path], None]


def rivals() -> tuple[list[Rival], list[str]]:
    """Return the tools that are here, and what is missing in words."""
    found = [Rival("ort-int8", "ONNX Runtime's own quantiser", "ort", "CPUExecutionProvider", ort_static)]
    missing = []
    if importlib.util.find_spec("openvino") is None:
        missing.append("OpenVINO is not installed: nothing of it is in this front")
    elif importlib.util.find_spec("nncf") is None:
        missing.append("NNCF is not installed: OpenVINO's own INT8 is not in this front")
    else:
        found.append(Rival("nncf-int8", "NNCF", "ov", "CPU", nncf_default))
    return found, missing


def ort_static(fp32: Path, pictures: Iterable[FloatArray], out: Path) -> None:
    """Quantise with ONNX Runtime's own tool."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(pictures)

        def get_next(self) -> dict[str, FloatArray] | None:
            picture = next(self._left, None)
            return None if picture is None else {_INPUT: picture}

    with quiet():
        quantize_static(
            str(fp32),
            str(out),
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=here() == "x86",
        )


def nncf_default(fp32: Path, pictures: Iterable[FloatArray], out: Path) -> None:
    """Quantise with NNCF, its own defaults."""
    import nncf

    inputs = [{_INPUT: picture} for picture in pictures]
    with quiet():
        quantised = nncf.quantize(onnx.load(fp32), nncf.Dataset(inputs), subset_size=len(inputs))
    write_atomically(out, quantised.SerializeToString())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep tools that log to the root logger or tell everything below warnings."""
    loggers = [logging.getLogger(), logging.getLogger("nncf")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
