"""Check a bundle wherever it lies: every hash, the schema, the model file, and its answers on the parity inputs.

No torch: a bundle is checked on the machine that runs it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from taco.bundle import Bundle, check_file
from taco.device.opening import open_session
from taco.device.wire import DeviceError
from taco.errors import BundleError, MeasurementError
from taco.metrics.gates import LEAST_COSINE, Gate, agreement, agreement_gate, parity_gate
from taco.metrics.parity import compare
from taco.model_file import check_model

PARITY_FILE = "parity.safetensors"
_LARGEST_PARITY_BYTES = 256 * 1024**2
Floats = npt.NDArray[np.float32]


def open_bundle(path: Path) -> Bundle:
    """Open a bundle whose model may be given to a runtime.

    Raises:
        BundleError: It is missing, damaged, from a newer version, or its model is refused.
    """
    bundle = Bundle(path)
    check_model(bundle.model_path, bundle.preprocessing.input_size, len(bundle.manifest.classes))
    return bundle


def verify(path: Path, threads: int | None = None) -> list[Gate]:
    """Check a bundle and run its parity inputs.

    Args:
        path: Its folder.
        threads: Threads of the model; None is every core.

    Returns:
        What was checked; a failed gate has `passed` False.

    Raises:
        BundleError: It is missing, damaged, from a newer version, or its model is refused.
        MeasurementError: Its runtime is not installed here, or cannot run it.
    """
    bundle = open_bundle(path)
    for name in bundle.manifest.files:
        check_file(path, name, bundle.manifest)
    count = len(bundle.manifest.files)
    gates = [
        Gate("files", True, f"{count} files have the hashes of the manifest", "all"),
        Gate("model file", True, "whole, self-contained, one picture in, logits out", "onnx.checker with full_check"),
    ]
    forced = bundle.manifest.forced
    if forced:
        gates.append(Gate("gates of the export", False, f"overruled by --force: {', '.join(forced)}", "none"))
    return [*gates, _parity(bundle, threads or os.cpu_count() or 1)]


def _parity(bundle: Bundle, threads: int) -> Gate:
    inputs, expected = parity_inputs(bundle)
    try:
        session = open_session(str(bundle.model_path), threads, bundle.provider)
        got: Floats = np.concatenate([session.run(inputs[i : i + 1]) for i in range(len(inputs))])
    except DeviceError as error:
        raise MeasurementError(error.what, error.todo) from error
    if got.shape != expected.shape or not np.isfinite(got).all():
        return Gate("parity inputs", False, f"logits of shape {got.shape}, or no finite ones", str(expected.shape))
    if bundle.manifest.precision in LEAST_COSINE:
        return agreement_gate(agreement(expected, got), bundle.manifest.precision)
    return parity_gate(compare(expected, got))


def parity_inputs(bundle: Bundle) -> tuple[Floats, Floats]:
    """Return the bundle's parity inputs, (n, 3, H, W), and the logits expected for them, (n, classes).

    Raises:
        BundleError: They are missing, damaged, or do not fit the bundle.
    """
    check_file(bundle.path, PARITY_FILE, bundle.manifest)
    file = bundle.path / PARITY_FILE
    if file.stat().st_size > _LARGEST_PARITY_BYTES:
        raise BundleError(f"{file} is too large for parity inputs", "Export the bundle again")
    try:
        found = safetensors.numpy.load_file(file)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{file} cannot be used: {error}", "Export the bundle again") from error
    size, classes = bundle.preprocessing.input_size, len(bundle.manifest.classes)
    inputs, logits = found.get("input"), found.get("logits")
    if inputs is None or logits is None or inputs.dtype != np.float32 or logits.dtype != np.float32:
        raise BundleError(f"{file} holds no float32 input and logits", "Export the bundle again")
    if not len(inputs) or inputs.shape != (len(inputs), *size) or logits.shape != (len(inputs), classes):
        raise BundleError(f"{file} does not fit the bundle: {inputs.shape}, {logits.shape}", "Export the bundle again")
    if not np.isfinite(inputs).all() or not np.isfinite(logits).all():
        raise BundleError(f"{file} holds what is no finite number", "Export the bundle again")
    return inputs, logits
