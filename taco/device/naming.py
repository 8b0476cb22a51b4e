"""A deployed bundle, opened on the device: what it says of itself, and how likely each class is in a picture."""

from __future__ import annotations

import json
import math
import os
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from taco.device.wire import DeviceError, RequestError

PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
#: Pictures that are not read. Names decide: of many a raw file a small preview would be taken for the picture.
FOREIGN = (
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx"),
    *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2"),
    *(".raf", ".rw2", ".orf", ".pef", ".srw", ".3fr", ".x3f"),
)
_NEEDED = ("task", "classes", "runtime", "model_file", "taco_version", "model")

#: From a file and a box (left, top, width, height in fractions; None is the whole frame) to the model's input, or to
#: None and why there is none.
Look = Callable[[str, Optional[Sequence[float]]], Tuple[Any, str]]


class Namer:
    """A bundle whose model is loaded.

    Args:
        folder: The bundle's folder.
        threads: Threads of the model; 0 is every physical core.

    Attributes:
        manifest: What `manifest.json` holds.
        provider: What runs the model, read back.

    Raises:
        RequestError: The bundle cannot be read.
        DeviceError: The runtime or the provider is missing, or the model cannot be opened.
    """

    def __init__(self, folder: str, threads: int = 0) -> None:
        self.manifest, preprocessing = (
            read_bundle_json(os.path.join(folder, n)) for n in ("manifest.json", "preprocessing.json")
        )
        lacks = [key for key in _NEEDED if key not in self.manifest]
        if lacks:
            raise RequestError(f"the manifest in {folder!r} lacks {', '.join(lacks)}", "Export the bundle again.")
        openvino = self.manifest["runtime"] == "ov"
        provider = (self.manifest.get("provider") or "CPU") if openvino else "CPUExecutionProvider"
        self._session = open_model(os.path.join(folder, self.manifest["model_file"]), threads, provider)
        self._look = looker(preprocessing, None)
        self.provider: str = self._session.provider

    def shares(self, path: str) -> Tuple[Optional[List[float]], str]:
        """Look at a whole picture.

        Args:
            path: The file.

        Returns:
            Softmax of every class, in the manifest's order, and ""; None and why where it cannot be read.

        Raises:
            DeviceError: The runtime fails.
        """
        tensor, reason = self._look(path, None)
        if tensor is None:
            return None, reason
        return softmax([float(value) for value in self._session.run(tensor)[0]]), ""

    def check(self) -> None:
        """Run the model once on noise.

        Raises:
            DeviceError: It fails, or its answer is not one finite number for each class.
        """
        from taco.device.session import fixed_input

        logits = [float(value) for value in self._session.run(fixed_input(self._session, 0))[0]]
        if len(logits) != len(self.manifest["classes"]) or not all(map(math.isfinite, logits)):
            raise DeviceError("the model does not answer with one finite number for each class on this device")


def open_model(model: str, threads: Optional[int], provider: str) -> Any:
    """Load a model.

    Args:
        model: Its file.
        threads: None or 0 is every physical core.
        provider: As `taco.device.opening.open_session`.

    Raises:
        DeviceError: The runtime or the provider is missing, or the model cannot be opened.
    """
    try:
        from taco.device.opening import open_session
    except ImportError as error:
        raise DeviceError(f"numpy cannot be imported on this device: {error}", "Install numpy") from error
    from taco.device.processors import physical_cores

    return open_session(model, threads or physical_cores(), provider)


def looker(values: Mapping[str, Any], margin: Optional[float]) -> Look:
    """Make what turns a file into the model's input, or says why it cannot.

    Args:
        values: timm's data configuration.
        margin: Of boxes, as a fraction of their longer side; None is none.

    Raises:
        RequestError: The configuration cannot be used.
        DeviceError: Pillow or numpy is missing.
    """
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


def foreign(names: Sequence[str]) -> List[str]:
    """Return the pictures that are not read, without hidden files and those beside a readable one of the same name.

    Args:
        names: Of the files in one folder; many cameras write each picture both raw and as JPEG.
    """
    found = [name for name in names if name.lower().endswith(FOREIGN) and not name.startswith(".")]
    beside = {os.path.splitext(name)[0] for name in names if name.lower().endswith(PICTURES)} if found else set()
    return [name for name in found if os.path.splitext(name)[0] not in beside]


def why_foreign(name: str) -> str:
    """Say why a picture is not read, and what to do."""
    return f"{os.path.splitext(name)[1].lower()} pictures are not read: convert it to JPEG"


def softmax(logits: Sequence[float]) -> List[float]:
    """Return exp(x) / sum exp(x)."""
    top = max(logits)
    shares = [math.exp(value - top) for value in logits]
    whole = sum(shares)
    return [share / whole for share in shares]


def read_bundle_json(path: str) -> Dict[str, Any]:
    """Read one of a bundle's own files.

    Raises:
        RequestError: It is none.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path!r} is not that of a bundle: {error}") from error
    if not isinstance(found, dict):
        raise RequestError(f"{path!r} is not that of a bundle")
    return found
