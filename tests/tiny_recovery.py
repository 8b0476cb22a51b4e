"""What recovery needs at its smallest: a drawn task at 32 pixels, a tiny specialist, and a progress that remembers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from taco.device.images import Preprocessing
from taco.material import Material, divide, find_pictures
from taco.options import make_options
from taco.pictures.bank import BankOptions, PictureBank
from taco.progress import PlainProgress
from taco.recovery.trainer import RecoveryOptions
from taco.rundir import RunDir
from taco.steps.recovering import Recovery
from taco.steps.stored import Store

SIZE = Preprocessing((3, 32, 32), "bicubic", (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), 0.9, "center")


def make_material(site: Path) -> Material:
    options = make_options({"task": site, "target": "host-cpu", "out": "unused", "shots": 4})
    listings = find_pictures(options)
    return divide(listings, PictureBank.read(listings.views, SIZE, BankOptions(jobs=1)), options)


def make_specialist() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("test_efficientnet", num_classes=3)
    return model.eval().requires_grad_(False)


class Heard(PlainProgress):
    """Remembers the steps that were begun."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []

    def step(self, name: str, total: int | None = None) -> Any:
        self.begun.append(name)
        return super().step(name, total)


def recovery(folder: Path, specialist: nn.Module, material: Material, **changes: Any) -> Recovery:
    fields: dict[str, Any] = {
        "specialist": specialist,
        "material": material,
        "minutes": 0.1,
        "options": RecoveryOptions(3e-4, batch=8, checks=4, patience=4),
        "depends_on": {"head": "of this test"},
        "store": Store(RunDir(folder)),
        "progress": Heard(),
    }
    return Recovery(**{**fields, **changes})


def begun(one: Recovery) -> list[str]:
    assert isinstance(one.progress, Heard)
    return one.progress.begun
