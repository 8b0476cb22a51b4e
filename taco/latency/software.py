"""What of this installation decides how a model is written for a runtime, and with that what a latency table timed."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from importlib import metadata

#: They build models and find their units.
_PACKAGES = ("timm", "torch", "torch-pruning")
_LENGTH = 16


def software_digest() -> str:
    """Return a short hash of the packages that build models, and of the sources of our exporters."""
    files = [file for file in importlib.resources.files("taco.exporters").iterdir() if file.name.endswith(".py")]
    sources = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    facts = json.dumps([{p: _version(p) for p in _PACKAGES}, sources], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:_LENGTH]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
