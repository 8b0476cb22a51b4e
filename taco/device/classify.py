"""Name pictures on the device: the files themselves, decoded, cut and resized here, by the deployed model."""

from __future__ import annotations

import json
import math
import os
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from taco.device.wire import DeviceError, RequestError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
_KEYS = ("model", "provider", "threads", "preprocessing", "crop_margin", "pictures")


def classify(request: Any, folder: str = ".") -> Dict[str, Any]:
    """Ask a model about pictures.

    Args:
        request: `model` (file), `provider`, `threads`, `preprocessing` (timm's data configuration), `crop_margin` (or
            None), and `pictures`: each `{"file", "box"}`, the box (left, top, width, height) in fractions or None.
        folder: Relative paths start here.

    Returns:
        `logits` of each picture, None where it cannot be read; `failures` by number; the provider and runtime used.

    Raises:
        RequestError: A key is missing.
        DeviceError: The runtime or the provider is missing, or the model cannot be run.
    """
    if not isinstance(request, dict) or [key for key in _KEYS if key not in request]:
        raise RequestError(f"a request to classify needs {', '.join(_KEYS)}")
    session = _open(os.path.join(folder, request["model"]), request["threads"], request["provider"])
    look = _looker(request["preprocessing"], request["crop_margin"])
    logits: List[Optional[List[float]]] = []
    failures: Dict[str, str] = {}
    for number, picture in enumerate(request["pictures"]):
        tensor, reason = look(os.path.join(folder, picture["file"]), picture.get("box"))
        if tensor is None:
            failures[str(number)] = reason
            logits.append(None)
        else:
            logits.append([float(value) for value in session.run(tensor)[0]])
    return {
        "logits": logits,
        "failures": failures,
        "provider": session.provider,
        "runtime": {"name": session.runtime_name, "version": session.runtime_version},
    }


def predict(bundle: str, sources: Sequence[str], threads: int) -> Iterator[Tuple[str, Optional[str], float, str]]:
    """Name pictures with a deployed bundle.

    Args:
        bundle: Its folder.
        sources: Pictures, and folders that are searched in depth.
        threads: Threads of the model.

    Yields:
        Path, class (None where it cannot be read), probability, reason of a failure.

    Raises:
        RequestError: The bundle cannot be read.
        DeviceError: As `classify`.
    """
    manifest, preprocessing = (_json(os.path.join(bundle, n)) for n in ("manifest.json", "preprocessing.json"))
    provider = (manifest.get("provider") or "CPU") if manifest["runtime"] == "ov" else "CPUExecutionProvider"
    session = _open(os.path.join(bundle, manifest["model_file"]), threads, provider)
    look = _looker(preprocessing, None)
    for path in _pictures(sources):
        tensor, reason = look(path, None)
        if tensor is None:
            yield path, None, 0.0, reason
            continue
        shares = _softmax([float(value) for value in session.run(tensor)[0]])
        best = max(range(len(shares)), key=shares.__getitem__)
        yield path, manifest["classes"][best], shares[best], ""


Look = Callable[[str, Optional[Sequence[float]]], Tuple[Any, str]]


def _looker(values: Mapping[str, Any], margin: Optional[float]) -> Look:
    """Make what turns a file into the model's input, or says why it cannot."""
    try:
        from taco.device.images import Preprocessing, UnreadableImage, crop_box, read_rgb, resize_crop, to_tensor
    except ImportError as error:
        raise DeviceError(
            f"pictures cannot be read on this device: {error}", "Install it: python3 -m pip install numpy pillow"
        ) from error
    try:
        preprocessing = Preprocessing.from_dict(values)
    except (ValueError, TypeError) as error:
        raise RequestError(f"the preprocessing cannot be used: {error}") from error

    def look(path: str, box: Optional[Sequence[float]]) -> Tuple[Any, str]:
        try:
            image = read_rgb(path)
            if box is not None:
                image = crop_box(image, box, margin or 0.0)
            return to_tensor(resize_crop(image, preprocessing), preprocessing), ""
        except UnreadableImage as error:
            return None, error.reason

    return look


def _open(model: str, threads: Optional[int], provider: str) -> Any:
    try:
        from taco.device.opening import open_session
    except ImportError as error:
        raise DeviceError(f"numpy cannot be imported on this device: {error}", "Install numpy") from error
    from taco.device.probe import physical_cores

    return open_session(model, threads or physical_cores(), provider)


def _pictures(sources: Sequence[str]) -> Iterator[str]:
    for source in sources:
        if not os.path.isdir(source):
            yield source
            continue
        for folder, folders, names in os.walk(source):
            folders.sort()
            yield from (os.path.join(folder, n) for n in sorted(names) if n.lower().endswith(PICTURES))


def _softmax(logits: List[float]) -> List[float]:
    top = max(logits)
    shares = [math.exp(value - top) for value in logits]
    return [share / sum(shares) for share in shares]


def _json(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path!r} is not that of a bundle: {error}") from error
    if not isinstance(found, dict):
        raise RequestError(f"{path!r} is not that of a bundle")
    return found
