"""A task that only the background answers: the default split finds that out, a careless one is warned of."""

from __future__ import annotations

import colorsys
import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from taco import api
from taco.material import divide, find_pictures
from taco.model import Generalist, load_generalist
from taco.options import SplitBy
from taco.pictures.bank import BankOptions, PictureBank
from taco.specialist.specialise import make_head, predict_logits, specialise

CLASSES, PLACES, PICTURES = 3, 10, 6
SIDE = 96
CHANCE = 100 / CLASSES
#: Points that one drawn task may lie from chance: 18 places judge, and of eight tasks 11 to 55 % were right.
LUCK = 25
SEEDS, QUICK = (5, 6, 7), 6
MODEL = "test_resnet"  # with random weights, too, it tells the backgrounds from each other


def draw_backgrounds(folder: Path, seed: int) -> Path:
    """Pictures of nothing: each place has its own colour and grating and belongs, by chance, to one class."""
    rng = np.random.default_rng(seed)
    places = CLASSES * PLACES
    hues, gratings = rng.permutation(places), rng.permutation(places)
    rows = []
    for place in range(places):
        colour = np.array(colorsys.hsv_to_rgb(hues[place] / places, 0.9, 1.0))
        for number in range(PICTURES):
            path = folder / f"{place:02}-{number}.png"
            _draw(colour, int(gratings[place]), rng).save(path)
            rows.append((path.name, f"class-{place % CLASSES}", f"place-{place}"))
    with (folder / "task.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "location"), *rows])
    return folder / "task.csv"


def _draw(colour: np.ndarray, grating: int, rng: np.random.Generator) -> Image.Image:
    """One frame: the place's colour and grating in light and shade that no other frame has."""
    angle, frequency = np.pi * (grating % 6) / 6, 0.25 + 0.15 * (grating // 6)
    y, x = np.mgrid[:SIDE, :SIDE]
    wave = np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 2 * np.pi))[..., None]
    shade = np.asarray(Image.fromarray(rng.normal(0, 20, (6, 6)).astype(np.float32)).resize((SIDE, SIDE)))[..., None]
    pixels = (130 + shade) * (0.15 + 0.85 * colour) + 70 * wave * (1 - colour) + rng.normal(0, 3, (SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def options(task: Path, **changes: Any) -> api.ExportOptions:
    asked = {
        "task": task,
        "target": "raspberry-pi-4",
        "model": MODEL,
        "random_weights": True,
        "shots": 24,
        "macs": 1.0,
        "recover_minutes": 0.0,
        "out": task.parent / "out",
    }
    return api.make_options({**asked, **changes})


@dataclass(frozen=True)
class Leak:
    """What the dense specialist makes of the task under one split: percent right, by itself and as it is told of its
    head on shots that this has not seen, and what is warned of.
    """

    split_by: str
    percent: float
    told: float
    warnings: list[str]


def leaking(warnings: Iterable[str]) -> list[str]:
    return [warning for warning in warnings if "same place" in warning]


def judge(generalist: Generalist, bank: PictureBank, asked: api.ExportOptions) -> Leak:
    """The job up to the dense specialist."""
    material = divide(find_pictures(asked), bank, asked)
    head = make_head(generalist, material, asked)
    module = specialise(generalist, head).module.eval()
    answers = predict_logits(module, material.batches(material.judged)).argmax(1)
    labels = np.array([picture.label_index for picture in material.judged])
    right = 100 * float((answers == labels).mean())
    (told,) = [candidate.percent for candidate in head.candidates if candidate.chosen]
    return Leak(material.task.split_by, right, told, leaking(material.task.warnings))


@pytest.fixture(scope="module", params=[pytest.param(s, marks=[pytest.mark.slow] * (s != QUICK)) for s in SEEDS])
def leaks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Leak]:
    """The default split and the careless one, of one drawn task."""
    seed = request.param
    task = draw_backgrounds(tmp_path_factory.mktemp("places"), seed)
    generalist = load_generalist(MODEL, None, random_weights=True, seed=seed)
    views = find_pictures(options(task)).views
    bank = PictureBank.read(views, generalist.preprocessing, BankOptions())
    return {how: judge(generalist, bank, options(task, seed=seed, split_by=how)) for how in ("auto", "image")}


def test_the_default_split_is_by_place_and_finds_nothing_to_recognise(leaks: dict[str, Leak]) -> None:
    assert leaks["auto"].split_by == "location"
    assert abs(leaks["auto"].percent - CHANCE) < LUCK
    assert not leaks["auto"].warnings


def test_a_head_is_judged_on_places_that_it_has_not_seen(leaks: dict[str, Leak]) -> None:
    """Held out frame by frame, all of these heads named every shot right: they knew the next frame of its place."""
    assert leaks["auto"].told < 70 < leaks["image"].told


def test_a_split_by_picture_recognises_the_places_and_says_so(leaks: dict[str, Leak]) -> None:
    assert leaks["image"].split_by == "image"
    assert leaks["image"].percent > 80
    (warning,) = leaks["image"].warnings
    assert "--split-by location" in warning


@pytest.mark.slow
@pytest.mark.parametrize(("split_by", "taken"), [("auto", "location"), ("image", "image")])
def test_the_whole_job_reports_what_the_split_lets_through(split_by: SplitBy, taken: str, tmp_path: Path) -> None:
    task = draw_backgrounds(tmp_path, QUICK)
    result = api.export(options(task, seed=QUICK, split_by=split_by))
    accuracy = result.report.accuracy.exported
    assert accuracy is not None
    assert result.report.task.split_by == taken
    page = (result.folder / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    if split_by == "auto":
        assert abs(accuracy.top1.percent - CHANCE) < LUCK
        assert not leaking(result.report.warnings)
        assert "same place" not in page
    else:
        assert accuracy.top1.percent > 80
        (warning,) = leaking(result.report.warnings)
        assert "--split-by location" in warning
        assert "pictures of the same place" in page
