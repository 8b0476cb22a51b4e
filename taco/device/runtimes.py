"""Which inference runtimes are installed, found without importing them."""

from __future__ import annotations

import os
import re
import shutil
from importlib import metadata
from typing import Dict, Optional, Tuple

DISTRIBUTIONS: Dict[str, Tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
}
#: As targets name runtimes -> as `DISTRIBUTIONS` does.
RUNTIMES: Dict[str, str] = {"ort": "onnxruntime", "ov": "openvino", "trt": "tensorrt"}
TRTEXEC_FOLDERS = ("usr/src/tensorrt/bin", "usr/bin", "usr/local/bin")
TRTEXEC_PACKAGES = ("libnvinfer-bin", "libnvinfer10", "libnvinfer8")


def find_runtimes(root: str = "/") -> Dict[str, Dict[str, str]]:
    """Find the installed runtimes.

    Args:
        root: Where `usr` and `var` are; Python packages are always this interpreter's.

    Returns:
        `{runtime: {"version": ..., "path" or "package": ...}}`; a runtime that is not there has no entry.
    """
    found = {name: entry for name, entry in ((name, _distribution(name)) for name in DISTRIBUTIONS) if entry}
    trtexec = _trtexec(root)
    if trtexec:
        found["trtexec"] = trtexec
    return found


def version_of(runtime: str) -> str:
    """Version of a runtime of this interpreter, by the name that targets give it; `absent` where there is none."""
    found = _distribution(RUNTIMES[runtime])
    return "absent" if found is None else found["version"]


def _distribution(runtime: str) -> Optional[Dict[str, str]]:
    for package in DISTRIBUTIONS[runtime]:
        try:
            return {"version": metadata.version(package), "package": package}
        except metadata.PackageNotFoundError:
            continue
    return None


def _trtexec(root: str) -> Optional[Dict[str, str]]:
    places = [os.path.join(root, folder, "trtexec") for folder in TRTEXEC_FOLDERS]
    path = next((place for place in places if os.path.isfile(place)), None)
    if path is None and root == "/":
        path = shutil.which("trtexec")
    return None if path is None else {"version": _debian_version(root), "path": path}


def _debian_version(root: str) -> str:
    """TensorRT's version by the package list: JetPack installs it as Debian packages."""
    try:
        with open(os.path.join(root, "var/lib/dpkg/status"), encoding="utf-8", errors="replace") as stream:
            stanzas = stream.read().split("\n\n")
    except OSError:
        return "unknown"
    versions = dict(pair for pair in map(_name_and_version, stanzas) if pair)
    return next((versions[name] for name in TRTEXEC_PACKAGES if name in versions), "unknown")


def _name_and_version(stanza: str) -> Optional[Tuple[str, str]]:
    name = re.search(r"^Package: (.+)$", stanza, re.MULTILINE)
    version = re.search(r"^Version: (.+)$", stanza, re.MULTILINE)
    return (name.group(1), version.group(1)) if name and version else None
