"""Find an exporter by name: our own modules first, then entry points of other packages."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import cast

from taco.errors import InputError
from taco.exporters.protocol import Exporter

OWN = ("ort", "trt")
GROUP = "taco.exporters"


def load_exporter(name: str) -> Exporter:
    """Return the exporter `name`.

    Raises:
        InputError: There is none of that name.
    """
    if name in OWN:
        return cast(Exporter, importlib.import_module(f"taco.exporters.{name}").EXPORTER)
    foreign = {point.name: point for point in entry_points(group=GROUP)}
    if name in foreign:
        return cast(Exporter, foreign[name].load())
    raise InputError(f"there is no exporter {name!r}", f"Exporters are: {', '.join(sorted({*OWN, *foreign}))}")
