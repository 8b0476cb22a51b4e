"""Find an exporter by name: our own modules first, then entry points of other packages."""

from __future__ import annotations

from typing import cast

from taco.exporters.protocol import Exporter
from taco.plugins import Family

OWN = ("ort", "ov", "trt")
GROUP = "taco.exporters"


def load_exporter(name: str) -> Exporter:
    """Return the exporter `name`.

    Raises:
        InputError: There is none of that name (the nearest is suggested), or another package's cannot be loaded.
    """
    return cast(Exporter, _FAMILY.load(name))


def _fault(found: object) -> str:
    lacking = [method for method in ("check", "export", "open") if not callable(getattr(found, method, None))]
    if lacking:
        return "it lacks " + ", ".join(lacking)
    return "it is a class" if isinstance(found, type) else ""


_FAMILY = Family("exporter", GROUP, OWN, "EXPORTER", _fault)
