"""What a cell was made on, in words that its table repeats."""

from __future__ import annotations

import os
from importlib.metadata import version

from taco.device.probe import probe


def machine(beside: str = "") -> dict[str, str]:
    """Return processor, cores, what else computed, load and versions, for a cell's JSON."""
    found = probe()
    named = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "timm"))
    cores = f"{found.get('cores_physical')} cores"
    isa = " ".join(found.get("isa") or ())
    computing = ", ".join(part for part in (found.get("processor"), cores, isa, beside) if part)
    return {"machine": f"{computing}; {named}", "load": f"{os.getloadavg()[0]:.1f}"}
