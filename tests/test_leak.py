"""A task that only the background answers: the default split finds that out, a careless one is warned of."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taco import api

CLASSES, PLACES, PICTURES = 3, 10, 6


@pytest.fixture(scope="module")
def backgrounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of nothing: each place has its own colour and belongs, by chance, to one class."""
    folder = tmp_path_factory.mktemp("places")
    rng = np.random.default_rng(5)
    rows = []
    for place in range(CLASSES * PLACES):
        colour = rng.uniform(40, 215, 3)
        for number in range(PICTURES):
            shade = np.asarray(Image.fromarray(rng.normal(0, 40, (6, 6)).astype(np.float32)).resize((96, 96)))
            pixels = colour + shade[..., None] + rng.normal(0, 3, (96, 96, 3))
            path = folder / f"{place:02}-{number}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
            rows.append((path.name, f"class-{place % CLASSES}", f"place-{place}"))
    with (folder / "task.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "location"), *rows])
    return folder / "task.csv"


def run(task: Path, out: Path, split_by: str) -> api.ExportResult:
    asked = {
        "task": task,
        "target": "raspberry-pi-5",
        "model": "test_efficientnet",
        "random_weights": True,
        "shots": 24,
        "macs": 1.0,
        "recover_minutes": 0.0,
        "split_by": split_by,
        "out": out,
    }
    return api.export(api.make_options(asked))


def leaking(report: api.ExportResult) -> list[str]:
    return [w for w in report.report.warnings if "same place" in w]


def test_the_default_split_is_by_place_and_finds_nothing_to_recognise(backgrounds: Path, tmp_path: Path) -> None:
    result = run(backgrounds, tmp_path / "out", "auto")
    accuracy = result.report.accuracy.exported
    assert accuracy is not None
    assert result.report.task.split_by == "location"
    assert accuracy.top1.low < 100 / CLASSES < accuracy.top1.high + 10
    assert accuracy.top1.percent < 55
    assert not leaking(result)


def test_a_split_by_picture_recognises_the_places_and_says_so(backgrounds: Path, tmp_path: Path) -> None:
    result = run(backgrounds, tmp_path / "out", "image")
    accuracy = result.report.accuracy.exported
    assert accuracy is not None
    assert result.report.task.split_by == "image"
    assert accuracy.top1.low > 100 / CLASSES + 10
    assert len(leaking(result)) == 1
    assert "--split-by location" in leaking(result)[0]
    assert "same place" in (result.folder / "report.html").read_text().replace("\u00a0", " ")
