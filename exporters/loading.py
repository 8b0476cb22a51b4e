"""Find an exporter by name: our own modules first, then entry points of other packages."""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from taco.errors import InputError
from taco.exporters.protocol import Exporter

OWN = ("ort", "trt")
GROUP = "taco.exporters"


def load_exporter(name: str) -> Exporter:
    """Return the exporter `name`.

    Raises:
        InputError: There is none of that name (the nearest is suggested), or another package's cannot be loaded.
    """
    if name in OWN:
        return cast(Exporter, importlib.import_module(f"taco.exporters.{name}").EXPORTER)
    foreign = {point.name: point for point in entry_points(group=GROUP)}
    if name in foreign:
        return _load(foreign[name])
    known = sorted({*OWN, *foreign})
    nearest = difflib.get_close_matches(name.lower(), known, n=1)
    suggestion = f"Did you mean {nearest[0]}? " if nearest else ""
    raise InputError(f"there is no exporter {name!r}", f"{suggestion}Exporters are: {', '.join(known)}")


def _load(point: EntryPoint) -> Exporter:
    try:
        exporter = point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"exporter {point.name!r} ({point.value}) cannot be loaded: {error}", "Repair it") from error
    lacking = [method for method in ("check", "export", "open") if not callable(getattr(exporter, method, None))]
    if lacking or isinstance(exporter, type):
        raise InputError(
            f"{point.value} is no exporter: {'it is a class' if not lacking else 'it lacks ' + ', '.join(lacking)}",
            "Let the entry point name the constant EXPORTER",
        )
    return cast(Exporter, exporter)
