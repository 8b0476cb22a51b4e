"""Name pictures on the device: the files themselves, decoded, cut and resized here, by the deployed model."""

from __future__ import annotations

import os
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from taco.device.naming import PICTURES, Namer, foreign, looker, open_model, why_foreign
from taco.device.wire import RequestError

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
    session = open_model(os.path.join(folder, request["model"]), request["threads"], request["provider"])
    look = looker(request["preprocessing"], request["crop_margin"])
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
    namer = Namer(bundle, threads)
    for path, unread in _pictures(sources):
        if unread:
            yield path, None, 0.0, unread
            continue
        shares, reason = namer.shares(path)
        if shares is None:
            yield path, None, 0.0, reason
            continue
        best = max(range(len(shares)), key=shares.__getitem__)
        yield path, namer.manifest["classes"][best], shares[best], ""


def _pictures(sources: Sequence[str]) -> Iterator[Tuple[str, str]]:
    """Yield paths, with why a file is not even opened, or nothing."""
    for source in sources:
        if not os.path.isdir(source):
            yield source, ""
            continue
        for folder, folders, names in os.walk(source):
            folders.sort()
            yield from ((os.path.join(folder, n), "") for n in sorted(names) if n.lower().endswith(PICTURES))
            yield from ((os.path.join(folder, n), why_foreign(n)) for n in sorted(foreign(names)))
