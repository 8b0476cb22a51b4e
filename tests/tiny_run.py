"""The whole job at its smallest: what it is asked, and how a test goes on from the steps of a finished one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from taco import api
from taco.steps import recovering

#: What one ratio for all units cannot do.
_UNIT_BY_UNIT = {"max_bytes", "max_macs", "max_memory", "latency_table", "search"}


def options(task: Path, out: Path, **changes: Any) -> api.ExportOptions:
    """Ask for a tiny model on an absent Raspberry Pi, cut to 0.6 of its MACs unless another budget is given.

    All units get one ratio, which is quick to find, unless what is asked needs more. Nothing is solved or refitted once
    more in the model's order, which takes a fifth of such a run, unless that is asked.
    """
    values: dict[str, Any] = {
        "task": task,
        "target": "raspberry-pi-4",
        "model": "test_efficientnet",
        "random_weights": True,
        "shots": 5,
        "recover_minutes": 0.0,
        "sequential": False,
        "out": out,
    }
    if not {"speedup", "macs", "sparsity", "latency_ms", "max_drop", "widths"} & changes.keys():
        values["macs"] = 0.6
    if not _UNIT_BY_UNIT & changes.keys():
        values["allocation"] = "uniform"
    return api.make_options({**values, **changes})


def steps_of(run: api.ExportResult, out: Path) -> Path:
    """Make a folder that holds the steps of a finished run and no measurement."""
    shutil.copytree(run.folder / ".taco" / "steps", out / ".taco" / "steps")
    return out


def train_by_no_clock(patch: pytest.MonkeyPatch) -> None:
    """Train twelve steps in float32: how many fit, and whether bfloat16 is faster, is measured once in a run.

    Two runs that were begun apart may measure differently, and then end differently.
    """
    patch.setattr(recovering, "steps_for", lambda *_: 12)
    patch.setattr(recovering, "is_faster", lambda *_: False)
