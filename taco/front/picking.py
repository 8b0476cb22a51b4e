"""`--pick`: a point of a front as the options of a whole export, so that it is recovered fully, checked and bundled."""

from __future__ import annotations

import json
from pathlib import Path

from taco.errors import InputError
from taco.files import write_atomically
from taco.front.dominance import PICKABLE
from taco.front.schema import Front, FrontPoint
from taco.options import ExportOptions
from taco.wording import nearest


def picked(front: Front, asked: str) -> FrontPoint:
    """Return the point that a number or a name means.

    Raises:
        InputError: There is no such point, or it is not ours to bundle.
    """
    by_name = {point.name: point for point in front.points}
    if asked.isdecimal() and 1 <= int(asked) <= len(front.points):
        point = front.points[int(asked) - 1]
    elif asked in by_name:
        point = by_name[asked]
    else:
        raise InputError(f"--pick {asked}: the front has no such point. {nearest(asked, by_name)}", "Or give a number")
    if point.kind not in PICKABLE:
        can = ", ".join(name for name, other in by_name.items() if other.kind in PICKABLE)
        raise InputError(
            f"--pick {asked}: {point.name} is no model of ours, it is there to compare with", f"Pick {can}"
        )
    return point


def export_options(options: ExportOptions, point: FrontPoint, folder: Path) -> ExportOptions:
    """Return what to export for a point.

    Args:
        options: That the front was made with.
        point: From `picked`.
        folder: Of the front; the bundle becomes a folder of the point's name in it.

    Raises:
        TacoError: The widths cannot be written.
    """
    out = folder / point.name
    changes = {"out": out, "from_run": folder, "max_drop": None, "model": point.model, "macs": 1.0, "widths": None}
    changes["search"] = "dp"
    if point.model != options.model:
        changes["weights"] = None
    changes["input_size"] = None if point.pictures is None else min(map(int, point.pictures.split("x")))
    if point.widths is not None:
        file = folder / f"{point.name}.widths.json"
        write_atomically(file, (json.dumps(point.widths, indent=1) + "\n").encode())
        changes |= {"widths": file, "macs": None}
    return options.model_copy(update=changes)
