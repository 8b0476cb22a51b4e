"""A small model, its pictures, and databases of it: what the tests of databases share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from taco.database import LayerDatabase, Recipe, Source, choose_layers
from taco.executor import Executor
from taco.levels import Level
from taco.progress import PlainProgress

HALF, MOST, TWO_FOUR = Level("unstructured", 0.5), Level("unstructured", 0.9), Level("nm", "2:4")
LEVELS = (HALF, MOST, TWO_FOUR)
RECIPE = Recipe(LEVELS, "magnitude_refit", 0.01)


class Net(nn.Module):
    """First convolution, grouped and depthwise ones, a linear layer, a classifier."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv2d(8, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, stride=2, groups=2)
        self.mix = nn.Linear(16, 12)
        self.head = nn.Linear(12, 3)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.wide(self.deep(self.stem(x).relu()).relu()).relu())
        out: torch.Tensor = self.head(self.mix(x.mean((2, 3)).relu()).relu())
        return out


@dataclasses.dataclass
class Pictures:
    """Counts how often it was asked."""

    seed: int = 0
    asked: int = 0

    def __call__(self) -> Iterator[torch.Tensor]:
        self.asked += 1
        return iter(torch.randn(12, 3, 10, 10, generator=torch.Generator().manual_seed(self.seed)).split(5))


def net(seed: int = 0) -> nn.Module:
    return Net(seed).eval().requires_grad_(False)


def source(model: nn.Module | None = None, pictures: Pictures | None = None, **globs: tuple[str, ...]) -> Source:
    model, pictures = model or net(), pictures or Pictures()
    return Source(model, choose_layers(model, **globs), pictures, f"pictures {pictures.seed}", 12)


def make(
    folder: Path, given: Source | None = None, recipe: Recipe = RECIPE, executor: str = "local:1"
) -> LayerDatabase:
    return LayerDatabase.build(folder, given or source(), recipe, Executor.parse(executor), PlainProgress())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
