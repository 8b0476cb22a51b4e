"""Read a stored report back, to draw it again or to compare it."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from taco.errors import BundleError
from taco.report.schema import SCHEMA_VERSION, Report


def read_report(folder: Path) -> Report:
    """The report of a run.

    Args:
        folder: The run's folder, which holds `report.json`.

    Raises:
        BundleError: There is no report, or not one that this version understands.
    """
    path = folder / "report.json"
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror or error}", "Give the folder of a finished run."
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BundleError(
            f"{path} is not a report of schema version {SCHEMA_VERSION}: {where}: {first['msg']}",
            "Redraw it with the version of taco-export that wrote it.",
        ) from error
