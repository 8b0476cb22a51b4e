"""The picture of a database: a real PNG with something on it; what cannot be drawn is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_database import LEVELS, TWO_FOUR, make, source

from taco.allocation.curves import plot_losses
from taco.database import LayerDatabase, Recipe
from taco.errors import InputError


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> LayerDatabase:
    return make(tmp_path_factory.mktemp("curves") / "db", recipe=Recipe(LEVELS, "magnitude_refit", 0.01))


def test_curves_are_drawn_in_the_colours_of_the_layers(database: LayerDatabase, tmp_path: Path) -> None:
    plot_losses(database, tmp_path / "all.png")
    with Image.open(tmp_path / "all.png") as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    assert pixels.shape[0] > 500
    coloured = (pixels.max(2) - pixels.min(2)) > 60
    left = coloured[:, : int(0.7 * coloured.shape[1])]  # the bar that explains the colours is at the right
    assert left.sum() > 1000
    hues = {tuple(p // 64) for p in pixels[:, : left.shape[1]][left]}
    assert len(hues) >= 3, "layers differ in colour"


def test_equal_databases_give_equal_pictures(database: LayerDatabase, tmp_path: Path) -> None:
    plot_losses(database, tmp_path / "one.png")
    plot_losses(database, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_what_cannot_be_drawn_is_said(database: LayerDatabase, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--plot .*losses\.pdf is no PNG"):
        plot_losses(database, tmp_path / "losses.pdf")
    only = make(tmp_path / "db", source(include=("mix",)), Recipe((TWO_FOUR,), "magnitude", 0.01))
    with pytest.raises(InputError, match="no unstructured level to draw"):
        plot_losses(only, tmp_path / "losses.png")
